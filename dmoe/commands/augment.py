"""``scripts/augment.py``: augments a corpus, for the training of experts and for the router."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from itertools import islice
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from dmoe.augmentation.quality import QualityReport
from dmoe.augmentation.sources import Augmenter, surrogates
from dmoe.training.lessons import lessons_from_augmentation
from plumbing.cli import check_complete, next_command, say_written
from plumbing.progress import progress
from plumbing.settings import check_limit
from plumbing.stopwatch import Stopwatch
from plumbing.storage.files import write_json
from plumbing.storage.jsonl import write_jsonl
from retrieval.passage import Passage

log = logging.getLogger(__name__)

AUGMENTATIONS = "augmentations.jsonl"
SURROGATES = "surrogates.jsonl"


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
    of_data = config.get("data") is not None and OmegaConf.is_missing(config.corpus, "path")
    used = [str(key) for key in config if not (of_data and key == "corpus")]
    check_complete(OmegaConf.masked_copy(config, used))
    passages = instantiate(config.data).passages if of_data else instantiate(config.corpus)
    augmenter = instantiate(config.augmenter)
    metrics = augment(passages, augmenter, config.paths.output_dir, config.limit)
    log.info("%s", "  ".join(f"{name} {value:.1f}" for name, value in metrics.items()))
    folder = Path(config.paths.output_dir)
    building = {"instances.augmentation": folder / AUGMENTATIONS, "bank.dir": folder / "bank"}
    carry = ("backbone", "data" if of_data else "corpus")
    say_written(
        {folder: [AUGMENTATIONS, SURROGATES, "metrics.json"]},
        [next_command(config, "build_experts", building, carry)],
    )
    return metrics


def augment(
    passages: Mapping[str, Passage],
    augmenter: Augmenter,
    run_dir: str | Path,
    limit: int | None = None,
) -> dict[str, float]:
    """Write ``augmentations.jsonl``, ``surrogates.jsonl`` and ``metrics.json``, each atomically.

    Args:
        passages: The corpus, by passage id.
        augmenter: The augmenter.
        run_dir: The folder of the files.
        limit: Only this many passages, the first ones, are augmented and get surrogates. None takes
            all passages.

    Returns:
        The metrics of `QualityReport.metrics`, and ``passages_per_minute``.

    Raises:
        ValueError: If the limit is not a positive whole number, or the augmenter fails.
    """
    check_limit(limit)
    chosen = passages if limit is None else _First(passages, limit)
    folder, report, watch = Path(run_dir), QualityReport(), Stopwatch()
    augmented = progress(augmenter.augment(chosen), "Augmenting passages", len(chosen))
    write_jsonl(folder / AUGMENTATIONS, (each.row() for each in report.watch(augmented)))
    minutes = watch.seconds / 60
    lessons = lessons_from_augmentation(folder / AUGMENTATIONS, chosen)
    write_jsonl(folder / SURROGATES, map(asdict, surrogates(chosen, lessons)))
    metrics = report.metrics()
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
