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


def read_curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Read each metric of a ``CSVLogger`` as (step, value) pairs; joins the logs of a resumed run.

    Args:
        folder: Holds ``version_0/metrics.csv`` and, after a run went on, ``version_1`` and so on.
            Where they overlap, the later one counts.

    Raises:
        FileNotFoundError: If there is no log.
    """
    logs = sorted(folder.glob("version_*/metrics.csv"), key=lambda p: int(p.parent.name[8:]))
    if not logs:
        raise FileNotFoundError(f"{folder} holds no version_*/metrics.csv; train with logger=csv")
    curves: dict[str, dict[int, float]] = defaultdict(dict)
    for log in logs:
        with log.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                for name, value in row.items():
                    if name not in ("step", "epoch") and value:
                        curves[name][int(row["step"])] = float(value)
    return {name: sorted(points.items()) for name, points in curves.items()}


def plot_training(folder: Path, picture: Path) -> None:
    """Draw the training and validation losses over the steps into a picture.

    The gap between the two validation losses is the knowledge that comes from the passage.

    Args:
        folder: The folder of the ``CSVLogger``.
        picture: The file that is written.
    """
    from matplotlib.figure import Figure

    curves = read_curves(folder)
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
