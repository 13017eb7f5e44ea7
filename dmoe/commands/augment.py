"""``scripts/augment.py``: augment a corpus, and write what a bank and its router are made from."""

from __future__ import annotations

import logging
import time
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
from plumbing.settings import check_limit
from plumbing.storage.files import write_json
from plumbing.storage.jsonl import write_jsonl
from retrieval.passage import Passage

log = logging.getLogger(__name__)

AUGMENTATIONS = "augmentations.jsonl"
SURROGATES = "surrogates.jsonl"


def augment_command(config: DictConfig) -> dict[str, float]:
    """Augment the passages of a corpus; of the data set if ``corpus.path`` is not given.

    Args:
        config: Composed from ``conf/augment.yaml``.

    Returns:
        The metrics, as in the ``metrics.json`` of the run folder; see `augment`.

    Raises:
        ValueError: If a setting, the corpus or the writer is at fault.
        InstantiationException: The same, where Hydra builds something; with its cause.
    """
    check_limit(config.limit)  # before the model
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
        passages: The corpus.
        augmenter: Who augments it.
        run_dir: Folder of the files.
        limit: Augment the first so many passages; the surrogates are those of these alone. None:
            all.

    Returns:
        `QualityReport.metrics`, and ``passages_per_minute``.

    Raises:
        ValueError: If the limit is no positive whole number, or the augmenter fails.
    """
    check_limit(limit)
    chosen = passages if limit is None else _First(passages, limit)
    folder, report, start = Path(run_dir), QualityReport(), time.perf_counter()
    write_jsonl(
        folder / AUGMENTATIONS, (each.row() for each in report.watch(augmenter.augment(chosen)))
    )
    minutes = (time.perf_counter() - start) / 60
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
