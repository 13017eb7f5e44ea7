"""The objects in what a model answered: JSON, or nearly.

Small models wrap them in prose, leave commas behind, break lines within a string, quote as Python
or a typesetter does, and are cut off.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from typing import Any

_DECODER = json.JSONDecoder(strict=False)  # a string may hold line breaks
# Up to the closing brace: strings may hold braces; if quotes do not match, they may not.
_OBJECTS = (
    re.compile(r"""\{(?:[^{}"']|"(?:[^"\\]|\\.)*+"|'(?:[^'\\]|\\.)*+')*+\}""", re.DOTALL),
    re.compile(r"\{[^{}]*+\}"),
)
_DOUBLE = str.maketrans("“”„‟", '""""')  # one character each: places stay the same
_SINGLE = _DOUBLE | str.maketrans("‘’‚‛", "'" * 4)


def find_objects(text: str) -> list[dict[str, Any]]:
    """The objects in a text, in their order; those within others as well.

    Args:
        text: Anything; what cannot be read is passed over.
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
    """The object that begins there, and where it ends; None where none can be read."""
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
    """An object with a comma at its end, or as Python would write it."""
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
    """An object, and all within it."""
    todo: list[Any] = [value]
    while todo:  # no recursion: a model may nest as deep as it likes
        each = todo.pop()
        if isinstance(each, dict):
            yield each
            each = list(each.values())
        todo += [part for part in reversed(each) if isinstance(part, (dict, list))]
