"""What the comments of a YAML file in ``conf/`` say of its settings."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_KEY = re.compile(r"(?P<indent> *)(?P<key>[\w./@]+|\"[^\"]*\"):(?: +(?P<rest>.*))?$")
_COMMENT = re.compile(r"(?:^|\s)#\s?(?P<text>.*)$")
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"|\$\{[^}]*\}|\{[^}]*\}")


@dataclass
class Comments:
    """What the comments of one YAML file say.

    Attributes:
        header: The lines before the first key, without the one that names a package.
        keys: By dotted key, what stands beside it, else what stands in the lines above.
        order: All dotted keys of the file, sections included, with or without a comment.
        is_global: Whether its keys are the configuration's own (``# @package _global_``) and not
            those of its group.
    """

    header: list[str] = field(default_factory=list)
    keys: dict[str, str] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)
    is_global: bool = False


def read_comments(text: str) -> Comments:
    """Read the comments of a YAML file in block style, as all files in ``conf/`` are."""
    found = Comments()
    path: list[tuple[int, str]] = []  # indents and names of the sections that are open
    above: list[str] = []
    begun = False
    beside: tuple[int, str] | None = None  # column and key of a comment that may go on below
    for line in text.splitlines():
        if line.strip().startswith("#"):
            said = line.strip()[1:].removeprefix(" ").rstrip()
            if said.startswith("@package"):
                found.is_global = "_global_" in said
                continue
            if not begun:
                found.header.append(said)
            elif beside is not None and line.index("#") >= beside[0]:
                found.keys[beside[1]] += f" {said.strip()}"
            else:
                above.append(said.strip())
            continue
        beside = None
        if not (match := _KEY.match(line)):
            begun = begun or bool(line.strip())
            above = []
            continue
        begun = True
        indent = len(match["indent"])
        while path and path[-1][0] >= indent:
            path.pop()
        path.append((indent, match["key"].strip('"')))
        key = ".".join(name for _, name in path)
        found.order.append(key)
        rest = match["rest"] or ""
        masked = _QUOTED.sub(lambda quoted: "x" * len(quoted[0]), rest)
        said = " ".join(above)
        above = []
        if comment := _COMMENT.search(masked):
            start = comment.start("text")
            said = rest[start:].strip()
            beside = (line.rindex(rest) + comment.start() + 1, key)
        if said:
            found.keys[key] = said
    return found
