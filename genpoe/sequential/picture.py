"""Heat maps of sequential editing: one panel a method, states by batches."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

from genpoe.sequential.summary import Cells

_COLUMNS = 4  # panels in a row
_SIDE = 2.9  # inches of a panel


def draw_matrices(panels: Mapping[str, Cells], path: Path, score: str = "em") -> None:
    """Draw the cells of several methods in one figure.

    The last state is at the bottom. On and below the stairs are edits that were made; above them
    are edits not yet made, as a control.

    Args:
        panels: The cells of each panel, by its title.
        path: The PNG file.
        score: The score that is drawn, in percent.
    """
    from matplotlib.figure import Figure

    columns = min(_COLUMNS, len(panels))
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(_SIDE * columns + 1, _SIDE * lines + 0.6), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False)
    image = None
    for axis, (title, matrix) in zip(axes.flat, panels.items(), strict=False):
        image = _panel(axis, title, matrix, score)
    for axis in list(axes.flat)[len(panels) :]:
        axis.set_axis_off()
    for axis in axes[:, 0]:
        axis.set_ylabel("edited batches")
    for axis in list(axes.flat)[max(0, len(panels) - columns) : len(panels)]:
        axis.set_xlabel("batch that is asked about")
    if image is not None:
        bar = figure.colorbar(image, ax=axes, shrink=0.8)
        bar.set_label(f"{score.upper()} (%)")
    figure.suptitle("Below the red stairs: edits made.\nAbove: not yet made.", fontsize=9)
    figure.savefig(path, dpi=150)


def _panel(axis: Any, title: str, matrix: Cells, score: str) -> Any:
    states = sorted({state for state, _ in matrix})
    batches = sorted({batch for _, batch in matrix})
    values = [
        [matrix.get((state, batch), {}).get(score, math.nan) for batch in batches]
        for state in states
    ]
    image = axis.imshow(values, vmin=0, vmax=100, cmap="viridis", aspect="auto")
    size = 8 if len(batches) <= 8 else 6
    for y, x in product(range(len(states)), range(len(batches))):
        if not math.isnan(value := values[y][x]):
            color = "black" if value > 60 else "white"
            axis.text(x, y, f"{value:.0f}", ha="center", va="center", color=color, fontsize=size)
    for y, state in enumerate(states):  # the stairs between what was edited and what was not
        made = sum(batch <= state for batch in batches)
        if 0 < made < len(batches):
            axis.plot([made - 0.5] * 2, [y - 0.5, y + 0.5], color="red", lw=1.5)
        if made and y and batches[made - 1] == state:
            axis.plot([made - 1.5, made - 0.5], [y - 0.5] * 2, color="red", lw=1.5)
    axis.set_title(title, fontsize=10)
    axis.set_xticks(range(len(batches)), [str(each) for each in batches])
    axis.set_yticks(range(len(states)), [str(each) for each in states])
    return image
