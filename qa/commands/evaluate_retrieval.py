"""``scripts/evaluate_retrieval.py``: open a retriever and a reranker, and evaluate both."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from plumbing.cli import check_complete, next_command, say_written
from plumbing.settings import check_seed, check_types
from qa.evaluation.evaluate import sample
from qa.evaluation.retrieval import evaluate_retrieval
from qa.passages.pipeline import open_pipeline
from qa.tables.retrieval import retrieval_table

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RetrievalEvaluationSettings:
    """The settings at the top of ``conf/evaluate_retrieval.yaml``, which says what each one is.

    Raises:
        SettingValueError: If one is mistyped, or the seed is out of range.
    """

    split: str
    ks: Sequence[int]
    limit: int | None
    seed: int

    def __post_init__(self) -> None:
        check_types(self)
        check_seed(self.seed)


def evaluate_retrieval_command(config: DictConfig) -> dict[str, float]:
    """Evaluate a retriever and, possibly, a reranker on one split.

    Args:
        config: A configuration composed from ``conf/evaluate_retrieval.yaml``.

    Returns:
        The metrics, as in the ``metrics.json`` of the run folder; they are those of
        `qa.evaluation.retrieval.evaluate_retrieval`.

    Raises:
        ValueError: If a setting, the data or an index is at fault.
        InstantiationException: If Hydra builds the part that is at fault; the error of the part is
            the cause.
    """
    check_complete(config)
    settings = _settings(config)
    dataset = instantiate(config.data)
    questions = sample(dataset.split(settings.split), settings.limit, settings.seed)
    pipeline = open_pipeline(config)
    if pipeline is None:
        raise ValueError("there is no retriever to evaluate; give retriever=bm25|dense|hybrid")
    title = f"{dataset.name}, {settings.split}"
    metrics = evaluate_retrieval(pipeline, questions, settings.ks, config.paths.output_dir, title)
    log.info("%s, %d questions\n\n%s", title, len(questions), retrieval_table(metrics))
    parts = ("data", "retriever", "corpus", "reranker", "pipeline")
    asking = {"method": "rag", "passages": "retrieved", "split": settings.split}
    say_written(
        {config.paths.output_dir: ["metrics.json", "table.md", "rankings.jsonl"]},
        [next_command(config, "evaluate", asking, parts)],
    )
    return metrics


def _settings(config: DictConfig) -> RetrievalEvaluationSettings:
    mine = OmegaConf.masked_copy(
        config, [field.name for field in fields(RetrievalEvaluationSettings)]
    )
    given: Any = OmegaConf.to_container(mine, resolve=True)
    return RetrievalEvaluationSettings(**given)
