"""Measure what a mean of word embeddings can hold: a bound for GenPoE eq. 4, without training.

Shapes: P passages, D d_model, V vocabulary.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor

from backbone.model import Backbone
from backbone.tokens import encode_answer
from plumbing.cli import next_command, say_written
from plumbing.output import show
from plumbing.storage.files import write_json
from qa.data.dataset import QADataset, Question
from qa.prompts import encode_passage
from qa.statistics import clusters_of, estimate
from qa.tables.tables import markdown_table, with_interval

_POWERS = {"mean, centred": 0.0, "whitened": 0.5, "matched filter": 1.0}
_SHRINKAGES = (0.01, 0.1, 1.0)


def mean_study(config: DictConfig) -> list[dict[str, Any]]:
    """Score words by ``E_v C^-p (x - mu)`` and write the results into ``mean_study.json``.

    The page ``docs/study.md`` explains the study.

    Args:
        config: ``conf/mean_study.yaml``, composed. ``data`` must be bios, because its question ids
            name the attribute.

    Returns:
        The rows of `measure`.
    """
    results = measure(instantiate(config.backbone), instantiate(config.data))
    write_json(Path(config.paths.output_dir, "mean_study.json"), results)
    cells = [
        [
            row["scores"],
            f"{row['shrinkage']:g}",
            *(with_interval(row, name, 1) for name in ("first", "first_100")),
        ]
        for row in results
    ]
    columns = ["scores", "shrinkage", "first (%)", "among the first 100 (%)"]
    show(markdown_table(cells, columns, labels=1))
    say_written(
        {config.paths.output_dir: ["mean_study.json"]},
        [next_command(config, "train_hypernet", {}, ("data", "backbone"))],
    )
    return results


@torch.inference_mode()
def measure(backbone: Backbone, dataset: QADataset) -> list[dict[str, Any]]:
    """The share of dev questions whose answer's first token scores high, in percent.

    Returns:
        A row for each power p and each shrinkage, which is the share of the mean eigenvalue that is
        added to each eigenvalue. ``first``: the token is the best among the first tokens of the
        attribute's training values. ``first_100``: it is among the best 100 of all V tokens.
        Both have the ends of their 95 % intervals over entities, ``…_low`` and ``…_high``.
    """
    tokenizer, embedding_VD = backbone.tokenizer, backbone.embedding.weight.float()
    pooled = {
        id: embedding_VD[torch.tensor(encode_passage(tokenizer, passage, 512))].mean(0)
        for id, passage in dataset.passages.items()
    }
    seen = {id for question in dataset.split("train") for id in question.passage_ids}
    train_PD = torch.stack([pooled[id] for id in sorted(seen)])
    mean = train_PD.mean(0)
    eigenvalues, vectors = torch.linalg.eigh(torch.cov(train_PD.T, correction=0))
    values: dict[str, set[int]] = defaultdict(set)
    for question in dataset.split("train"):
        values[_attribute(question)].add(encode_answer(tokenizer, question.answers[0])[0])
    clusters = clusters_of([question.passage_ids for question in dataset.split("dev")])
    rows = []
    for shrinkage in _SHRINKAGES:
        spectrum = eigenvalues.clamp(min=0) + shrinkage * eigenvalues.mean()
        for name, power in _POWERS.items():
            transform = vectors * spectrum.pow(-power) @ vectors.T
            hits = [
                _hit(
                    q,
                    embedding_VD @ (transform @ (pooled[q.passage_ids[0]] - mean)),
                    values,
                    tokenizer,
                )
                for q in dataset.split("dev")
            ]
            row: dict[str, Any] = {"scores": name, "shrinkage": shrinkage}
            for key, column in zip(("first", "first_100"), zip(*hits, strict=True), strict=True):
                row |= estimate([100 * hit for hit in column], clusters, 100).metrics(key)
            rows.append(row)
    return rows


def _hit(
    question: Question, scores_V: Tensor, values: dict[str, set[int]], tokenizer: Any
) -> tuple[bool, bool]:
    right = encode_answer(tokenizer, question.answers[0])[0]
    candidates = torch.tensor(sorted(values[_attribute(question)] | {right}))
    best = int(candidates[scores_V[candidates].argmax()])
    return best == right, int((scores_V > scores_V[right]).sum()) < 100


def _attribute(question: Question) -> str:
    return question.id.split("-", 3)[-1]
