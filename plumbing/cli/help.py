"""The page that a command prints for ``--help``: what it does, and each of its settings.

What a setting means is read from the comments in ``conf/``, beside the value or above it, so that
there is one place to write it. Settings without a comment that only repeat another one are left
out, and so is what Hydra builds objects by.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.default_element import ResultDefault
from omegaconf import MISSING

from plumbing.cli.comments import Comments, read_comments
from plumbing.cli.keys import Composition
from plumbing.cli.values import leaves, typed_value

WIDTH = 100  # characters
_COLUMN = 36  # where the meanings stand, at most
_LAST = ("trainer", "callbacks", "logger")  # sections that few people change
# Sections of which only what has a comment is shown.
_PLUMBING = ("callbacks", "logger", "size")
_LONGEST = 60  # characters of a value; longer ones are cut
_HIDDEN = ("hydra", "paths", "task_name")
_REFERENCE = re.compile(r"\$\{[^${}]*\}")


def help_page(
    conf: Path, name: str, about: str, composed: Composition, given: Sequence[str] = ()
) -> str:
    """The page of one command, at most `WIDTH` characters wide.

    Args:
        conf: The folder of all configurations.
        name: The name of the command's file, without ``.yaml``.
        about: What the command does: the docstring of its script.
        composed: Its configuration with the settings that stand beside ``--help``.
        given: These settings; what they choose comes first.
    """
    files = {
        path: read_comments((conf / f"{path}.yaml").read_text(encoding="utf-8"))
        for path in dict.fromkeys([*(one.config_path or "" for one in composed.defaults), name])
        if (conf / f"{path}.yaml").is_file()
    }
    sections = _sections(composed, files)
    lines = [*_prose(about), "", *_usage(files[name].header)]
    if own := sections.pop("", {}):
        lines += ["", "Settings:", *_tables(own)]
    choices = {
        f"{key}={_typed(choice)}": " | ".join(composed.options[key])
        for key, choice in composed.choices.items()
        if key not in _HIDDEN and (len(composed.options[key]) > 1 or choice in (None, MISSING))
    }
    if choices:
        lines += ["", f"Choices (python scripts/{name}.py KEY=CHOICE --help shows their settings):"]
        lines += _table(choices)
    for title in _by_interest(sections, composed, given):
        group, _, option = title.rpartition("=")
        path = f"{group.partition('@')[0]}/{option}"
        lines += ["", *_heading(title, files[path].header if path in files else [])]
        lines += _table(sections[title])
    return "\n".join([*lines, "", *_closing(any("=???" in line for line in lines))]) + "\n"


def _sections(
    composed: Composition, files: Mapping[str, Comments]
) -> dict[str, dict[str, str | None]]:
    """By title, the settings and what they mean; the command's own have an empty title.

    What a command's own file sets in a group that it composes stands with that group.
    """
    titles = [_title(one, composed.choices) for one in composed.defaults]
    groups = {one.package: title for one, title in zip(composed.defaults, titles, strict=True)}
    owner: dict[str, str] = {}
    meaning: dict[str, str] = {}
    for one, title in zip(composed.defaults, titles, strict=True):
        comments = files.get(one.config_path or "", Comments())
        for key in comments.order:
            full = f"{one.package}.{key}" if one.package else key
            section = full.partition(".")[0]
            if section in groups and section != full and one.package in ("", None):
                owner.setdefault(full, groups[section])
            elif not title or full not in owner:
                owner[full] = title
            if key in comments.keys:
                meaning[full] = comments.keys[key]
    values = leaves(composed.config)
    sections: dict[str, dict[str, str | None]] = {"": {}}
    for key in dict.fromkeys([*owner, *values]):
        if key not in values or _is_hidden(key, values[key], meaning):
            continue
        section = key.partition(".")[0]
        title = owner.get(key, groups.get(section, ""))
        if section != key and section in meaning and not title:
            sections[title][f"{section}:"] = meaning[section]
        sections.setdefault(title, {})[f"{key}={_typed(values[key])}"] = meaning.get(key)
    return sections


def _is_hidden(key: str, value: Any, meaning: Mapping[str, str]) -> bool:
    repeats = isinstance(value, str) and _REFERENCE.fullmatch(value) is not None
    section = key.partition(".")[0]
    return (
        section in _HIDDEN
        or (section in _PLUMBING and key not in meaning)
        or key.rpartition(".")[2].startswith("_")
        or value == {}
        or (repeats and key not in meaning)
    )


def _by_interest(
    sections: Mapping[str, Any], composed: Composition, given: Sequence[str]
) -> list[str]:
    """Titles: those that were asked for, what these brought along, the others, the usual last."""
    asked = {one.partition("=")[0].lstrip("+") for one in given}
    chosen = {
        f"{key.partition('@')[0]}/{choice}"
        for key, choice in composed.choices.items()
        if key in asked
    }
    named = {one.config_path for one in composed.defaults if one.parent in chosen}
    brought = {
        _title(one, composed.choices)
        for one in composed.defaults
        if one.parent in chosen or one.parent in named
    }

    def rank(title: str) -> int:
        group = title.rpartition("=")[0]
        if group in asked:
            return 0
        if title in brought:
            return 1
        return 3 if group in _LAST else 2

    return sorted(sections, key=rank)


def _title(one: ResultDefault, choices: Mapping[str, str | None]) -> str:
    """``group=choice`` of the choice that brought a file along; empty for a command's own."""
    group, _, option = (one.config_path or "").rpartition("/")
    if not group:
        return ""
    package = one.package or ""
    for key in (f"{group}@{package}", group, package.partition(".")[0]):
        if key in choices and (key != group or package in ("", group)):
            return f"{key}={choices[key]}"
    return f"{package or group}={option}"


def _typed(value: Any) -> str:
    text = typed_value(value, quoted=False)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _prose(text: str) -> list[str]:
    paragraphs = re.split(r"\n\s*\n", text.replace("``", "").strip())
    wrapped = [textwrap.wrap(" ".join(one.split()), WIDTH) for one in paragraphs]
    return [line for lines in wrapped for line in [*lines, ""]][:-1]


def _usage(header: Sequence[str]) -> list[str]:
    """A command's header: lines to type as they stand, long ones folded."""
    lines: list[str] = []
    for line in header:
        indent = len(line) - len(line.lstrip())
        lines += textwrap.wrap(
            line.strip(),
            WIDTH,
            initial_indent=" " * (2 + indent),
            subsequent_indent=" " * (6 + indent),
            break_on_hyphens=False,
            break_long_words=False,
        )
    return lines


def _heading(title: str, header: Sequence[str]) -> list[str]:
    said = " ".join(" ".join(header).split())
    return _folded(f"{title}  {said}".rstrip(), WIDTH, "    ")


def _tables(settings: Mapping[str, str | None]) -> list[str]:
    """A table for each section, those without a section first."""
    sections: dict[str, dict[str, str | None]] = {"": {}}
    for setting, said in settings.items():
        key = setting.partition("=")[0]
        section = key.partition(".")[0] if "." in key else key[:-1] if key.endswith(":") else ""
        sections.setdefault(section, {})[setting] = said
    lines: list[str] = []
    for table in filter(None, sections.values()):
        lines += ["", *_table(table)] if lines else _table(table)
    return lines


def _table(settings: Mapping[str, str | None]) -> list[str]:
    """A line for each setting, the meanings below each other."""
    column = min(_COLUMN, max((len(setting) for setting in settings), default=0) + 4)
    lines: list[str] = []
    for setting, said in settings.items():
        start = f"  {setting}"
        folded = _folded(said or "", WIDTH - column)
        if folded and len(start) + 2 <= column:
            start = f"{start:<{column}}{folded.pop(0)}"
        elif folded and len(start) + 2 + len(said or "") <= WIDTH:
            start, folded = f"{start}  {said}", []
        lines += [start, *(" " * column + line for line in folded)]
    return lines


def _folded(text: str, width: int, indent: str = "") -> list[str]:
    glued = text.replace(" | ", "\u00a0| ")  # a bar ends a line and begins none
    lines = textwrap.wrap(
        glued, width, subsequent_indent=indent, break_on_hyphens=False, break_long_words=False
    )
    return [line.replace("\u00a0", " ") for line in lines]


def _closing(some_missing: bool) -> list[str]:
    lines = ["??? stands for a value that must be given.", ""] if some_missing else []
    others = {
        "hydra.run.dir=DIR": "write the run into this folder",
        "paths.log_dir=logs": "where the folders of all runs are",
        "paths.cache_dir=DIR": "what is computed once; default: $GENPOE_CACHE or ~/.cache/genpoe",
        "-m KEY=A,B,C": "run once for each value",
        "--cfg job": "print the composed settings and stop",
        "--hydra-help": "what else Hydra can do",
    }
    return [
        *lines,
        "Also:",
        *_table(others),
        "",
        "An error takes one line; HYDRA_FULL_ERROR=1 in front of the command shows its traceback.",
    ]
