"""``scripts/augment.py``: augments a corpus, for the training of experts and for the router."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from dmoe.augmentation.coverage import coverage, coverage_metrics
from dmoe.augmentation.quality import QualityReport
from dmoe.augmentation.sources import Augmenter, surrogates
from dmoe.training.lessons import lessons_from_augmentation
from plumbing.cli import check_complete, next_command, say_written
from plumbing.mounts import SettingValueError
from plumbing.progress import progress
from plumbing.settings import check_limit
from plumbing.stopwatch import Stopwatch
from plumbing.storage.files import write_json
from plumbing.storage.jsonl import write_jsonl
from qa.data.dataset import Question
from retrieval.passage import Passage

log = logging.getLogger(__name__)

AUGMENTATIONS = "augmentations.jsonl"
SURROGATES = "surrogates.jsonl"
COVERAGE = "coverage.jsonl"


def augment_command(config: DictConfig) -> dict[str, float]:
    """Augment the passages of a corpus, or of the data set if ``corpus.path`` is not given.

    Args:
        config: Composed from ``conf/augment.yaml``.

    Returns:
        The metrics of `augment`, as in the ``metrics.json`` of the run folder.

    Raises:
        ValueError: If a setting, the corpus or the writer is at fault.
        InstantiationException: If Hydra cannot build something for such a reason; it has the error
            as its cause.
    """
    check_limit(config.limit)  # before the model is loaded
    if config.coverage is not None and config.get("data") is None:
        raise SettingValueError(
            "coverage",
            f"coverage={config.coverage} is a split of a data set, but none is named",
            "name the data set by data=NAME, or leave {} out",
        )
    of_data = config.get("data") is not None and OmegaConf.is_missing(config.corpus, "path")
    used = [str(key) for key in config if not (of_data and key == "corpus")]
    check_complete(OmegaConf.masked_copy(config, used))
    needs_data = of_data or config.coverage is not None
    dataset: Any = instantiate(config.data) if needs_data else None
    questions = [] if config.coverage is None else dataset.split(config.coverage)
    passages = dataset.passages if of_data else instantiate(config.corpus)
    augmenter = instantiate(config.augmenter)
    metrics = augment(passages, augmenter, config.paths.output_dir, config.limit, questions)
    log.info("%s", "  ".join(f"{name} {value:.1f}" for name, value in metrics.items()))
    folder = Path(config.paths.output_dir)
    building = {"instances.augmentation": folder / AUGMENTATIONS, "bank.dir": folder / "bank"}
    carry = ("backbone", "data" if of_data else "corpus")
    covering = [] if config.coverage is None else [COVERAGE]
    say_written(
        {folder: [AUGMENTATIONS, SURROGATES, *covering, "metrics.json"]},
        [next_command(config, "build_experts", building, carry)],
    )
    return metrics


def augment(
    passages: Mapping[str, Passage],
    augmenter: Augmenter,
    run_dir: str | Path,
    limit: int | None = None,
    questions: Sequence[Question] = (),
) -> dict[str, float]:
    """Write ``augmentations.jsonl``, ``surrogates.jsonl`` and ``metrics.json``, each atomically.

    If there are questions, ``coverage.jsonl`` says of each if its answer is among the pairs.

    Args:
        passages: The corpus, by passage id.
        augmenter: The augmenter.
        run_dir: The folder of the files.
        limit: Only this many passages, the first ones, are augmented and get surrogates. None takes
            all passages.
        questions: Questions about the passages, whose answers are looked for among the pairs.

    Returns:
        The metrics of `QualityReport.metrics`, and ``passages_per_minute``; with questions also
        those of `coverage_metrics`, as ``coverage/<metric>``.

    Raises:
        ValueError: If the limit is not a positive whole number, or the augmenter fails.
    """
    check_limit(limit)
    chosen = passages if limit is None else _First(passages, limit)
    folder, report, watch = Path(run_dir), QualityReport(), Stopwatch()
    augmented = progress(augmenter.augment(chosen), "Augmenting passages", len(chosen))
    write_jsonl(folder / AUGMENTATIONS, (each.row() for each in report.watch(augmented)))
    minutes = watch.seconds / 60
    lessons = list(lessons_from_augmentation(folder / AUGMENTATIONS, chosen))
    write_jsonl(folder / SURROGATES, map(asdict, surrogates(chosen, lessons)))
    metrics = report.metrics()
    if questions:
        found = coverage(questions, {lesson.passage.id: lesson for lesson in lessons})
        rows = ({"id": id, "group": group} for id, group in found.items())
        write_jsonl(folder / COVERAGE, rows)
        metrics |= {f"coverage/{name}": value for name, value in coverage_metrics(found).items()}
    metrics["passages_per_minute"] = metrics["passages"] / minutes
    write_json(folder / "metrics.json", metrics)
    return metrics


class _First(Mapping[str, Passage]):
    """The first passages of a corpus."""

    def __init__(self, passages: Mapping[str, Passage], count: int) -> None:
        self._passages, self._ids = passages, dict.fromkeys(islice(passages, count))

    def __getitem__(self, id: str) -> Passage:
        if id not in self._ids:
            raise KeyError(id)
        return self._passages[id]

    def __iter__(self) -> Iterator[str]:
        return iter(self._ids)

    def __len__(self) -> int:
        return len(self._ids)
