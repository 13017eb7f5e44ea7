"""``scripts/evaluate.py``: build the method that the configuration names, and evaluate it."""

from __future__ import annotations

import logging
from dataclasses import dataclass, fields
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig

from backbone.model import Backbone
from plumbing.cli import check_complete, next_command, say_written
from plumbing.mounts import SettingValueError, mounted
from plumbing.settings import check_limit, check_seed, check_types
from qa.data.dataset import QADataset
from qa.evaluation.evaluate import evaluate, sample
from qa.passages.choose import RETRIEVED_KINDS, check_passages, make_passage_source
from qa.passages.gold_ids import gold_ids
from qa.passages.pipeline import open_pipeline
from qa.passages.source import PassageSource, check_k
from qa.shots import open_shots
from qa.tables.tables import summary

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EvaluationSettings:
    """The settings at the top of ``conf/evaluate.yaml``, which says what each of them is.

    Raises:
        SettingValueError: If one has another type, or is out of range.
    """

    ckpt_path: str | None
    split: str
    rag: bool
    passages: str
    prompt_passages: str | None
    k: int
    limit: int | None
    batch_size: int
    max_new_tokens: int
    shots: int
    examples: str | None
    seed: int
    sample_seed: int

    def __post_init__(self) -> None:
        check_limit(self.limit)
        check_types(self)
        check_seed(self.seed)
        check_seed(self.sample_seed, "sample_seed")
        check_passages(self.passages)
        if self.prompt_passages is not None:
            check_passages(self.prompt_passages, "prompt_passages")
        check_k(self.k)
        if self.prompt_passages is not None and not self.rag:
            raise SettingValueError(
                "prompt_passages",
                f"prompt_passages={self.prompt_passages} puts passages into the prompt, got "
                "rag=false",
                "set rag=true, or leave {} out",
            )


def evaluate_command(config: DictConfig) -> dict[str, float]:
    """``scripts/evaluate.py``: `evaluate_run`, which then says what to type next.

    Raises:
        ValueError: If a setting or the data is at fault.
        InstantiationException: The same, where Hydra builds something; with its cause.
    """
    metrics = evaluate_run(config)
    folder = Path(config.paths.output_dir)
    say_written(
        {folder: ["metrics.json", "predictions.jsonl"]},
        [next_command(config, "report", {"runs": [folder]}, ())],
    )
    return metrics


def evaluate_run(
    config: DictConfig, dataset: QADataset | None = None, backbone: Backbone | None = None
) -> dict[str, float]:
    """Evaluate one method on one split.

    Args:
        config: A configuration composed from ``conf/evaluate.yaml``.
        dataset: The data set; None: the one that the configuration names.
        backbone: The model; None: the one that the configuration names.

    Returns:
        The metrics, as in the ``metrics.json`` of the run folder.

    Raises:
        ValueError: If a setting or the data is at fault.
        InstantiationException: If Hydra builds the part that is at fault; the error of the part is
            the cause.
    """
    check_complete(config)
    settings = EvaluationSettings(
        **{field.name: config[field.name] for field in fields(EvaluationSettings)}
    )
    # The data come first, so that what is wrong with them shows before a large model is loaded.
    dataset = dataset or instantiate(config.data)
    questions = sample(dataset.split(settings.split), settings.limit, settings.sample_seed)
    kinds = {settings.passages, settings.prompt_passages}
    pipeline = None if kinds.isdisjoint(RETRIEVED_KINDS) else open_pipeline(config)

    def source_of(kind: str) -> PassageSource:
        return make_passage_source(kind, dataset, settings.seed, pipeline, settings.k)

    source = source_of(settings.passages)
    shown = settings.prompt_passages
    prompt_source = None if shown is None else source_of(shown)
    backbone = backbone or instantiate(config.backbone)
    method = instantiate(config.method, backbone=backbone)
    shots = open_shots(settings.shots, settings.examples, dataset, settings.sample_seed)
    method.before = shots.text
    known = (id for id in gold_ids(questions) if id in dataset.passages)
    with mounted("method"):
        method.check_passages(dataset.passages[id] for id in known)
    if not (method.uses_passages or method.retrieves or settings.passages == "gold"):
        log.warning(
            "passages=%s changes nothing: this method, as it is set, is given no passages",
            settings.passages,
        )
    metrics = evaluate(
        method,
        questions,
        source,
        run_dir=config.paths.output_dir,
        batch_size=settings.batch_size,
        seed=settings.seed,
        prompt_source=prompt_source,
        answer_of=shots.answer,
    )
    log.info("%s", summary(metrics))
    return metrics
