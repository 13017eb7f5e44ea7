"""Settings and values as one types them; test_closing.py has Hydra read them again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from plumbing.cli.values import CONF, leaves, typed_value


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
