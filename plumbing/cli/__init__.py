"""The command line's door: composing, help, and errors that the user can mend.

* `plumbing.cli.entry`: what each script calls; `plumbing.cli.help`: the page of ``--help``.
* `plumbing.cli.closing`: how every command ends.
* `plumbing.cli.keys`: what is wrong with the settings that were given.
* `plumbing.cli.values`: settings and their values as one types them.
* `plumbing.cli.renamed`: keys of the last release and their names in this one.

Nothing here imports torch, or anything else that takes longer than a moment.
"""

from __future__ import annotations

from plumbing.cli.closing import next_command, say_written, type_script, type_shell
from plumbing.cli.entry import check_complete, command, one_line, run, tool
from plumbing.cli.values import as_folder, shown

__all__ = [
    "as_folder",
    "check_complete",
    "command",
    "next_command",
    "one_line",
    "run",
    "say_written",
    "shown",
    "tool",
    "type_script",
    "type_shell",
]
