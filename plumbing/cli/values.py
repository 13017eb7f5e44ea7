"""Settings and their values as one types them on a command line."""

from __future__ import annotations

import hashlib
import re
import shlex
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

CONF = Path(__file__).resolve().parents[2] / "conf"  # the configurations of all commands

_PLAIN = re.compile(r"[\w./@+-]+", re.ASCII)
_NO_TEXT = re.compile(r"null|true|false|nan|[+-]?inf|[+-]?[\d_.]+(e[+-]?\d+)?", re.IGNORECASE)


_OVERRIDE = re.compile(r"([+~]{0,2}[A-Za-z_][\w.@/:-]*)=(.+)", re.DOTALL)
_LONGEST_NAME = 120  # characters of a run's folder; longer ones end with a digest
# Overrides of a sweep that no others share a folder with, as only "=" and "," are replaced.
_FAITHFUL = re.compile(r"(?:\+?[\w.@]+=[\w.-]*(?:,|$))*", re.ASCII)


def as_folder(overrides: str) -> str:
    """A run's overrides as the name of one folder, which can be typed without quotes.

    For example, ``optim.lr=1e-4,seed=2`` becomes ``optim.lr-1e-4+seed-2``. What else the shell or
    Hydra would read as a sign becomes "_". Then, and where the name is too long, a digest of the
    overrides keeps it apart from others.
    """
    name = re.sub(r"[^\w.@+-]", "_", overrides.replace("=", "-").replace(",", "+"), flags=re.ASCII)
    if _FAITHFUL.fullmatch(overrides) and len(name) <= _LONGEST_NAME:
        return name
    return f"{name[:_LONGEST_NAME]}-{hashlib.sha256(overrides.encode()).hexdigest()[:8]}"


def with_quotes(word: str, *, sweeps: bool = False) -> str:
    """A word of the command line, with quotes around a path that Hydra could not read otherwise.

    Hydra's language reads "=", ",", brackets, "~", accents and others as signs of its own. A path
    is taken as it stands if it is one that exists, or if Hydra cannot read it and it has a "/". In
    a list each path must exist.

    Args:
        word: A word such as ``bank.dir=~/bänke``. What is no setting is returned as it is.
        sweeps: Whether commas part the values of a sweep (``-m``).
    """
    found = _OVERRIDE.fullmatch(word)
    if found is None:
        return word
    key, value = found.groups()
    try:
        is_sweep = OverridesParser.create().parse_override(word).is_sweep_override()
        reads_otherwise = is_sweep and not sweeps and _exists(value)
    except HydraException:
        listed = value[1:-1].split(",") if value[0] + value[-1] == "[]" else []
        if listed and all(_exists(part.strip()) for part in listed):
            return f"{key}={typed_value([part.strip() for part in listed])}"
        is_path = "/" in value and value[0] not in "[{('\"" and not (sweeps and "," in value)
        reads_otherwise = is_path or _exists(value)
    return f"{key}={typed_value(value)}" if reads_otherwise else word


def typed_word(key: str, value: str) -> str:
    """What to type in a shell so that a setting gets a text with signs of Hydra's language."""
    plain = not set("'\"\\") & set(value)
    return f"'{key}=\"{value}\"'" if plain else shlex.quote(f"{key}={typed_value(value)}")


def _exists(path: str) -> bool:
    try:
        return Path(path).expanduser().exists()
    except (OSError, RuntimeError, ValueError):  # too long; no such user; a zero byte
        return False


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
