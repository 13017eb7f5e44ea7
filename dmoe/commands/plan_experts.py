"""``dry_run=true`` of ``scripts/build_experts.py``: what a bank would take, before it is built.

The sizes come from the backbone's configuration, so that its weights need not be there. If they
are, and the plan fits, some experts are trained to measure their time. The bank is not touched.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from backbone.final_ffn import FinalFFN
from backbone.loading import has_weights, training_backbone, training_shapes
from backbone.model import Backbone
from dmoe.bank import Bank, BankError, ExpertLayout
from dmoe.training.grouped import GroupedTrainer
from dmoe.training.groups import Groups
from dmoe.training.plan import (
    GroupSize,
    LessonsSize,
    group_memory,
    labels_of,
    lessons_size,
    part_of,
)
from dmoe.training.settings import typed_settings
from plumbing.devices import peak_rss
from plumbing.plan import Change, Machine, Plan, PlanSettings, conclude
from plumbing.plan.plan import gib
from plumbing.settings import read_section
from plumbing.stopwatch import Stopwatch
from retrieval.passage import Passage

_MEASURED = 4  # experts that are trained for each of ``plan.steps``


class _NoBank:
    """Stands for a bank that is not there yet."""

    def missing(self, passages: Iterable[Passage]) -> Iterator[Passage]:
        """Yield every passage."""
        yield from passages


@dataclass(frozen=True)
class _Known:
    """What is read once for a plan and all its changes."""

    machine: Machine
    shapes: Backbone | None
    lessons: Any
    bank: Any


def plan_experts(
    config: DictConfig,
    lessons: Any,
    shapes: Backbone | None = None,
) -> dict[str, float]:
    """Plan the building of experts, print the plan, and refuse it if it cannot fit.

    Args:
        config: ``conf/build_experts.yaml``, composed.
        lessons: Makes the stream of lessons; None if the data are not at hand.
        shapes: The backbone on the meta device, if the caller has one; nothing is measured then.

    Returns:
        The plan's numbers, which are also in ``metrics.json`` of the run folder.

    Raises:
        PlanError: If it cannot fit on its devices or its disk. The plan has been printed.
        ValueError: If a setting is at fault.
    """
    settings = read_section(config, "plan", PlanSettings)
    machine = _machine(config, settings)
    try:
        bank: Any = Bank.open(config.bank.dir, None, read_only=True)
    except BankError:
        bank = _NoBank()
    known = _Known(machine, shapes, lessons, bank)
    plan, size = _plan(config, known)
    if shapes is None and settings.steps and plan.fits:
        plan = _with_measured(config, plan, size, settings.steps)
    return conclude(plan, config, _changes(config, plan), lambda other: _plan(other, known)[0])


def _machine(config: DictConfig, settings: PlanSettings) -> Machine:
    """The devices of the trainer, or the workers of Ray."""
    if config.engine != "ray":
        return Machine.of(config.trainer, settings)
    kind = "gpu" if config.ray.gpus_per_worker else "cpu"
    workers = {"accelerator": kind, "devices": config.ray.workers}
    return Machine.of(OmegaConf.create(workers), settings)


def _plan(config: DictConfig, known: _Known) -> tuple[Plan, LessonsSize | None]:
    machine = known.machine
    spec, recipe, limits = typed_settings(config)
    backbone = training_shapes(config, machine.kind == "gpu", known.shapes)
    notes, size, largest = [], None, GroupSize.most(limits)
    if known.lessons is not None and backbone.tokenizer is not None:
        groups = Groups(
            *(known.lessons, known.bank, backbone.tokenizer),
            *(list(config.instances.formats), recipe, limits),
        )
        size = lessons_size(groups)
        if size.largest is not None:
            largest = GroupSize.of(size.largest)
        notes.append(
            f"{size.experts} experts in {size.groups} groups; {groups.skipped} are in the bank "
            f"already, and {len(groups.without)} passages have no instances."
        )
    else:
        notes.append("The lessons are not at hand, so a group is as large as limits allow.")
    notes.append(f"The largest group has {len(largest.labels)} experts and {largest.total} labels.")
    memory = group_memory(backbone, largest, spec, recipe, limits)
    layout = ExpertLayout(spec.shapes(FinalFFN(backbone).sizes), config.bank.dtype)
    folder = Path(config.bank.dir)
    plan = Plan(
        sum(p.numel() for p in backbone.model.parameters()),
        layout.numel * (size.experts if size else len(largest.labels)),
        replace(memory, process=machine.process),
        machine,
        {"experts": layout.row_bytes * (size.experts if size else 0)},
        machine.disk_free(folder),
        str(folder),
        None if size is None else -(-size.groups // machine.processes),
        notes=notes,
    )
    return plan, size


def _with_measured(config: DictConfig, plan: Plan, size: LessonsSize | None, steps: int) -> Plan:
    """The plan with the time that experts take, by training a few of them."""
    why = None
    if size is None:
        why = "the lessons are not at hand"
    elif size.largest is None:
        why = "there is nothing to build"
    elif not plan.machine.here:
        why = "this machine has no GPU"
    elif not has_weights(config.backbone.name, config.backbone.revision):
        why = "the backbone's weights are not on this machine"
    if size is None or size.largest is None or why is not None:
        return replace(plan, notes=[*plan.notes, f"Nothing was measured: {why}."])
    spec, recipe, limits = typed_settings(config)
    backbone = training_backbone(config)
    if plan.machine.kind == "gpu":
        backbone.to("cuda")
    trainer = GroupedTrainer(FinalFFN(backbone), spec, recipe, limits)
    some = part_of(size.largest, _MEASURED * steps)
    watch = Stopwatch()
    trainer.train([passage.id for passage in some.passages], some.instances)
    spent = watch.seconds
    seconds = spent * size.labels / labels_of([some]) / plan.machine.processes
    note = (
        f"Measured: {spent:.1f} seconds for {len(some.passages)} experts on this machine, "
        f"{gib(peak_rss())} of resident memory at most."
    )
    return replace(plan, seconds=seconds, notes=[*plan.notes, note])


def _changes(config: DictConfig, plan: Plan) -> Iterator[Change]:
    """Changes that could make a plan fit, the least ones first."""
    if plan.disk_bytes > plan.disk_free and config.bank.dtype == "float32":
        yield {"bank.dtype": "bfloat16"}
    if plan.memory.total <= plan.machine.memory:
        return
    smaller: Change = {}
    size = config.limits.group_size
    while size > 1:
        size = max(1, size // 4)
        smaller |= {"limits.group_size": size, "limits.group_tokens": 128 * size}
        yield dict(smaller)
    shortest = {"limits.head_tokens": 64, "limits.trunk_tokens": config.recipe.max_tokens}
    smaller |= {key: n for key, n in shortest.items() if OmegaConf.select(config, key) > n}
    yield dict(smaller)
    if config.backbone.dtype in ("auto", "float32"):
        yield {"backbone.dtype": "bfloat16"}
        yield smaller | {"backbone.dtype": "bfloat16"}
