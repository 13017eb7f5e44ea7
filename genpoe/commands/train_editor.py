"""``scripts/train_editor.py``: trains the networks of MEND or MALMEN."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from backbone.loading import training_backbone
from backbone.model import Backbone
from genpoe.editors.parts.facts import Fact, read_facts
from genpoe.editors.recipes import read_recipe
from genpoe.editors.trained.examples import EditData, EditExamples, question_facts
from genpoe.editors.trained.malmen import MALMENNetworks
from genpoe.editors.trained.mend import MENDNetworks
from genpoe.editors.trained.module import EditorModule
from plumbing.cli import next_command, say_written
from plumbing.mounts import SettingValueError, mounted
from plumbing.settings import check_choice, check_limit
from plumbing.stopwatch import Stopwatch
from plumbing.training.setup import (
    check_ckpt_path,
    fit,
    make_trainer,
    seed,
    write_metrics,
)
from qa.data.dataset import QADataset

_NETWORKS = {each.NAME: each for each in (MENDNetworks, MALMENNetworks)}


def train_editor_command(config: DictConfig) -> dict[str, float]:
    """`train_editor`, which then says what to type next.

    Raises:
        ValueError: If a setting, the facts or the checkpoint is at fault.
    """
    metrics = train_editor(config)
    checkpoint = Path(config.paths.output_dir, "checkpoints", "last.ckpt")
    settings = {"method": config.editor.name, "ckpt_path": checkpoint, "passages": "gold"}
    say_written(
        {config.paths.output_dir: ["checkpoints/last.ckpt", "metrics.json"]},
        [next_command(config, "evaluate", settings, ("data", "backbone", "editor"))],
    )
    return metrics


def train_editor(
    config: DictConfig, backbone: Backbone | None = None, dataset: QADataset | None = None
) -> dict[str, float]:
    """Train, write ``metrics.json`` into the run directory, and return what was measured.

    Args:
        config: ``conf/train_editor.yaml``, composed.
        backbone: The backbone, if the caller has loaded it; default: ``config.backbone``.
        dataset: The data set, if the caller has loaded it; default: ``config.data``.

    Returns:
        The last value of all that was logged, ``steps``, ``facts``, ``parameters`` and ``seconds``.

    Raises:
        CheckpointError: If ``ckpt_path`` names no checkpoint that can be loaded. The training does
            not start afresh then.
        DivergedError: If a value is not finite, or nothing can be learnt.
        ValueError: If a setting or the facts are at fault.
    """
    check_ckpt_path(config.ckpt_path)
    watch = Stopwatch()
    editor: Any = OmegaConf.to_container(config.editor, resolve=True)
    with mounted("editor"):
        check_choice("name", editor["name"], tuple(_NETWORKS))
        check_choice("recipe", editor["recipe"], tuple(editor["recipes"]))
        settings = read_recipe(editor["name"], editor["recipe"], editor["recipes"])
    trainer = make_trainer(config)
    seed(config.seed)
    facts = _facts(config, dataset)
    backbone = backbone or training_backbone(config)
    with mounted(f"editor.recipes.{editor['recipe']}"):
        networks = _NETWORKS[editor["name"]](backbone, settings, config.seed)
    cache = Path(config.paths.cache_dir, "frozen").expanduser() if config.cache_frozen else None
    module = EditorModule(backbone, networks, config.facts.statistics, cache)
    with mounted("facts"):
        examples = EditExamples(backbone, facts, config.facts.max_tokens, config.seed)
        data = EditData(examples, settings.edits, config.facts.held_out, config.seed)
    metrics = {
        **fit(trainer, module, data, config.ckpt_path),
        "facts": float(len(data.training)),
        "parameters": float(sum(p.numel() for p in networks.parameters())),
        "seconds": watch.seconds,
    }
    write_metrics(trainer, config.paths.output_dir, metrics)
    return metrics


def _facts(config: DictConfig, dataset: QADataset | None) -> list[Fact]:
    some = config.facts
    with mounted("facts"):
        check_limit(some.limit)
        if some.statistics < 2:
            raise SettingValueError(
                "statistics", f"statistics needs at least 2 facts, got {some.statistics}"
            )
    if some.path is not None:
        return read_facts(some.path)[: some.limit]
    dataset = dataset or instantiate(config.data)
    ready = getattr(dataset, "facts", {})  # of a set of facts, such as CounterFact
    if some.split in ready:
        return list(ready[some.split][: some.limit])
    return question_facts(dataset, some.split, list(some.rephrased))[: some.limit]
