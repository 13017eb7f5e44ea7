"""``scripts/twins.py``: is a method right under both passages that have the same words?

Each question is asked about two passages that say the opposite with the same words
(`qa.data.twins`). Whoever sees a passage as a bag of words gives one answer for both, and is right
about one at most. So the share of the pairs in which both are right says whether a method reads.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from hydra.utils import instantiate
from omegaconf import DictConfig

from plumbing.cli import check_complete, next_command, say_written
from plumbing.mounts import SettingValueError
from plumbing.output import show
from plumbing.settings import check_limit
from plumbing.storage.files import write_json
from plumbing.storage.jsonl import DataError, write_jsonl
from qa.commands.evaluate import evaluate_run
from qa.data.dataset import QADataset, Question
from qa.data.twins import Twins, twins_of
from qa.evaluation.run_folder import RunFolder, read_run
from qa.prompts import encode_passage
from qa.statistics import clusters_of, estimate
from qa.tables.tables import markdown_table, with_interval

log = logging.getLogger(__name__)

_COLUMNS = {
    "em": "EM",
    "em_both": "EM, both",
    "right": "right preferred",
    "right_both": "right preferred, both",
}


def twins_command(config: DictConfig) -> dict[str, float]:
    """Ask the questions of both twins, and write how often a method is right about both.

    It writes ``metrics.json``, ``table.md`` and ``pairs.jsonl``, a line for each pair. The folders
    ``right`` and ``wrong`` are evaluations of the same questions and passages: for the right
    answers, and for the likelihood of the twin's answers instead.

    Args:
        config: Composed from ``conf/twins.yaml``.

    Returns:
        The metrics. ``em`` is the percentage of questions that are answered exactly, and ``right``
        that of questions whose right answer has a lower nll than the twin's answer. ``em_both`` and
        ``right_both`` are the percentages of pairs in which this holds for both questions. Each has
        an interval in which questions that share a passage count as one cluster. ``nll`` is that of
        the right answers, ``n`` the number of pairs, and ``other_bag`` the number of pairs that
        were left out because their passages differ in their tokens.

    Raises:
        ValueError: If a setting or the data is at fault.
    """
    check_complete(config)
    check_limit(config.limit)
    if config.passages != "gold":
        raise SettingValueError(
            "passages",
            f"each question is asked about its own passage and its twin's, got "
            f"passages={config.passages}",
            "leave {} out",
        )
    folder = Path(config.paths.output_dir)
    dataset, backbone = instantiate(config.data), instantiate(config.backbone)
    every = twins_of(dataset.split(config.split))
    pairs = _with_same_tokens(every, dataset, backbone.tokenizer)
    if not pairs:
        raise DataError(
            f"data set {dataset.name!r}: found no pair of questions in {config.split!r} whose two "
            "passages have the same tokens; choose data=twins or data=roles, and a split with pairs"
        )
    left_out = len(every) - len(pairs)
    random = np.random.default_rng(config.sample_seed)
    pairs = [pairs[i] for i in sorted(random.permutation(len(pairs))[: config.limit].tolist())]
    asked = {
        "right": [question for pair in pairs for question in pair],
        "wrong": [question for pair in pairs for question in _exchanged(pair)],
    }
    runs: dict[str, RunFolder] = {}
    for name, questions in asked.items():
        cell = config.copy()
        cell.paths.output_dir = str(folder / name)
        cell.limit = None
        if name == "wrong":
            cell.max_new_tokens = 1  # only the likelihood counts
        those = QADataset(dataset.name, dataset.passages, {config.split: questions})
        evaluate_run(cell, those, backbone)
        runs[name] = read_run(folder / name)
    rows = [_row(pair, runs["right"], runs["wrong"]) for pair in pairs]
    metrics = {"n": float(len(rows)), "other_bag": float(left_out), **_summary(pairs, rows)}
    write_jsonl(folder / "pairs.jsonl", rows)
    write_json(folder / "metrics.json", metrics)
    cells = [with_interval(metrics, name, 1) for name in _COLUMNS]
    table = markdown_table(
        [[str(len(rows)), *cells, with_interval(metrics, "nll", 2)]],
        ["pairs", *_COLUMNS.values(), "nll"],
        labels=0,
    )
    (folder / "table.md").write_text(table, encoding="utf-8")
    show(table)
    say_written(
        {folder: ["metrics.json", "table.md", "pairs.jsonl"]},
        [next_command(config, "report", {"runs": [folder / "right"]}, ())],
    )
    return metrics


def _with_same_tokens(pairs: Sequence[Twins], dataset: QADataset, tokenizer: Any) -> list[Twins]:
    """The pairs whose passages have the same tokens, each equally often."""

    def bag(question: Question) -> Counter[int]:
        tokens: Counter[int] = Counter()
        for passage in dataset.gold(question):
            tokens.update(encode_passage(tokenizer, passage, 10**6))
        return tokens

    kept = [pair for pair in pairs if bag(pair.one) == bag(pair.other)]
    if len(kept) < len(pairs):
        log.warning(
            "%d of %d pairs are left out: their passages differ in their tokens",
            *(len(pairs) - len(kept), len(pairs)),
        )
    return kept


def _exchanged(pair: Twins) -> tuple[Question, Question]:
    """Exchange the answers of the two questions; each is still asked about its own passage."""
    return (
        replace(pair.one, answers=pair.other.answers),
        replace(pair.other, answers=pair.one.answers),
    )


def _row(pair: Twins, right: RunFolder, wrong: RunFolder) -> dict[str, Any]:
    lines = [(right.questions[each.id].scores, wrong.questions[each.id].scores) for each in pair]
    return {
        "question": pair.one.question,
        "ids": [each.id for each in pair],
        "answers": [each.answers[0] for each in pair],
        "em": [own["em"] for own, _ in lines],
        "nll": [own["nll"] for own, _ in lines],
        "nll_of_other": [other["nll"] for _, other in lines],
    }


def _summary(pairs: Sequence[Twins], rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The metrics with their intervals."""
    clusters = clusters_of([[*pair.one.passage_ids, *pair.other.passage_ids] for pair in pairs])
    em = np.array([row["em"] for row in rows], dtype=np.float64)
    nll = np.array([row["nll"] for row in rows])
    right = (nll < np.array([row["nll_of_other"] for row in rows])).astype(np.float64)
    twice = [cluster for cluster in clusters for _ in range(2)]
    metrics: dict[str, float] = {}
    for name, values in (("em", em), ("right", right)):
        metrics |= estimate(100 * values.ravel(), twice, 100.0).metrics(name)
        metrics |= estimate(100 * values.min(1), clusters, 100.0).metrics(f"{name}_both")
    return metrics | estimate(nll.ravel(), twice).metrics("nll")
