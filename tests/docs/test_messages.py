"""The error messages of docs/troubleshooting.md are those that the packages raise."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from tests.helpers.documented import DOCS, ROOT

PACKAGES = ("plumbing", "backbone", "retrieval", "qa", "genpoe", "dmoe", "live", "benchmarks")
OTHERS = (
    "make: needs Python",  # of the Makefile
)
PAGE = (DOCS / "troubleshooting.md").read_text("utf-8")
MESSAGES = re.findall(r"^> `([^`]+)`$", PAGE, re.MULTILINE)
_SHORTEST = 6  # letters of a piece that says something
_FEWEST = 16  # letters of all pieces of a message together; "must be" would be found anywhere


def letters(*parts: str) -> int:
    """How many letters, digits and underscores some texts have."""
    return sum(len(re.sub(r"\W", "", part)) for part in parts)


def pieces(message: str) -> list[str]:
    """What a message says in all cases: its parts between one … and the next."""
    parts = [" ".join(part.split()) for part in message.split("…")]
    return [part for part in parts if letters(part) >= _SHORTEST]


def text_of(node: ast.AST) -> str | None:
    """The text that an expression writes, with … where something is filled in."""
    if isinstance(node, ast.JoinedStr):
        return "".join(
            str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values
        )
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    return None


def setting_error(call: ast.Call) -> str | None:
    """The message of a `SettingValueError`, whose arguments are a name, a problem and a remedy."""
    problem, *remedy = [text_of(argument) for argument in call.args[1:]] or [None]
    if problem is None or None in remedy or len(remedy) > 1:
        return None
    return f"{problem}; {(remedy or ['set {}'])[0]}".replace("{}", "…")


def written() -> Iterator[str]:
    """Every text of the packages, with … where something is filled in."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                text = setting_error(node) if isinstance(node, ast.Call) else text_of(node)
                if text is not None:
                    yield text


TEXTS = [" ".join(text.split()) for text in written()]


def test_the_page_has_messages() -> None:
    assert len(MESSAGES) > 30


@pytest.mark.parametrize("message", MESSAGES)
def test_a_message_is_raised_somewhere(message: str) -> None:
    if message.startswith(OTHERS):
        return
    wanted = pieces(message)
    pattern = re.compile(".*".join(map(re.escape, wanted)), re.DOTALL)
    if letters(*wanted) < _FEWEST:  # it would be found anywhere, so it must be there as it stands
        assert message in TEXTS
    assert any(pattern.search(text) for text in TEXTS)
