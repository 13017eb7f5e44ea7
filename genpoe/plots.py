"""The course of a training, drawn from its CSV log."""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path

_CURVES = {
    "train/loss": ("training, own passage", "0.75"),
    "val/loss": ("held out, own passage", "tab:blue"),
    "val/loss_shuffled": ("held out, another passage", "tab:orange"),
}


def read_curves(path: Path) -> dict[str, list[tuple[int, float]]]:
    """Each metric of a ``CSVLogger`` file as (step, value) pairs.

    Raises:
        ValueError: If the file has no column ``step``.
    """
    curves: dict[str, list[tuple[int, float]]] = defaultdict(list)
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if "step" not in row:
                raise ValueError(f"{path} is no log of a training: it has no column 'step'")
            for name, value in row.items():
                if name not in ("step", "epoch") and value:
                    curves[name].append((int(row["step"]), float(value)))
    return dict(curves)


def plot_training(log: Path, picture: Path) -> None:
    """Draw training and validation loss over steps; the gap of the latter two is the knowledge."""
    from matplotlib.figure import Figure

    curves = read_curves(log)
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name, (label, color) in _CURVES.items():
        if name in curves:
            steps, values = zip(*curves[name], strict=True)
            marker = "o" if len(steps) < 30 else None
            axes.plot(steps, values, label=label, color=color, marker=marker, markersize=4)
    axes.set(xlabel="optimiser step", ylabel="answer nll (nats per token)")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(picture, dpi=120)
