"""``scripts/export_data.py``: writes a data set as a folder that ``data=local`` reads."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig

from plumbing.cli import check_complete, next_command, say_written
from plumbing.storage.files import write_json
from qa.data.dataset import SPLITS, QADataset, save_folder

log = logging.getLogger(__name__)

FOLDER = "data"  # in the run folder


def export_data(config: DictConfig) -> dict[str, float]:
    """Write the passages of a data set, and its splits train, dev and test.

    Other splits, such as those of ``bios`` that ask in other words, are left out, because a folder
    cannot hold them.

    Args:
        config: Composed from ``conf/export_data.yaml``.

    Returns:
        The number of ``passages``, and of the questions of each split that was written.

    Raises:
        ValueError: If the data is at fault.
    """
    check_complete(config)
    dataset: QADataset = instantiate(config.data)
    splits = {name: some for name, some in dataset.splits.items() if name in SPLITS}
    if others := [name for name in dataset.splits if name not in SPLITS]:
        log.info("left out, since a folder has no such splits: %s", ", ".join(others))
    folder = Path(config.paths.output_dir)
    save_folder(replace(dataset, splits=splits), folder / FOLDER)
    metrics = {"passages": float(len(dataset.passages))}
    metrics |= {name: float(len(some)) for name, some in splits.items()}
    write_json(folder / "metrics.json", metrics)
    files = [f"{FOLDER}/passages.jsonl.gz", *(f"{FOLDER}/{name}.jsonl.gz" for name in splits)]
    reading = {"data": "local", "data.dir": folder / FOLDER}
    say_written({folder: [*files, "metrics.json"]}, [next_command(config, "evaluate", reading)])
    return metrics
