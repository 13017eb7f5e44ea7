"""What a device and a disk have, and how many devices a configuration asks for."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from plumbing.devices import peak_rss
from plumbing.mounts import SettingValueError
from plumbing.settings import check_types

GIB = 2**30
_CUDA_CONTEXT = 600 * 2**20  # of a process on a GPU: the context and the libraries' kernels
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class PlanSettings:
    """The section ``plan``: for which machine ``dry_run=true`` plans, and what it measures.

    Attributes:
        memory_gib: The memory of a device in GiB. None takes that of this machine.
        disk_gib: The free disk space in GiB. None takes that of this machine.
        steps: Steps that are run to measure the time of one; 0 measures nothing.

    Raises:
        ValueError: If a setting has another type or is out of range.
    """

    memory_gib: float | None = None
    disk_gib: float | None = None
    steps: int = 3

    def __post_init__(self) -> None:
        check_types(self)
        for name in ("memory_gib", "disk_gib"):
            if (value := getattr(self, name)) is not None and not value > 0:
                raise SettingValueError(name, f"{name} must be positive, got {value}")
        if self.steps < 0:
            raise SettingValueError("steps", f"steps must be at least 0, got {self.steps}")


@dataclass(frozen=True)
class Machine:
    """The devices that a run is planned for.

    Attributes:
        kind: "gpu" or "cpu".
        processes: How many processes train together, on all machines.
        memory: The bytes that each of them may use.
        process: The bytes that a process takes by itself.
        settings: The section ``plan``.
        here: Whether this machine has such devices, so that steps can be measured on it.
    """

    kind: str
    processes: int
    memory: int
    process: int
    settings: PlanSettings
    here: bool

    @classmethod
    def of(cls, trainer: DictConfig, settings: PlanSettings) -> Machine:
        """The devices that the section ``trainer`` asks for.

        Raises:
            SettingValueError: If it asks for GPUs, and this machine has none to look at.
        """
        has_gpu = torch.cuda.is_available()
        named = trainer.get("accelerator", "auto")
        kind = "gpu" if named in ("gpu", "cuda") or (named == "auto" and has_gpu) else "cpu"
        here = kind == "cpu" or has_gpu
        if not here and settings.memory_gib is None:
            raise SettingValueError(
                "plan.memory_gib",
                "there is no GPU here whose memory could be looked at",
                "set {} to that of one of the GPUs, such as 48",
            )
        on_each = _devices(trainer.get("devices", 1), kind)
        own = settings.memory_gib
        free = int(own * GIB) if own is not None else _memory(kind, on_each)
        process = _CUDA_CONTEXT if kind == "gpu" else peak_rss()
        return cls(kind, on_each * int(trainer.get("num_nodes", 1)), free, process, settings, here)

    def disk_free(self, folder: str | Path) -> int:
        """The free bytes of the disk on which a folder is, or will be."""
        if self.settings.disk_gib is not None:
            return int(self.settings.disk_gib * GIB)
        return shutil.disk_usage(_existing(folder)).free

    def same_disk(self, one: str | Path, other: str | Path) -> bool:
        """Whether two folders are on the same disk."""
        return _existing(one).stat().st_dev == _existing(other).stat().st_dev


def _existing(folder: str | Path) -> Path:
    path = Path(folder).expanduser().absolute()
    return next(each for each in (path, *path.parents) if each.exists())


def _devices(devices: Any, kind: str) -> int:
    """How many devices of a machine Lightning's ``devices`` names."""
    every = torch.cuda.device_count() if kind == "gpu" else 1
    if devices in ("auto", -1, "-1"):
        return max(1, every)
    if isinstance(devices, str) and "," in devices:
        return len([part for part in devices.split(",") if part.strip()])
    return len(devices) if not isinstance(devices, int | str) else int(devices)


def _memory(kind: str, processes: int) -> int:
    """The bytes of a GPU, or a process's share of this machine's memory."""
    if kind == "gpu":
        return int(torch.cuda.get_device_properties(0).total_memory)
    return available_memory() // processes


def available_memory() -> int:
    """The bytes that processes on this machine may still use, within the limit of a container."""
    try:
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
        named = dict(line.split(":", 1) for line in lines)
        found = int(named["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):  # no Linux
        found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = int((_CGROUP / "memory.max").read_text("ascii"))
        used = int((_CGROUP / "memory.current").read_text("ascii"))
    except (OSError, ValueError):  # no limit, or no container
        return found
    return min(found, limit - used)
