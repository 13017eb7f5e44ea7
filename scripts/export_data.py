"""Write a data set as a folder of JSON lines, its passages and its questions."""

from __future__ import annotations

from plumbing.cli import command

if __name__ == "__main__":
    command("export_data", "qa.commands.export_data.export_data", __doc__)
