"""``scripts/crossed.py``: the crossed control of GenPoE with RAG, in one table.

With RAG a passage reaches the model in two ways, through the prompt and through the expert. Cells
in which the two ways have different passages say which of them a score comes from. If another's
expert, or the one that is common to all passages, helps as much as the own one, then the gain over
RAG is no knowledge of the passage: it is the form of an answer.
"""

from __future__ import annotations

import logging
from itertools import product
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from plumbing.cli import check_complete
from plumbing.mounts import SettingValueError
from plumbing.settings import check_choice
from qa.commands.evaluate import evaluate_run
from qa.commands.report import report_command

log = logging.getLogger(__name__)

# The passages of each cell, where None are those that `passages` names, and the experts.
_PROMPTS = {"own": None, "other": "shuffled"}
_EXPERTS = {
    "own": (None, "own"),
    "other": ("shuffled", "own"),
    "common": (None, "common"),
    "noise": (None, "noise"),
    "none": (None, "none"),
}


def crossed(config: DictConfig) -> dict[str, float]:
    """Evaluate all cells, and write the report of `report_command`.

    A cell is called PROMPT+EXPERT: ``own+other`` has the question's own passage in the prompt, and
    the expert of another question's. In ``other+other`` both are of the same other question. Each
    cell has a run folder of `evaluate_run` below the command's own, in ``cells``.

    Args:
        config: Composed from ``conf/crossed.yaml``.

    Returns:
        The metrics of all cells as ``<cell>/<metric>``, and their differences from the baseline as
        ``<cell>/minus/<baseline>/<metric>``.

    Raises:
        ValueError: If a setting or the data is at fault.
    """
    check_complete(config)
    _check(config)
    folder = Path(config.paths.output_dir)
    dataset, backbone = instantiate(config.data), instantiate(config.backbone)
    runs: dict[str, str] = {}
    for prompt, expert in product(_PROMPTS, _EXPERTS):
        cell = f"{prompt}+{expert}"
        log.info("cell %d of %d: %s", len(runs) + 1, len(_PROMPTS) * len(_EXPERTS), cell)
        runs[cell] = str(folder / "cells" / cell)
        evaluate_run(_cell(config, prompt, expert, runs[cell]), dataset, backbone)
    report = {"runs": [*runs.values()], "labels": [*runs], "paths": {"output_dir": str(folder)}}
    return report_command(
        OmegaConf.create(
            {**report, "baseline": config.baseline, "questions": "same", "seed": config.seed}
        )
    )


def _check(config: DictConfig) -> None:
    cells = [f"{prompt}+{expert}" for prompt, expert in product(_PROMPTS, _EXPERTS)]
    check_choice("baseline", config.baseline, cells)
    for name, wanted in (("rag", True), ("prompt_passages", None), ("method.experts", "own")):
        if (value := OmegaConf.select(config, name)) != wanted:
            raise SettingValueError(
                name, f"each cell sets its passages and experts, got {name}={value}", "leave {} out"
            )
    if config.passages == "shuffled":
        raise SettingValueError(
            "passages",
            "passages must be the questions' own, got passages=shuffled",
            "set {} to gold, retrieved or oracle_negative",
        )


def _cell(config: DictConfig, prompt: str, expert: str, folder: str) -> DictConfig:
    """The settings of one evaluation."""
    passages, experts = _EXPERTS[expert]
    cell = config.copy()
    cell.passages = passages or config.passages
    cell.prompt_passages = _PROMPTS[prompt] or config.passages
    cell.method.experts = experts
    cell.paths.output_dir = folder
    return cell
