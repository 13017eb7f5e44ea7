"""Write the facts of passages to a file: question-answer pairs with their subjects, for editors."""

from __future__ import annotations

from plumbing.cli import command

if __name__ == "__main__":
    command("write_facts", "genpoe.commands.write_facts.write_facts", __doc__)
