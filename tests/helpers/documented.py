"""The commands that the README and the documentation show, and how one is composed."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
RESULTS = sorted((DOCS / "results").glob("*.md"))
NOT_RUN = DOCS / "commands-not-run.md"

_BLOCK = re.compile(r"^( *)```(?:\w*)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`(python scripts/[^`]+)`")


@dataclass(frozen=True)
class Command:
    """A command as a page shows it.

    Attributes:
        page: Where it stands.
        words: Its words, without comments and without what is set in its environment.
    """

    page: Path
    words: tuple[str, ...]

    @property
    def script(self) -> str:
        """The name of its script, such as "evaluate"; empty for make."""
        return Path(self.words[1]).stem if self.words[0] == "python" else ""

    @property
    def overrides(self) -> list[str]:
        """What it changes of the settings; of a sweep, its first run."""
        words = [word for word in self.words[2:] if word != "-m"]
        return [word.partition(",")[0] for word in words] if "-m" in self.words else words

    def __str__(self) -> str:
        return f"{self.page.name}: {' '.join(self.words)}"


def commands(pages: list[Path]) -> list[Command]:
    """Every command of these pages once, in their order."""
    found = (command for page in pages if page != NOT_RUN for command in _of_page(page))
    return list({command.words: command for command in found}.values())


def not_run() -> list[str]:
    """What the list of commands that no test runs names, a row each."""
    return re.findall(r"^\| `([^`]+)` \| \S.*\. \|$", NOT_RUN.read_text("utf-8"), re.MULTILINE)


def is_listed(command: Command, entry: str) -> bool:
    """Whether an entry of that list stands for this command: its words occur one after another."""
    words, wanted = list(command.words), entry.split()
    return any(words[at : at + len(wanted)] == wanted for at in range(len(words)))


def _of_page(page: Path) -> Iterator[Command]:
    text = page.read_text("utf-8")
    blocks = [body for _, body in _BLOCK.findall(text)]
    for line in "\n".join([*blocks, *_INLINE.findall(text)]).replace("\\\n", " ").splitlines():
        if not re.search(r"\bmake \w|\bpython scripts/", line):
            continue
        words = shlex.split(line, comments=True)
        while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
            del words[0]  # set in the command's environment
        if words and (words[0] == "make" or words[:1] == ["python"]):
            yield Command(page, tuple(words))
