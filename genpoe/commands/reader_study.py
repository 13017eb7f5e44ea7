"""``scripts/reader_study.py``: what each part of the hypernetwork that reads is worth.

It is trained without one part after another, for equal steps on the same batches, with several
seeds. Each training has a folder below the run folder, whose name is a hash of its settings, so
that a study that was interrupted goes on where it stood.
"""

from __future__ import annotations

import json
import logging
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from backbone.loading import training_backbone
from genpoe.commands.train_hypernet import train
from plumbing.cli import one_line, say_written, type_shell
from plumbing.mounts import SettingValueError
from plumbing.output import show
from plumbing.storage.files import write_json, write_whole
from plumbing.storage.hashing import digest
from qa.tables.tables import markdown_table

log = logging.getLogger(__name__)

WHOLE = "nothing"
METRICS = "metrics.json"  # of a training, written last, so a folder that has it is complete
_COLUMNS = {"val/loss": "own passage, nll", "val/loss_shuffled": "another's, nll"}
_ELSEWHERE = ("study", "paths", "ckpt_path", "task_name")  # settings that decide no result

Cell = tuple[str, int]
"""What is left out, and the seed."""


def reader_study(config: DictConfig, overrides: Sequence[str]) -> dict[str, float]:
    """Train once for each part and seed, and write ``table.md`` and ``metrics.json``.

    Args:
        config: Composed from ``conf/reader_study.yaml``. Hydra must still be initialized, because
            the trainings are composed from the same file.
        overrides: The overrides that ``config`` was composed with.

    Returns:
        The validation losses of each training, with keys ``<part>/<seed>/<metric>``.

    Raises:
        ValueError: If a setting is wrong, or if there is more than one device.
    """
    cells = _cells(config, overrides)
    if config.trainer.devices != 1:
        raise SettingValueError(
            "trainer.devices",
            f"the study trains on one device at a time, got trainer.devices="
            f"{config.trainer.devices}",
        )
    folder = Path(config.paths.output_dir)
    dataset, backbone = instantiate(config.data), training_backbone(config)
    metrics: dict[str, float] = {}
    for number, ((part, seed), training) in enumerate(cells.items(), 1):
        output = Path(training.paths.output_dir)
        if not (output / METRICS).exists():
            log.info("training %d of %d: without %s, seed %d", number, len(cells), part, seed)
            last = output / "checkpoints" / "last.ckpt"
            training.ckpt_path = str(last) if last.exists() else None
            train(training, backbone, dataset)
        found = json.loads((output / METRICS).read_bytes())
        metrics |= {f"{part}/{seed}/{name}": found[name] for name in _COLUMNS if name in found}
    table = study_table(metrics, list(cells))
    with write_whole(folder / "table.md") as file:
        file.write(table.encode())
    write_json(folder / METRICS, metrics)
    show(f"\n{table}")
    say_written({folder: ["table.md", METRICS]}, [type_shell("cat", folder / "table.md")])
    return metrics


def _cells(config: DictConfig, overrides: Sequence[str]) -> dict[Cell, DictConfig]:
    """The configuration of each training, in the order of the seeds."""
    parts, seeds = list(config.study.without), list(config.study.seeds)
    for name, given in (("without", parts), ("seeds", seeds)):
        if not given or len(set(given)) < len(given):
            raise SettingValueError(
                f"study.{name}", f"study.{name} must name at least one, each once, got {given}"
            )
    cells = {}
    for seed in seeds:
        for part in parts:
            try:
                training = compose("reader_study", [*overrides, f"without={part}", f"seed={seed}"])
            except HydraException as error:
                raise ValueError(f"without {part}, seed {seed}: {one_line(error)}") from error
            kept: Any = [name for name in training if name not in _ELSEWHERE]
            deciding = OmegaConf.to_container(OmegaConf.masked_copy(training, kept), resolve=False)
            key = digest(deciding)[:16]
            training.paths = OmegaConf.to_container(config.paths, resolve=True)
            training.paths.output_dir = str(Path(config.paths.output_dir, "trainings", key))
            cells[part, seed] = training
    return cells


def study_table(metrics: Mapping[str, float], cells: Sequence[Cell]) -> str:
    """A row for each part: its losses, and by how much they are above those of the whole.

    Args:
        metrics: The losses, with keys ``<part>/<seed>/<metric>``.
        cells: Part and seed of each training.

    Returns:
        A table in Markdown. A cell has the mean over the seeds, with the smallest and the largest
        value in brackets. A difference is that of two trainings with the same seed.
    """
    parts, seeds = (list(dict.fromkeys(cell[i] for cell in cells)) for i in (0, 1))
    rows = []
    for part in parts:
        row = [str(part)]
        for name in _COLUMNS:
            found = {
                seed: metrics[key] for seed in seeds if (key := f"{part}/{seed}/{name}") in metrics
            }
            row.append(_mean(list(found.values()), ""))
            wholes = {seed: metrics.get(f"{WHOLE}/{seed}/{name}") for seed in found}
            apart = [found[seed] - whole for seed, whole in wholes.items() if whole is not None]
            row.append("" if part == WHOLE else _mean(apart, "+"))
        rows.append(row)
    columns: list[Any] = ["without"]
    for heading in _COLUMNS.values():
        columns += [heading, "above the whole"]
    seeds_said = f"{len(seeds)} seed{'s' * (len(seeds) > 1)}: mean (smallest to largest)"
    return f"{markdown_table(rows, columns, labels=1)}\n{seeds_said}\n"


def _mean(values: Sequence[float], sign: str) -> str:
    if not values:
        return ""
    mean, least, most = (
        f"{value:{sign}.3f}" for value in (statistics.fmean(values), min(values), max(values))
    )
    return f"{mean} ({least} to {most})"
