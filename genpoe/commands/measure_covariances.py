"""``scripts/measure_covariances.py``: the covariances of an editor's layers, kept in the cache."""

from __future__ import annotations

import logging
import random
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from backbone.model import Backbone
from genpoe.editors.parts.covariance import (
    Covariances,
    covariance_folder,
    covariance_key,
    measure_covariances,
)
from genpoe.editors.recipes import EDITORS, layers_of, read_recipe
from plumbing.cli import next_command, say_written
from plumbing.mounts import mounted
from plumbing.settings import check_choice, check_limit
from plumbing.stopwatch import Stopwatch
from plumbing.storage.files import write_json
from plumbing.storage.folders import only_writer
from plumbing.storage.manifest import MANIFEST
from retrieval.passage import passage_text

log = logging.getLogger(__name__)


def measure_covariances_command(config: DictConfig) -> dict[str, float]:
    """`measured_covariances`, which then says what to type next.

    Raises:
        ValueError: If a setting or the corpus is at fault, or if there is too little text.
    """
    metrics, folder = measured_covariances(config)
    say_written(
        {config.paths.output_dir: ["metrics.json"], folder: []},
        [
            next_command(
                config,
                "evaluate",
                {"method": config.editor.name},
                ("data", "backbone", "editor"),
            )
        ],
    )
    return metrics


def measured_covariances(
    config: DictConfig, backbone: Backbone | None = None
) -> tuple[dict[str, float], Path]:
    """Measure the covariances, unless they are in the cache already.

    A run that was killed goes on where it was.

    Args:
        config: ``conf/measure_covariances.yaml``, composed.
        backbone: The backbone, if the caller has loaded it; default: ``config.backbone``.

    Returns:
        What was measured, and the folder in the cache: ``tokens``, ``passages``, ``seconds``, and
        for each layer what `genpoe.editors.parts.covariance.Gates` says.

    Raises:
        StatisticsError: If there are too few tokens, or if a covariance is singular.
        SettingValueError: If a setting is out of range.
    """
    watch = Stopwatch()
    editor: Any = OmegaConf.to_container(config.editor, resolve=True)
    with mounted("editor"):
        names = tuple(name for name, kind in EDITORS.items() if kind.statistics)
        check_choice("name", editor["name"], names)
        check_choice("recipe", editor["recipe"], tuple(editor["recipes"]))
        settings = read_recipe(editor["name"], editor["recipe"], editor["recipes"])
    check_limit(config.passages, "passages")
    layers, weight = layers_of(settings), getattr(settings, "weight", 2000.0)
    texts = _texts(config)
    backbone = backbone or instantiate(config.backbone)
    home = covariance_folder(config.paths.cache_dir)
    folder = home / covariance_key(backbone, layers, texts, config.max_tokens)
    with only_writer(folder, "folder of covariances", wait=True):
        if (folder / MANIFEST).is_file():
            found = Covariances.load(folder, backbone)
        else:
            with mounted(f"editor.recipes.{editor['recipe']}"):
                found = measure_covariances(
                    backbone,
                    layers,
                    texts,
                    config.max_tokens,
                    config.batch_size,
                    weight=weight,
                    partial=home / f"{folder.name}.partial",
                )
            found.save(folder)
    metrics = {"tokens": float(found.tokens), "passages": float(len(texts))}
    for layer, gates in found.gates.items():
        log.info("layer %d: %s", layer, gates)
        each = {"split_half": gates.split_half, "edits": gates.edits}
        each |= {"smallest": gates.smallest, "condition": gates.condition}
        metrics |= {f"layer_{layer}/{k}": v for k, v in each.items() if v is not None}
    metrics["seconds"] = watch.seconds
    write_json(Path(config.paths.output_dir) / "metrics.json", metrics)
    return metrics, folder


def _texts(config: DictConfig) -> list[str]:
    """The texts of a random sample of passages, in an order that is the same every time."""
    if config.corpus.path is None:
        every = list(instantiate(config.data).passages.values())
    else:
        corpus = instantiate(config.corpus)
        every = list(corpus.passages())
    count = len(every) if config.passages is None else min(config.passages, len(every))
    return [passage_text(each) for each in random.Random(config.seed).sample(every, count)]
