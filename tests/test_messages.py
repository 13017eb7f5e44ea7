"""Messages of the library name a setting, and leave to the commands where it is mounted."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("plumbing", "backbone", "retrieval", "qa", "genpoe", "dmoe")
COMMANDS = ("commands", "cli")  # folders whose code knows the whole configuration

# A verb of advice and a key with a section, such as "set batching.seed".
ADVICE = re.compile(
    r"\b(?:set|give|lower|raise|increase|choose|change)\s+(?:another\s+|the\s+)?([a-z_]\w*\.(?:[a-z_]\w*|…))"
)
# A text that begins with a key, such as "trainer.devices must be": the rest is an error.
SUBJECT = re.compile(r"^([a-z_]+\.(?:[a-z_]+|…)) must\b")

EXCEPTIONS = {
    # An attribute of a Python object, which a caller in Python sets; no configuration has it.
    ("dmoe/decoding/decoder.py", "tokenizer.padding_side"),
}


def said(tree: ast.AST) -> Iterator[str]:
    """Every text of a module but its docstrings, with … where something is filled in."""
    skipped = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
        and isinstance(node.body[0].value, ast.Constant)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.JoinedStr):
            yield "".join(
                str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values
            )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def mount_points(source: str) -> set[str]:
    """The keys with a section that the messages of a module tell somebody to set."""
    texts = [" ".join(text.split()) for text in said(ast.parse(source))]
    return {key for text in texts for form in (ADVICE, SUBJECT) for key in form.findall(text)}


@pytest.mark.parametrize("package", PACKAGES)
def test_no_message_of_the_library_says_where_a_setting_is_mounted(package: str) -> None:
    found = {
        (path.relative_to(ROOT).as_posix(), key)
        for path in sorted((ROOT / package).rglob("*.py"))
        if not set(COMMANDS) & set(path.relative_to(ROOT).parts)
        for key in mount_points(path.read_text("utf-8"))
    }
    assert found - EXCEPTIONS == set()


def test_the_exceptions_are_needed() -> None:
    for path, key in EXCEPTIONS:
        assert key in mount_points((ROOT / path).read_text("utf-8"))


@pytest.mark.parametrize(
    ("source", "keys"),
    [
        ('raise ValueError(f"got {n}; set batching.seed")', {"batching.seed"}),
        ('raise ValueError(f"got {n}; set batching.{name}")', {"batching.…"}),
        ('raise ValueError("the disk is full; set "\n "paths.cache_dir")', {"paths.cache_dir"}),
        ('f"trainer.{key} must not be set"', {"trainer.…"}),
        ('SettingValueError("seed", "seed must be 1", "set {}")', set()),
        ('def f():\n    """Set batching.seed, and set batching.size."""', set()),
        ('"the text is set. then it is read"', set()),
    ],
)
def test_what_a_mount_point_is(source: str, keys: set[str]) -> None:
    assert mount_points(source) == keys
