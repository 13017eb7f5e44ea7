"""``scripts/ablation.py``: evaluates DMoE cell by cell, where a cell is a choice of overrides.

An ablation (``conf/ablation/``) has axes. Each axis maps labels to lists of overrides, and a cell
chooses one label from each axis. Everything that a cell needs (augmentations, a bank, an index, its
own evaluation) lies below the run folder, under a hash of the settings that decide it, and is made
if it is not there yet. So cells share what they have in common, and an ablation that was
interrupted goes on. Cells that cannot differ are evaluated once (`Cell.key`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from backbone.model import Backbone
from dmoe.ablation.key import settings_key
from dmoe.ablation.report import Row, write_report
from dmoe.augmentation.prompts import templates_hash
from dmoe.bank import Bank
from dmoe.commands.augment import AUGMENTATIONS, SURROGATES, augment
from dmoe.commands.build_experts import build_experts, is_built, open_lessons
from dmoe.experts.expert import delta_norm
from dmoe.training.lessons import read_augmentations
from dmoe.training.settings import typed_settings
from plumbing.cli import check_complete, one_line, say_written, type_shell
from plumbing.storage.jsonl import read_jsonl, write_jsonl
from qa.commands.evaluate import evaluate_run
from qa.data.dataset import QADataset
from qa.prompts import prompt_template
from retrieval.passage import Passage

log = logging.getLogger(__name__)

RESULTS = "results.jsonl"
METRICS = "metrics.json"  # this file is written last, so a folder that has it is complete

# The settings that all cells share, and those that decide an augmentation and a bank.
_SHARED = ("data", "corpus", "augmenter")
_AUGMENTED = (*_SHARED, "backbone", "seed")
_BUILT = ("backbone", "expert", "recipe", "instances", "bank", "seed")
_BATCH = 256  # the most experts in memory at a time


@dataclass(frozen=True)
class Cell:
    """One setting of an ablation.

    Attributes:
        labels: The label that was chosen from each axis.
        config: The configuration, composed with the overrides of these labels.
    """

    labels: dict[str, str]
    config: DictConfig

    @property
    def key(self) -> str:
        """A hash of all settings that may decide the result; cells with equal keys share a result.

        If the trigger never fires, the router is never asked, and its settings are left out.
        """
        ignored = {"ablation", "paths", "resume"}
        if OmegaConf.select(self.config, "trigger.active") is False:
            ignored.add("router")
        chosen = {str(key) for key in self.config} - ignored
        return settings_key(self.config, chosen, prompt_template())


def ablate(config: DictConfig, overrides: Sequence[str]) -> dict[str, float]:
    """Evaluate all cells that ``results.jsonl`` does not hold yet, and write a report.

    The run folder gets ``results.jsonl``, with a line for each cell as soon as it is evaluated. At
    the end it gets ``results.csv``, ``table.md``, ``figure.png`` and ``metrics.json``, and, if the
    ablation has ``bins``, what `dmoe.ablation.report.write_report` says of them.

    Args:
        config: Composed from ``conf/ablation.yaml``. Hydra must still be initialized, because the
            cells are composed from the same file.
        overrides: The overrides that ``config`` was composed with. Those of a cell come after them.

    Returns:
        The metrics of all cells, with keys of the form ``<label>/…/<metric>``. They are those of
        `evaluate_run`, and ``expert_norm``, the mean ``‖ΔW‖`` of the bank's experts.

    Raises:
        ValueError: If a cell cannot be composed, a setting or the data is at fault, or there are no
            augmentations of the passages that the questions need.
    """
    check_complete(OmegaConf.masked_copy(config, [*_AUGMENTED, "ablation", "paths"]))
    if config.trainer.devices != 1:
        raise ValueError(
            f"an ablation runs on one device, got trainer.devices={config.trainer.devices}; build "
            "its bank with scripts/build_experts.py and name it by bank.dir=DIR"
        )
    if not OmegaConf.is_missing(config.bank, "dir") and config.bank.dir is None:
        raise ValueError(
            "an ablation trains the experts of its cells into banks, got bank.dir=null as with "
            "experts=generated; evaluate generated experts with scripts/evaluate.py, run by run"
        )
    if config.resume is not None and not Path(config.resume).is_dir():
        raise ValueError(
            f"resume must be the run folder of an ablation, got {config.resume}; set resume"
        )
    bins = config.ablation.get("bins")
    if bins is not None and config.limit is not None and config.limit < bins:
        raise ValueError(
            f"{bins} groups need {bins} questions at least, got limit={config.limit}; set limit or "
            "ablation.bins"
        )
    folder = Path(config.resume or config.paths.output_dir)
    cells = list(read_cells(config, overrides))
    done = {row["key"]: row for _, row in _lines(folder / RESULTS)}
    workshop = Workshop(config, folder)
    rows: list[Row] = []
    for number, cell in enumerate(cells, start=1):
        _set_rate(cell, rows)
        if cell.key not in done:
            log.info("cell %d of %d: %s", number, len(cells), cell.labels)
            done[cell.key] = {"key": cell.key, "metrics": workshop.evaluate(cell)}
            write_jsonl(folder / RESULTS, done.values())
        predictions = folder / "cells" / cell.key / "predictions.jsonl"
        rows.append(Row(cell.labels, done[cell.key]["metrics"], predictions))
    metrics = write_report(rows, folder, bins)
    files = ["table.md", "results.csv", "figure.png", "metrics.json", RESULTS]
    files += [] if bins is None else ["bins.md", "bins.png"]
    say_written({folder: files}, [type_shell("cat", folder / "table.md")])
    return metrics


def read_cells(config: DictConfig, overrides: Sequence[str]) -> Iterator[Cell]:
    """Compose all cells, in the order of the axes; the last axis varies fastest.

    Raises:
        ValueError: If a cell has an unknown key, a value out of range, or other data or questions
            than the rest; the message names the cell.
    """
    axes: Any = OmegaConf.to_container(config.ablation.axes, resolve=True)
    for chosen in product(*(axis.items() for axis in axes.values())):
        labels = {axis: str(label) for axis, (label, _) in zip(axes, chosen, strict=True)}
        try:
            own = [override for _, each in chosen for override in each]
            composed = compose("ablation", [*overrides, *own])
            typed_settings(composed)
        except (HydraException, ValueError) as error:
            raise ValueError(f"cell {labels}: {one_line(error)}") from error
        if settings_key(composed, _SHARED) != settings_key(config, _SHARED):
            raise ValueError(
                f"cell {labels}: all cells must share {', '.join(_SHARED)}; run one ablation each"
            )
        if _asked(composed) != _asked(config):
            raise ValueError(
                f"cell {labels}: all cells must be asked the same questions, {_asked(config)}, got "
                f"{_asked(composed)}; run one ablation each, or set them for all cells"
            )
        composed.instances.augmentation = str(_augmentations(config))  # below the run folder
        yield Cell(labels, composed)


class Workshop:
    """Evaluates cells, makes what they need, and keeps it for other cells.

    Args:
        config: The ablation's configuration, whose data and augmenter all cells share.
        folder: The folder of everything that is made.

    Raises:
        ValueError: If the data is at fault, or no passage that the questions need is augmented.
    """

    def __init__(self, config: DictConfig, folder: Path) -> None:
        self._folder = folder
        self._dataset: QADataset = instantiate(config.data)
        self._passages: Mapping[str, Passage] = self._dataset.passages
        if config.corpus.path is not None:
            self._passages = instantiate(config.corpus)
        self._augmented = (folder / _augmentations(config)).parent
        if not (self._augmented / METRICS).exists():
            augment(self._passages, instantiate(config.augmenter), self._augmented)
        self._check_augmented(config.split)
        self._backbones: dict[str, Backbone] = {}
        self._norms: dict[Path, dict[str, float]] = {}

    def _check_augmented(self, split: str) -> None:
        lines = read_augmentations(self._augmented / AUGMENTATIONS)
        there = {augmentation.passage_id for _, augmentation in lines}
        wanted = {id for question in self._dataset.split(split) for id in question.passage_ids}
        if not there or (wanted and wanted.isdisjoint(there)):
            raise ValueError(
                f"expected augmentations of the {len(wanted)} passages that split={split} asks "
                f"about, found none among {len(there)}; let the augmenter make them (for instance "
                f"with augmenter.split={split}), or set another split"
            )

    def evaluate(self, cell: Cell) -> dict[str, float]:
        """Evaluate a cell, after everything that it needs has been made.

        Returns:
            The metrics of `evaluate_run`, and the ``expert_norm`` of the cell's bank. Methods
            without a bank train while they answer. They have no ``expert_norm``, and their
            ``seconds_per_question`` leaves out that training.
        """
        key = settings_key(cell.config, _BUILT, prompt_template())
        built = self._folder / "banks" / key
        config = cell.config.copy()
        config.paths.output_dir = str(self._folder / "cells" / cell.key)
        config.instances.augmentation = str(self._folder / config.instances.augmentation)
        if OmegaConf.is_missing(config.bank, "dir"):
            config.bank.dir = str(built / "bank")
        if "retriever" in config.router:
            self._index(config.router)
        backbone = self._backbone(config)
        if "bank_dir" not in config.method:
            return _without_training(evaluate_run(config, self._dataset, backbone))
        norm = self._build(config, built, backbone)
        return evaluate_run(config, self._dataset, backbone) | norm

    def _build(self, config: DictConfig, built: Path, backbone: Backbone) -> dict[str, float]:
        """Build the bank of a cell, if it is not there yet; returns its `_expert_norm`."""
        if built not in self._norms:
            if not (built / METRICS).exists():
                building = config.copy()
                building.paths.output_dir = str(built)
                lessons = open_lessons(building, self._passages)
                if not is_built(building, lessons, backbone):
                    build_experts(building, lessons, backbone)
            self._norms[built] = _expert_norm(Bank.open(config.bank.dir, backbone))
        return self._norms[built]

    def _index(self, router: DictConfig) -> None:
        """Build the index of a router over the surrogates, unless the settings name an index."""
        searched = {str(key) for key in router} - {"temperature"}  # weights are not searched
        index = self._augmented / "index" / settings_key(router, searched)
        if OmegaConf.is_missing(router.corpus, "path"):
            router.corpus.path = str(self._augmented / SURROGATES)
        if OmegaConf.is_missing(router.retriever, "index_dir"):
            router.retriever.index_dir = str(index)
            if not index.exists():
                instantiate(router.retriever).build(instantiate(router.corpus))

    def _backbone(self, config: DictConfig) -> Backbone:
        key = settings_key(config, ["backbone"])
        if key not in self._backbones:
            self._backbones[key] = instantiate(config.backbone)
        return self._backbones[key]


def _without_training(metrics: dict[str, float]) -> dict[str, float]:
    """Leave the seconds of training out of the metrics, as for a bank that was built before."""
    training = metrics.get("training_seconds", 0.0) / metrics["n"]
    return metrics | {"seconds_per_question": metrics["seconds_per_question"] - training}


def _set_rate(cell: Cell, rows: Sequence[Row]) -> None:
    """Set the rate of a random trigger that has none.

    The rate is the one at which the uncertainty trigger fired in the cell that is otherwise equal.
    """
    if "trigger" not in cell.config or not OmegaConf.is_missing(cell.config.trigger, "rate"):
        return
    for row in rows:
        if row.labels == cell.labels | {"trigger": "uncertainty"}:
            cell.config.trigger.rate = row.metrics["trigger_rate"] / 100  # from percent


def _expert_norm(bank: Bank) -> dict[str, float]:
    """The mean ``‖ΔW‖`` of a bank's experts; empty if the bank has none (all have diverged)."""
    ids, norms = list(bank), []
    for start in range(0, len(ids), _BATCH):
        norms += delta_norm(bank.get(ids[start : start + _BATCH]), bank.scaling).tolist()
    return {"expert_norm": sum(norms) / len(norms)} if norms else {}


def _augmentations(config: DictConfig) -> Path:
    """The path of an ablation's augmentations, relative to its run folder."""
    key = settings_key(config, _AUGMENTED, templates_hash())
    return Path("augmentations", key, AUGMENTATIONS)


def _asked(config: DictConfig) -> str:
    """The settings that choose the questions; the seed is none of them if all are asked."""
    names = ["split", "limit", *(["sample_seed"] if config.limit is not None else [])]
    return ", ".join(f"{name}={config[name]}" for name in names)


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    return read_jsonl(path) if path.exists() else iter(())
