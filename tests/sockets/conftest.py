"""Each test of a socket adds one class and one YAML file, and runs the real commands with them."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from plumbing.storage.jsonl import write_jsonl

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "docs" / "examples"

Compose = Callable[..., DictConfig]

PASSAGES = [
    ("a", "Tova Blick", "Tova Blick was born in Lisbon."),
    ("b", "Olen Marsk", "Olen Marsk wrote The Salt Road."),
    ("c", "Salt Road", "The Salt Road is a novel about two brothers."),
]


@pytest.fixture
def added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Compose]:
    """Puts one module and one YAML file into a folder that Python and Hydra search.

    The files are those of ``docs/examples``; nothing else of that folder can be found.
    """

    def add(module: str, option: str) -> Compose:
        folder = tmp_path / "own"
        (folder / "conf" / option).parent.mkdir(parents=True)
        shutil.copy(EXAMPLES / f"{module}.py", folder)
        shutil.copy(EXAMPLES / "conf" / f"{option}.yaml", folder / "conf" / f"{option}.yaml")
        assert len([path for path in folder.rglob("*") if path.is_file()]) == 2
        monkeypatch.syspath_prepend(str(folder))
        monkeypatch.delitem(sys.modules, module, raising=False)

        def composed(command: str, *overrides: str) -> DictConfig:
            search = f"hydra.searchpath=[file://{folder}/conf]"
            given = [search, f"paths.output_dir={tmp_path / 'run'}", *overrides]
            with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
                return compose(command, given)

        return composed

    return add


@pytest.fixture
def corpus_file(tmp_path: Path) -> Path:
    """A corpus of three passages."""
    path = tmp_path / "corpus.jsonl"
    write_jsonl(path, [{"id": id, "title": title, "text": text} for id, title, text in PASSAGES])
    return path


@pytest.fixture
def questions_dir(tmp_path: Path) -> Path:
    """A folder of a data set, as ``data=local`` reads it, about the corpus."""
    folder = tmp_path / "questions"
    asked: list[dict[str, Any]] = [
        {"id": "1", "question": "Where was Tova Blick born?", "answers": ["Lisbon"]},
        {"id": "2", "question": "What did Olen Marsk write?", "answers": ["The Salt Road"]},
    ]
    gold = (["a"], ["b"])
    write_jsonl(
        folder / "dev.jsonl",
        [row | {"passage_ids": ids} for row, ids in zip(asked, gold, strict=True)],
    )
    write_jsonl(
        folder / "passages.jsonl",
        [{"id": id, "title": title, "text": text} for id, title, text in PASSAGES],
    )
    return folder
