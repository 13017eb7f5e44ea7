"""Ask about passages that say the opposite with the same words: is a method right about both?"""

from __future__ import annotations

from plumbing.cli import command

if __name__ == "__main__":
    command("twins", "qa.commands.twins.twins_command", __doc__)
