"""``dry_run=true`` of ``scripts/train_hypernet.py``: what a training would take, before it begins.

The sizes come from the backbone's configuration, so that its weights need not be there. If they
are, and the plan fits, a few steps are measured as well.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning import Callback, LightningModule, Trainer
from omegaconf import DictConfig, OmegaConf

from backbone.loading import has_weights, training_backbone, training_shapes
from backbone.model import Backbone
from genpoe.hypernet.hypernet import Hypernet, HypernetSettings
from genpoe.training.datamodule import QADataModule
from genpoe.training.plan import (
    ANSWER_TOKENS,
    DataSize,
    StepSize,
    cached_bytes,
    checkpoint_bytes,
    data_size,
    is_counted,
    training_memory,
)
from genpoe.training.settings import BatchingSettings
from plumbing.devices import peak_rss
from plumbing.mounts import mounted
from plumbing.plan import Change, Machine, PeakMemory, Plan, PlanSettings, conclude
from plumbing.plan.plan import gib
from plumbing.settings import read_section
from plumbing.stopwatch import Stopwatch
from plumbing.training.setup import fit, make_trainer, seed
from qa.data.dataset import QADataset

_FEW = 8  # batches' worth of questions from which the measured steps are taken
_ROOM = 0.97  # share of the room that a changed batch is to fill

BuildModule = Callable[[DictConfig, Backbone], LightningModule]


@dataclass(frozen=True)
class _Known:
    """What is read once for a plan and all its changes."""

    machine: Machine
    shapes: Backbone | None
    dataset: QADataset | None
    problem: str


def plan_training(
    config: DictConfig,
    build_module: BuildModule,
    shapes: Backbone | None = None,
    dataset: QADataset | None = None,
) -> dict[str, float]:
    """Plan a training, print the plan, and refuse it if it cannot fit.

    Args:
        config: ``conf/train_hypernet.yaml``, composed.
        build_module: Makes the module that is trained, for the measurement.
        shapes: The backbone on the meta device, if the caller has one; nothing is measured then.
        dataset: The data set, if the caller has loaded it.

    Returns:
        The plan's numbers, which are also in ``metrics.json`` of the run folder.

    Raises:
        PlanError: If the run cannot fit on its devices or its disk. The plan has been printed.
        ValueError: If a setting is at fault.
    """
    settings = read_section(config, "plan", PlanSettings)
    machine = Machine.of(config.trainer, settings)
    problem = ""
    if dataset is None:
        try:
            dataset = instantiate(config.data)
        except (InstantiationException, ValueError, OSError, ImportError) as error:
            problem = str(error.__cause__ or error).splitlines()[0]
    known = _Known(machine, shapes, dataset, problem)
    plan, size = _plan(config, known)
    if shapes is None and settings.steps and plan.fits:
        plan = _with_measured(config, build_module, plan, size, known)
    return conclude(plan, config, _changes(config, plan), lambda other: _plan(other, known)[0])


def _plan(config: DictConfig, known: _Known) -> tuple[Plan, DataSize | StepSize]:
    """The plan without a measurement, and the size of the data, or of a step if that is unknown."""
    machine = known.machine
    batching = read_section(config, "batching", BatchingSettings)
    backbone = training_shapes(config, machine.kind == "gpu", known.shapes)
    hypernet = _hypernet(config, backbone)
    notes, size = [], None
    if known.dataset is not None and backbone.tokenizer is not None:
        size = data_size(known.dataset, backbone.tokenizer, batching, machine.processes)
    else:
        why = known.problem or "there is no tokenizer"
        notes.append(
            f"The data are not at hand ({why.rstrip('.')}), so a step is as large as batching "
            f"allows, with answers of {ANSWER_TOKENS} tokens."
        )
    largest = size.largest if size else StepSize.most(batching)
    notes.append(
        f"The largest step has {largest.questions} questions of {largest.tokens} tokens and "
        f"{largest.passages} passages of {largest.passage_tokens}."
    )
    working = None if is_counted(hypernet) else 0
    with mounted("trainer"):
        memory = training_memory(
            *(backbone, hypernet, largest, config.trainer.precision, machine.processes),
            *(config.cache_frozen, config.other_passages, working),
        )
    if working is not None:
        notes.append(
            f"The activations of {type(hypernet).__name__} are known only from measured steps."
        )
    top = max(0, int(OmegaConf.select(config, "callbacks.checkpoint.save_top_k", default=0)))
    disk = {"checkpoints": checkpoint_bytes(hypernet, config.trainer.precision, top)}
    states = cached_bytes(backbone, hypernet, size, config.cache_frozen) if size else 0
    output = Path(config.paths.output_dir)
    cache = Path(config.paths.cache_dir)
    if machine.same_disk(output, cache):
        disk["cached states"] = states
    elif states > machine.disk_free(cache):
        notes.append(f"The cached states take {gib(states)}, and {cache} has less.")
    if config.cache_frozen and size is None:
        notes.append("What the cached states take is known only with the data.")
    trained = sum(p.numel() for p in hypernet.parameters() if p.requires_grad)
    plan = Plan(
        sum(p.numel() for p in backbone.model.parameters()),
        trained,
        replace(memory, process=machine.process),
        machine,
        disk,
        machine.disk_free(output),
        str(output),
        None if size is None else _steps(config, size),
        notes=notes,
    )
    return plan, size or largest


def _hypernet(config: DictConfig, backbone: Backbone) -> Hypernet:
    settings: HypernetSettings = instantiate(config.hypernet)
    with mounted("hypernet"), torch.device("meta"):
        return settings.build(backbone)


def _steps(config: DictConfig, size: DataSize) -> int:
    accumulated = config.trainer.get("accumulate_grad_batches") or 1
    steps = -(-size.steps // accumulated) * config.trainer.max_epochs
    most = config.trainer.get("max_steps", -1)
    return steps if most in (None, -1) else min(steps, most)


class _Measure(Callback):
    """Counts what the first step makes, and takes the time of the others."""

    def __init__(self) -> None:
        self._counter, self._watch = PeakMemory(), Stopwatch()
        self.before = 0.0
        self.seconds: list[float] = []
        self.sizes: list[int] = []

    @property
    def made(self) -> int:
        """The most bytes that the first step made."""
        return self._counter.peak

    def on_fit_start(self, *_: Any) -> None:
        self._watch.lap()

    def on_train_start(self, *_: Any) -> None:
        self.before = self._watch.lap()

    def on_train_batch_start(self, trainer: Trainer, module: Any, batch: Any, _: int) -> None:
        self.sizes.append(batch["input_ids"].numel() + batch["passage_input_ids"].numel())
        if len(self.sizes) == 1:
            self._counter.__enter__()
        self._watch.lap()

    def on_after_backward(self, *_: Any) -> None:
        if not self.seconds:
            self._counter.__exit__(None, None, None)

    def on_train_batch_end(self, *_: Any) -> None:
        self.seconds.append(self._watch.lap())


def _with_measured(
    config: DictConfig,
    build_module: BuildModule,
    plan: Plan,
    size: DataSize | StepSize,
    known: _Known,
) -> Plan:
    """The plan with the time of its steps, and with activations that only a step can tell."""
    why = None
    if not isinstance(size, DataSize) or known.dataset is None:
        why = "the data are not at hand"
    elif not plan.machine.here:
        why = "this machine has no GPU"
    elif not has_weights(config.backbone.name, config.backbone.revision):
        why = "the backbone's weights are not on this machine"
    if why is not None or not isinstance(size, DataSize) or known.dataset is None:
        return replace(plan, notes=[*plan.notes, f"No step was measured: {why}."])
    found, few = _measure(config, build_module, known.dataset, plan.machine.settings.steps)
    measured = found.seconds[1:]
    each = sum(measured) / len(measured)
    kept = found.before * size.questions / few if config.cache_frozen else 0.0
    seconds = each * (plan.steps or 0) + kept
    memory, largest = plan.memory, size.largest
    if not memory.working:
        tokens = largest.questions * largest.tokens + largest.passages * largest.passage_tokens
        made = found.made * max(1.0, tokens / found.sizes[0])
        memory = replace(memory, working=max(0, int(made) - memory.gradients))
    note = (
        f"Measured: {each:.2f} seconds a step ({len(measured)} steps of one process on this "
        f"machine), {gib(peak_rss())} of resident memory at most"
    )
    note += f"; the cached states about {kept:.0f} seconds." if kept else "."
    return replace(plan, seconds=seconds, memory=memory, notes=[*plan.notes, note])


def _measure(
    config: DictConfig, build_module: BuildModule, dataset: QADataset, steps: int
) -> tuple[_Measure, int]:
    """Train for a few steps, and keep nothing of it; also returns how many questions were read."""
    batching = read_section(config, "batching", BatchingSettings)
    few = _FEW * batching.passages_per_batch * batching.questions_per_passage
    few = min(few, batching.train_limit or few)
    changed = asdict(batching) | {"train_limit": few, "val_split": None}
    measure, here = _Measure(), deepcopy(config)
    OmegaConf.set_readonly(here, False)
    with tempfile.TemporaryDirectory() as folder:
        OmegaConf.update(here, "paths.cache_dir", folder)
        seed(config.seed)
        trainer = make_trainer(
            here,
            **{"max_steps": steps + 1, "max_epochs": steps + 1, "devices": 1, "num_nodes": 1},
            **{"strategy": "auto", "logger": False, "callbacks": [measure]},
            **{"enable_checkpointing": False, "enable_progress_bar": False},
        )
        backbone = training_backbone(here)
        module = build_module(here, backbone)
        datamodule = QADataModule(dataset, backbone.tokenizer, **changed)
        fit(trainer, module, datamodule)
        del module, trainer, backbone
    return measure, few


def _changes(config: DictConfig, plan: Plan) -> Iterator[Change]:
    """Changes that could make a plan fit, the least ones first."""
    batching = config.batching
    passages, questions = batching.passages_per_batch, batching.questions_per_passage
    room = plan.machine.memory - plan.memory.total + plan.memory.working
    share = _ROOM * room / max(1, plan.memory.working)
    if plan.disk_bytes > plan.disk_free:
        if config.cache_frozen:
            yield {"cache_frozen": False}
        if OmegaConf.select(config, "callbacks.checkpoint.save_top_k", default=0):
            yield {"callbacks.checkpoint.save_top_k": 0}
    if 1 <= passages * share < passages:
        yield {"batching.passages_per_batch": int(passages * share)}
    smallest: Change = {"batching.passages_per_batch": 1}
    if questions > 1:
        few = min(questions, max(1, int(passages * questions * share)))
        yield smallest | {"batching.questions_per_passage": few}
        smallest |= {"batching.questions_per_passage": 1}
    lighter: Change = {}
    if config.backbone.dtype in ("auto", "float32"):
        lighter |= {"backbone.dtype": "bfloat16"}
        yield from (dict(lighter), lighter | smallest)
    if str(config.trainer.precision) not in ("bf16-true", "16-true"):
        lighter |= {"trainer.precision": "bf16-true"}
        yield from (dict(lighter), lighter | smallest)
    for name in ("hidden_width", "rank"):
        width = config.hypernet.get(name)
        if isinstance(width, int) and width > 1:
            yield {f"hypernet.{name}": width // 2}
            lighter |= {f"hypernet.{name}": width // 2}
            yield lighter | smallest
