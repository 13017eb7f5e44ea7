"""The pages of the API reference: one for each folder of the packages, made when the site is built.

The reference so follows the code: a module that is added or moved needs no line in ``mkdocs.yml``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

PACKAGES = ("plumbing", "backbone", "retrieval", "qa", "genpoe", "dmoe", "live", "benchmarks")
_ROOT = Path(__file__).absolute().parents[2]


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the reference to the navigation, nested as the folders are.

    Args:
        config: What ``mkdocs.yml`` says.

    Returns:
        The configuration, with the entry "API reference" at the end of its navigation.
    """
    found = (_ROOT / name for name in PACKAGES)
    entries = [_entry(folder) for folder in found if folder.is_dir()]
    config.nav = [*(config.nav or []), {"API reference": entries}]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages themselves.

    Args:
        files: The files of ``docs/``.
        config: What ``mkdocs.yml`` says.

    Returns:
        The files, with a page for each folder.
    """
    for name in PACKAGES:
        for folder in _folders(_ROOT / name):
            files.append(File.generated(config, _page(folder), content=_content(folder)))
    return files


def _folders(folder: Path) -> Iterator[Path]:
    if (folder / "__init__.py").is_file():
        yield folder
        for inner in sorted(folder.iterdir()):
            yield from _folders(inner)


def _modules(folder: Path) -> list[str]:
    names = sorted(path.stem for path in folder.glob("*.py"))
    return [name for name in names if not name.startswith("_")]


def _entry(folder: Path) -> dict[str, Any]:
    inner = [_entry(path) for path in sorted(folder.iterdir()) if (path / "__init__.py").is_file()]
    return {folder.name: [_page(folder), *inner] if inner else _page(folder)}


def _page(folder: Path) -> str:
    return f"reference/{'.'.join(_parts(folder))}.md"


def _parts(folder: Path) -> tuple[str, ...]:
    return folder.relative_to(_ROOT).parts


def _content(folder: Path) -> str:
    name = ".".join(_parts(folder))
    package = f"::: {name}\n    options:\n      show_root_heading: false\n      members: []\n"
    modules = "\n".join(f"::: {name}.{module}\n" for module in _modules(folder))
    return f"---\ntitle: {name}\n---\n\n# `{name}`\n\n{package}\n{modules}"
