"""``make train``: train two hypernetworks, evaluate them beside baselines, and print one table.

Both are trained on the same batches for the same number of steps: the paper's, whose rows are
called ``genpoe``, and the one that reads, whose rows are called ``reader``.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from backbone.loading import training_backbone
from backbone.model import Backbone
from backbone.read_prompts import ReadPrompts
from genpoe.commands.train_hypernet import evaluation_of, train
from genpoe.method import GenPoEMethod
from genpoe.training.curves import plot_training
from plumbing.cli import say_written
from plumbing.output import show
from plumbing.storage.files import write_json
from plumbing.training.checkpoint import AtomicCheckpointIO, load_checkpoint, previous_path
from qa.data.dataset import QADataset
from qa.evaluation.evaluate import evaluate
from qa.evaluation.pairing import differences
from qa.evaluation.run_folder import read_predictions
from qa.method import AnsweringMethod, BaseMethod, RAGMethod
from qa.passages.choose import make_passage_source
from qa.tables.tables import Setting, results_table

log = logging.getLogger(__name__)
LAST = "last.ckpt"


def quickstart(config: DictConfig) -> dict[str, float]:
    """Train, evaluate and print the table.

    Args:
        config: ``conf/quickstart.yaml``, composed.

    Returns:
        The content of ``metrics.json`` in the run directory: flat keys ``<setting>/<metric>``. A
        setting is ``base``, ``rag/gold``, ``genpoe/norag/gold``, ``reader/norag/gold``, …

    Raises:
        ValueError: If there is more than one device, or if a setting is wrong.
        CheckpointError: If ``ckpt_path`` names no checkpoint that can be loaded.
    """
    run_dir = Path(config.paths.output_dir)
    if config.trainer.devices != 1:
        raise ValueError(
            f"the quickstart runs on one device, got trainer.devices={config.trainer.devices}; for "
            "several use scripts/train_hypernet.py, then scripts/evaluate.py"
        )
    trainings = {"genpoe": config}
    if config.reader is not None:
        # It comes first, because it looks at more states, and those are computed once for both.
        trainings = {"reader": _of_reader(config), **trainings}
    for name, training in trainings.items():
        if training.ckpt_path is None:
            key = "reader.ckpt_path" if name == "reader" else "ckpt_path"
            _set_aside(Path(training.paths.output_dir), key)
    dataset: QADataset = instantiate(config.data)
    backbone = training_backbone(config)
    checkpoints: dict[str, Path] = {}
    for name, training in trainings.items():
        log.info("training %d of %d: %s", len(checkpoints) + 1, len(trainings), name)
        checkpoints[name] = _train(training, backbone, dataset)
    metrics = compare(config.evaluation, backbone, dataset, checkpoints, run_dir)
    write_json(run_dir / "metrics.json", metrics)
    gains = paired(run_dir, metrics)
    write_json(run_dir / "differences.json", gains)
    table = "\n".join([results_table(metrics), *map(_sentence, gains)]) + "\n"
    (run_dir / "table.md").write_text(table, encoding="utf-8")
    show(f"\n{table}")
    files = ["table.md", "training.png", "metrics.json", "differences.json"]
    written = [*files, *(str(path.relative_to(run_dir)) for path in checkpoints.values())]
    say_written({run_dir: written}, [evaluation_of(training) for training in trainings.values()])
    return metrics


def _of_reader(config: DictConfig) -> DictConfig:
    """The settings of the second training: those of the first, but for the section ``reader``."""
    differing: Any = OmegaConf.to_container(config.reader, resolve=True)
    hypernet = differing.pop("hypernet")
    folder = str(Path(config.paths.output_dir, "reader"))
    changed: Any = OmegaConf.merge(config, differing, {"paths": {"output_dir": folder}})
    changed.hypernet = hypernet
    return changed


def _train(config: DictConfig, backbone: Backbone, dataset: QADataset) -> Path:
    """Train one hypernetwork, draw its curves, and keep what its evaluation needs."""
    run_dir = Path(config.paths.output_dir)
    train(config, backbone, dataset)
    (run_dir / "metrics.json").replace(run_dir / "training.json")
    if (run_dir / "csv").is_dir():
        plot_training(run_dir / "csv", run_dir / "training.png")
    checkpoint = run_dir / "checkpoints" / LAST
    _drop_optimizer(checkpoint)
    return checkpoint


def _drop_optimizer(path: Path) -> None:
    """Keep no state of the optimiser, which has ended its work and is twice the weights' size."""
    checkpoint = load_checkpoint(path)
    checkpoint.pop("optimizer_states", None)
    AtomicCheckpointIO().save_checkpoint(checkpoint, path)
    previous_path(path).unlink(missing_ok=True)


def _set_aside(run_dir: Path, key: str) -> None:
    """Move an earlier run's logs and checkpoints to ``previous/``, apart from those of this run.

    If that run was interrupted, the setting ``key`` goes on with it.
    """
    for name in ("csv", "tensorboard", "checkpoints"):
        if (run_dir / name).is_dir():
            previous = run_dir / "previous" / name
            shutil.rmtree(previous, ignore_errors=True)
            previous.parent.mkdir(exist_ok=True)
            (run_dir / name).rename(previous)
            if name == "checkpoints":
                what = "an earlier run's are kept; if it was interrupted, %s=%s goes on with it"
                log.info(what, key, previous / LAST)


def compare(
    settings: Any,
    backbone: Backbone,
    dataset: QADataset,
    checkpoints: Mapping[str, Path],
    run_dir: Path,
) -> dict[str, float]:
    """Evaluate Base, RAG, and each hypernetwork without and with RAG.

    Each method that uses passages is also evaluated with the passages of other questions. Rows
    with the same prompts share their reading, where nothing below the final FFN differs.

    Args:
        settings: ``split``, ``limit``, ``limit_rag``, ``batch_size`` and ``max_new_tokens``.
        backbone: The frozen model.
        dataset: Questions and passages.
        checkpoints: The checkpoint of each trained hypernetwork, by the name of its rows.
        run_dir: The folder in which each setting gets a folder for its predictions.

    Returns:
        The metrics, with keys ``<setting>/<metric>``.
    """
    tokens = settings.max_new_tokens
    methods: dict[tuple[str, bool], AnsweringMethod] = {
        ("base", False): BaseMethod(backbone, False, tokens),
        ("rag", True): RAGMethod(backbone, True, tokens),
    }
    for name, checkpoint in checkpoints.items():
        for rag in (False, True):
            methods[name, rag] = GenPoEMethod(backbone, str(checkpoint), rag, tokens)
    rows = [
        Setting(name, rag, kind)
        for (name, rag), method in methods.items()
        for kind in (("gold", "shuffled") if method.uses_passages else ("",))
    ]
    questions = dataset.split(settings.split)
    metrics: dict[str, float] = {}
    for _, alike in groupby(sorted(rows, key=_prompts), _prompts):
        read = ReadPrompts()
        for row in alike:
            method = methods[row.method, row.rag]
            if not isinstance(method, GenPoEMethod) or method.keeps_prompts:
                method.read_prompts = read
            measured = evaluate(
                method,
                questions,
                make_passage_source(row.passages or "gold", dataset, seed=0),
                run_dir / row.key,
                batch_size=settings.batch_size,
                limit=settings.limit_rag if row.rag else settings.limit,
            )
            metrics |= {f"{row.key}/{metric}": value for metric, value in measured.items()}
    return metrics


def _prompts(row: Setting) -> tuple[bool, str]:
    """Rows for which this is the same have the same prompts."""
    return row.rag, row.passages if row.rag else ""


# Two settings that are compared, the score, and the label of the difference.
_PAIRS = (
    ("genpoe/norag/gold", "genpoe/norag/shuffled", "em", "EM, GenPoE, own − another's passage"),
    ("genpoe/norag/shuffled", "genpoe/norag/gold", "nll", "nll, GenPoE, another's − own passage"),
    ("reader/norag/gold", "reader/norag/shuffled", "em", "EM, reader, own − another's passage"),
    ("reader/norag/shuffled", "reader/norag/gold", "nll", "nll, reader, another's − own passage"),
    ("reader/norag/gold", "genpoe/norag/gold", "em", "EM, reader − GenPoE"),
    ("genpoe/norag/gold", "reader/norag/gold", "nll", "nll, GenPoE − reader"),
    ("genpoe/rag/gold", "rag/gold", "em", "EM, GenPoE with RAG − RAG"),
    ("genpoe/rag/gold", "rag/gold", "f1", "F1, GenPoE with RAG − RAG"),
    ("rag/gold", "genpoe/rag/gold", "nll", "nll, RAG − GenPoE with RAG"),
    ("reader/rag/gold", "rag/gold", "em", "EM, reader with RAG − RAG"),
    ("rag/gold", "reader/rag/gold", "nll", "nll, RAG − reader with RAG"),
)


def paired(run_dir: Path, metrics: Mapping[str, float]) -> list[dict[str, Any]]:
    """Paired differences between rows of the table that answered the same questions.

    Args:
        run_dir: The folder in which `compare` left the predictions.
        metrics: What it returned. Pairs of which it has not both rows are left out.

    Returns:
        For each pair: its label, the mean difference, the ends of its 95 % interval (null where
        there is none), and the number of questions. EM and F1 are in points, the nll in nats per
        token.

    Raises:
        DataError: If two rows answered other questions.
    """
    gains = []
    for left, right, score, label in _PAIRS:
        if not {f"{left}/{score}", f"{right}/{score}"} <= metrics.keys():
            continue
        ours, theirs = (
            read_predictions(run_dir / key / "predictions.jsonl") for key in (left, right)
        )
        found = differences(ours, theirs)
        ends = {end: found.get(f"{score}_{end}") for end in ("low", "high")}
        gains.append({"what": label, "mean": found[score], **ends, "n": found["n"]})
    return gains


def _sentence(gain: dict[str, Any]) -> str:
    interval = "" if gain["low"] is None else f" [{gain['low']:.2f}, {gain['high']:.2f}]"
    return f"* {gain['what']}: {gain['mean']:.2f}{interval} (n = {gain['n']})"
