"""Fair ratios of running times: medians of several rounds, interleaved in one process."""

from __future__ import annotations

import platform
import random
import statistics
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import torch

from plumbing.progress import progress
from plumbing.stopwatch import Stopwatch
from plumbing.storage.files import write_json
from qa.tables.tables import flat

T = TypeVar("T")


def interleaved(tasks: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Measure the seconds of each task in each round; a first round warms up and does not count.

    Args:
        tasks: The tasks, by name; they take turns in every round.
        rounds: The number of rounds that count.

    Raises:
        ValueError: If ``rounds`` is not positive.
    """
    if rounds < 1:
        raise ValueError(f"rounds must be positive, got {rounds}; set rounds=…")
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for counted in progress([False] + [True] * rounds, "Measuring rounds"):
        for name, task in tasks.items():
            watch = Stopwatch()
            task()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if counted:
                seconds[name].append(watch.seconds)
    return seconds


def in_turns(
    ways: Mapping[str, Iterator[Any]],
) -> tuple[dict[str, list[Any]], dict[str, list[float]]]:
    """Run iterators of equal length in random turns; returns their items and each one's seconds."""
    found: dict[str, list[Any]] = {name: [] for name in ways}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    names, chance = list(ways), random.Random(0)
    while True:
        chance.shuffle(names)  # so that none always follows one that empties the caches
        for name in names:
            items, times = laps(islice(ways[name], 1))
            found[name] += items
            seconds[name] += times
            if not items:
                return found, seconds


def laps(items: Iterator[T]) -> tuple[list[T], list[float]]:
    """Run an iterator to its end; returns its items and the seconds that each took."""
    found, seconds, watch = [], [], Stopwatch()
    for item in items:
        seconds.append(watch.seconds)
        found.append(item)
        watch = Stopwatch()
    return found, seconds


def ratio(over: list[float], under: list[float]) -> dict[str, float]:
    """The median of the ratios of all rounds, with the smallest and the largest ratio."""
    ratios = [a / b for a, b in zip(over, under, strict=True)]
    return {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}


def with_range(found: Mapping[str, float], digits: int) -> str:
    """The median of a `ratio` with its smallest and largest value in brackets."""
    median, low, high = (f"{found[key]:.{digits}f}" for key in ("median", "min", "max"))
    return f"{median} ({low}–{high})"


def machine(device: str = "cpu") -> dict[str, Any]:
    """The machine of the measurements: the processor behind ``device``, threads and versions."""
    gpu = torch.cuda.get_device_name() if device != "cpu" and torch.cuda.is_available() else None
    return {
        "processor": gpu or _processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "system": platform.platform(),
    }


def write_report(folder: Path, name: str, result: dict[str, Any], lines: list[str]) -> None:
    """Write ``<name>.json``, its numbers as a flat ``metrics.json``, and ``<name>.md``.

    Args:
        folder: The folder of the three files.
        name: The name of the suite.
        result: What was measured; its key ``machine`` describes the machine.
        lines: The lines of the page in Markdown.
    """
    write_json(folder / f"{name}.json", result)
    write_json(folder / "metrics.json", flat(result))
    text = "\n".join(
        [*lines, "", *(f"- {key}: {value}" for key, value in result["machine"].items()), ""]
    )
    (folder / f"{name}.md").write_text(text, encoding="utf-8")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
