"""Settings and their values as one types them on a command line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

CONF = Path(__file__).resolve().parents[2] / "conf"  # the configurations of all commands

_PLAIN = re.compile(r"[\w./@+-]+", re.ASCII)
_NO_TEXT = re.compile(r"null|true|false|nan|[+-]?inf|[+-]?[\d_.]+(e[+-]?\d+)?", re.IGNORECASE)


def shown(path: str | Path) -> str:
    """A path as one would type it: from the current folder if it lies below that."""
    whole, here = Path(path).absolute(), Path.cwd()
    return str(whole.relative_to(here)) if whole.is_relative_to(here) else str(path)


def leaves(config: DictConfig) -> dict[str, Any]:
    """All settings by their dotted keys, with references as they are written."""
    found: dict[str, Any] = {}

    def collect(node: Any, key: str) -> None:
        if isinstance(node, dict) and node:
            for name, part in node.items():
                collect(part, f"{key}.{name}" if key else str(name))
        elif key:
            found[key] = node

    collect(OmegaConf.to_container(config, resolve=False), "")
    return found


def typed_value(value: Any, *, quoted: bool = True) -> str:
    """A value as Hydra reads it from a command line.

    Args:
        value: The value, as plain JSON values or a path, which is written from the current folder.
        quoted: Whether a text gets quotes where Hydra needs them. Without, it is easier to read.
    """

    def part(inner: Any) -> str:
        return typed_value(inner, quoted=quoted)

    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case float():
            return re.sub(r"e([+-])0", r"e\1", repr(value))
        case Path():
            return part(shown(value))
        case dict():
            return "{" + ",".join(f"{part(k)}:{part(v)}" for k, v in value.items()) + "}"
        case list() | tuple():
            return "[" + ",".join(map(part, value)) + "]"
        case str() if quoted and (not _PLAIN.fullmatch(value) or _NO_TEXT.fullmatch(value)):
            escaped = re.sub(r"(\\*)'", r"\1\1\\'", value)
            trailing = len(escaped) - len(escaped.rstrip("\\"))
            doubled = escaped + "\\" * trailing
            return f"'{doubled}'"
    return str(value)
