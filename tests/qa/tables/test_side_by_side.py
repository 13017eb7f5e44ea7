"""Evaluations side by side: a table, and a figure."""

from __future__ import annotations

from pathlib import Path

import pytest

from qa.tables.side_by_side import Evaluated, plot, table
from qa.tables.tables import SCORES


def test_a_table_shows_what_there_is() -> None:
    rows = [
        Evaluated({"k": "1"}, {"em": 10.0, "em_low": 5.0, "em_high": 15.0}),
        Evaluated({"k": "2"}, {"em": 20.0, "acc": 50.0}),
    ]
    assert table(rows, SCORES).splitlines() == [
        "| k | EM | Acc |",
        "| --- | ---: | ---: |",
        "| 1 | 10.0 (5.0–15.0) | – |",
        "| 2 | 20.0 | 50.0 |",
    ]


@pytest.mark.parametrize("labels", [["1", "20", "300"], ["a", "b", "a name that is long" * 2]])
def test_a_figure_is_drawn_of_numbers_and_of_names(labels: list[str], tmp_path: Path) -> None:
    third = 1 / 3
    end = third + 1e-17  # a mean of equal values is no end of its interval
    rows = [
        Evaluated({"run": label}, {"nll": third, "nll_low": end, "nll_high": third})
        for label in labels
    ]
    plot(rows, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
