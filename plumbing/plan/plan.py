"""The plan of a run: how it is said, what is refused, and which setting would make it fit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from plumbing.output import show
from plumbing.plan.machine import GIB, Machine
from plumbing.plan.memory import Memory
from plumbing.storage.files import write_json

Change = dict[str, object]
"""Settings by their keys, such as ``{"batching.passages_per_batch": 4}``."""

_MEANING = {
    "process": "the process itself",
    "frozen": "frozen weights",
    "trained": "trained weights",
    "gradients": "gradients",
    "optimiser": "AdamW's state",
    "exchange": "exchange of gradients",
    "cached": "cached states of a step",
    "working": "activations and the like",
}


class PlanError(ValueError):
    """A run cannot fit on its devices or its disk; the message names a setting that would help."""


@dataclass(frozen=True)
class Plan:
    """What a run takes.

    Attributes:
        frozen: The number of parameters that are not trained.
        trained: The number of parameters that are.
        memory: The memory of each device.
        machine: The devices.
        disk: Bytes on disk by what they are for.
        disk_free: The free bytes there.
        folder: Where they are written.
        steps: The optimiser's steps, or groups of experts; None if they are not known.
        seconds: The estimated time; None if it is not known.
        notes: How the numbers came about, and what is not known.
    """

    frozen: int
    trained: int
    memory: Memory
    machine: Machine
    disk: Mapping[str, int]
    disk_free: int
    folder: str
    steps: int | None = None
    seconds: float | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def fits(self) -> bool:
        """Whether a device has the memory, and the disk the room."""
        return self.memory.total <= self.machine.memory and self.disk_bytes <= self.disk_free

    @property
    def disk_bytes(self) -> int:
        """The bytes that are written in all."""
        return sum(self.disk.values())

    def metrics(self) -> dict[str, float]:
        """The numbers as flat keys: bytes, parameters, steps and seconds."""
        numbers: dict[str, float] = {
            "plan/parameters/frozen": self.frozen,
            "plan/parameters/trained": self.trained,
            "plan/memory": self.memory.total,
            "plan/memory/free": self.machine.memory,
            "plan/disk": self.disk_bytes,
            "plan/disk/free": self.disk_free,
            "plan/processes": self.machine.processes,
            "plan/fits": float(self.fits),
        }
        numbers |= {f"plan/memory/{name}": size for name, size in self.memory.parts().items()}
        numbers |= {f"plan/disk/{name}": size for name, size in self.disk.items()}
        known = {"plan/steps": self.steps, "plan/seconds": self.seconds}
        return numbers | {name: float(n) for name, n in known.items() if n is not None}

    def lines(self) -> list[str]:
        """The plan as a page of text."""
        machine, parts = self.machine, self.memory.parts()
        count = machine.processes
        each = "device" if machine.kind == "gpu" else "process"
        rows = [
            ("Trained parameters", f"{self.trained:,}"),
            ("Frozen parameters", f"{self.frozen:,}"),
            ("Processes", f"{count} on the {machine.kind.upper()}"),
            (f"Memory of a {each}", f"{gib(self.memory.total)} of {gib(machine.memory)}"),
            *((f"  {_MEANING[name]}", gib(size)) for name, size in parts.items() if size),
            ("Disk", f"{gib(self.disk_bytes)} of {gib(self.disk_free)} free in {self.folder}"),
            *((f"  {name}", gib(size)) for name, size in self.disk.items() if size),
            ("Steps", "not known" if self.steps is None else f"{self.steps:,}"),
            ("Time", "not known" if self.seconds is None else f"about {duration(self.seconds)}"),
        ]
        width = max(len(name) for name, _ in rows)
        return [f"{name:<{width}}  {value}" for name, value in rows] + self.notes


def gib(size: int) -> str:
    """Bytes in GiB, or in MiB if they are few."""
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / 2**20:.0f} MiB"


def duration(seconds: float) -> str:
    """A time in the unit that suits it."""
    for unit, name in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 1.5 * unit:
            return f"{seconds / unit:.1f} {name}"
    return f"{seconds:.1f} seconds"


def conclude(
    plan: Plan,
    config: DictConfig,
    changes: Iterable[Change],
    planned: Callable[[DictConfig], Plan],
) -> dict[str, float]:
    """Print a plan, write its numbers into ``metrics.json``, and refuse a run that cannot fit.

    Args:
        plan: The plan of the run.
        config: The run's configuration; ``paths.output_dir`` is where the numbers go.
        changes: Changes of settings that could help, the least ones first.
        planned: Plans a run with a changed configuration. It may raise a `ValueError` or a
            `RuntimeError` if the settings are not possible together.

    Returns:
        The plan's numbers.

    Raises:
        PlanError: If the run cannot fit.
    """
    show("\n".join(plan.lines()))
    metrics = plan.metrics()
    write_json(Path(config.paths.output_dir) / "metrics.json", metrics)

    def changed(change: Change) -> Plan | None:
        other = deepcopy(config)
        OmegaConf.set_readonly(other, False)
        for key, value in change.items():
            OmegaConf.update(other, key, value)
        try:
            return planned(other)
        except (ValueError, RuntimeError):
            return None

    check_plan(plan, changes, changed)
    return metrics


def check_plan(
    plan: Plan, changes: Iterable[Change], planned: Callable[[Change], Plan | None]
) -> None:
    """Refuse a run that cannot fit.

    Args:
        plan: The plan of the run.
        changes: Changes of settings that could help, the least ones first.
        planned: Plans the run with such a change; None if these settings are not possible.

    Raises:
        PlanError: If it cannot fit. The message names the first change with which it would.
    """
    if plan.fits:
        return
    problems = []
    if plan.memory.total > plan.machine.memory:
        parts = sorted(plan.memory.parts().items(), key=lambda part: -part[1])[:3]
        most = ", ".join(f"{_MEANING[name]} {gib(size)}" for name, size in parts)
        problems.append(
            f"a device needs {gib(plan.memory.total)} of memory and has {gib(plan.machine.memory)} "
            f"({most})"
        )
    if plan.disk_bytes > plan.disk_free:
        problems.append(
            f"{plan.folder} needs {gib(plan.disk_bytes)} of disk and has {gib(plan.disk_free)} free"
        )
    raise PlanError(f"this run cannot fit: {'; '.join(problems)}; {_remedy(changes, planned)}")


def _remedy(changes: Iterable[Change], planned: Callable[[Change], Plan | None]) -> str:
    for change in changes:
        found = planned(change)
        if found is not None and found.fits:
            said = " ".join(f"{key}={value}" for key, value in change.items())
            return f"set {said}, which needs {gib(found.memory.total)} of memory"
    return (
        "no setting that was tried makes it fit; take devices with more memory, a disk with more "
        "room, or a smaller backbone"
    )
