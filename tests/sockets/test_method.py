"""The socket of a method: a class and a YAML file, evaluated by the command."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backbone.model import Backbone
from plumbing.cli import run
from plumbing.storage.jsonl import read_jsonl
from qa.commands.evaluate import evaluate_run
from qa.data.dataset import QADataset


def test_a_method_is_evaluated(
    added: Callable[..., Any], people: QADataset, tiny_backbone: Backbone, tmp_path: Path
) -> None:
    composed = added("copying", "method/copying")
    config = composed("evaluate", "method=copying", "max_new_tokens=4", "passages=shuffled")
    metrics = evaluate_run(config, people, tiny_backbone)
    assert metrics["n"] == len(people.split("dev"))
    assert metrics["answer_words"] > 0  # the method's own metric
    assert json.loads((tmp_path / "run" / "metrics.json").read_text()) == metrics
    rows = [row for _, row in read_jsonl(tmp_path / "run" / "predictions.jsonl")]
    assert all(len(row["passage_ids"]) == 1 for row in rows)


def test_its_settings_are_named_by_their_keys(
    added: Callable[..., Any],
    people: QADataset,
    tiny_backbone: Backbone,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = added("copying", "method/copying")("evaluate", "method=copying", "max_new_tokens=0")
    with pytest.raises(SystemExit):
        run(evaluate_run, config, people, tiny_backbone)
    assert capsys.readouterr().err.endswith("got 0; set max_new_tokens\n")
