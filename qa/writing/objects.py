"""Finds the JSON objects in a model's answer, also where their JSON is not quite right."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from typing import Any

_DECODER = json.JSONDecoder(strict=False)  # strings may hold line breaks
# An object up to its closing brace. In the first pattern, strings may hold braces. The second is
# for objects whose quotes do not match, and ends at the first closing brace.
_OBJECTS = (
    re.compile(r"""\{(?:[^{}"']|"(?:[^"\\]|\\.)*+"|'(?:[^'\\]|\\.)*+')*+\}""", re.DOTALL),
    re.compile(r"\{[^{}]*+\}"),
)
_DOUBLE = str.maketrans("“”„‟", '""""')  # one character for each, so that positions stay the same
_SINGLE = _DOUBLE | str.maketrans("‘’‚‛", "'" * 4)


def find_objects(text: str) -> list[dict[str, Any]]:
    """Find the JSON objects in a text, in their order, and the objects within them.

    Args:
        text: Any text. Parts that cannot be read are skipped.
    """
    spellings = list(dict.fromkeys([text, text.translate(_DOUBLE), text.translate(_SINGLE)]))
    found: list[dict[str, Any]] = []
    start = text.find("{")
    while start >= 0:
        readings = (_read(spelling, start) for spelling in spellings)
        value, end = next(filter(None, readings), ({}, start + 1))
        found += _with_inner(value)
        start = text.find("{", end)
    return found


def _read(text: str, start: int) -> tuple[dict[str, Any], int] | None:
    """Read the object that begins at ``start``; returns it and its end, or None."""
    try:
        value, end = _DECODER.raw_decode(text, start)
        return value, end
    except (ValueError, RecursionError):
        pass
    for pattern in _OBJECTS:
        if match := pattern.match(text, start):
            value = _repaired(match.group())
            if value is not None:
                return value, match.end()
    return None


def _repaired(text: str) -> dict[str, Any] | None:
    """Read an object that has a comma before its brace, or is written as a Python dictionary."""
    try:
        value = _DECODER.decode(re.sub(r",\s*\}$", "}", text))
    except (ValueError, RecursionError):
        try:
            value = ast.literal_eval(" ".join(text.splitlines()))
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            return None
    is_object = isinstance(value, dict) and all(isinstance(key, str) for key in value)
    return value if is_object else None


def _with_inner(value: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Iterate over an object and all objects within it."""
    todo: list[Any] = [value]
    while todo:  # a loop and not a recursion, because a model may nest objects very deeply
        each = todo.pop()
        if isinstance(each, dict):
            yield each
            each = list(each.values())
        todo += [part for part in reversed(each) if isinstance(part, (dict, list))]
