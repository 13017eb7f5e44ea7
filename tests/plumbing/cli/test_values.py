"""Settings and values as one types them; test_closing.py has Hydra read them again."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from plumbing.cli.values import CONF, leaves, typed_value, typed_word, with_quotes

PATHS = [
    "a b/c",
    "sweeps/a=4,b=2/checkpoints/last.ckpt",
    "a[1]/(2)/{3}/x",
    "données/北京.jsonl",
    "it's/x",
    'say "no"/x',
    "~/bank",
    "back\\slash=/x",
    "a;b&c#d/",
    "http://localhost/v1?a=1&b=2",
]


@pytest.mark.parametrize("path", PATHS)
def test_hydra_reads_a_path_as_it_stands(path: str) -> None:
    for key in ("ckpt_path", "+bank.dir", "hydra.run.dir"):
        parsed = OverridesParser.create().parse_override(with_quotes(f"{key}={path}"))
        assert parsed.value() == path


@pytest.mark.parametrize("name", ["a,b", "a=b", "(1)", "[1]", "é"])
def test_a_name_with_signs_is_a_path_where_it_exists(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert with_quotes(f"x={name}") == f"x={name}"
    (tmp_path / name).mkdir()
    if name != "[1]":  # a list for Hydra
        assert with_quotes(f"x={name}") == f"x='{name}'"
        assert with_quotes(f"x=[{name}]") == f"x=['{name}']" or "," in name
    assert with_quotes("x=a,b", sweeps=True) == "x=a,b"


@pytest.mark.parametrize(
    "word",
    ["k=3", "k=1,2", "k=[1,2", "k=[a/b", "k={a:1", "k='a/b", "-m", "k", "x=${y}/z", "lr=1e-4)",
     "~trainer.x", "k=range(1,3)", "runs=[logs/a,logs/b]", "k='a=b/c'", "k="],
)  # fmt: skip
def test_other_words_are_left_to_hydra(word: str) -> None:
    assert with_quotes(word) == word


def test_a_list_of_paths_that_exist_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a=1", "b=2"):
        (tmp_path / name).mkdir()
    assert with_quotes("runs=[a=1,b=2]") == "runs=['a=1','b=2']"


@pytest.mark.parametrize("path", PATHS)
def test_the_word_to_type_is_read_as_the_text(path: str) -> None:
    (word,) = shlex.split(typed_word("ckpt_path", path))
    assert OverridesParser.create().parse_override(word).value() == path


def test_all_settings_by_their_keys() -> None:
    config = OmegaConf.create({"a": {"b": "${c}", "none": {}}, "c": [1, {"d": 2}]})
    assert leaves(config) == {"a.b": "${c}", "a.none": {}, "c": [1, {"d": 2}]}
    assert leaves(OmegaConf.create({})) == {}


@pytest.mark.parametrize(
    ("value", "quoted", "plain"),
    [
        (None, "null", "null"),
        (True, "true", "true"),
        (1e-05, "1e-5", "1e-5"),
        (0.0001, "0.0001", "0.0001"),
        ("???", "'???'", "???"),
        ("null", "'null'", "null"),
        (["a b", {"k": 1.0}], "['a b',{k:1.0}]", "[a b,{k:1.0}]"),
        (Path("conf") / "data", "conf/data", "conf/data"),
    ],
)
def test_a_value(value: Any, quoted: str, plain: str) -> None:
    assert typed_value(value) == quoted
    assert typed_value(value, quoted=False) == plain


def test_the_configurations_are_there() -> None:
    assert (CONF / "evaluate.yaml").is_file()
