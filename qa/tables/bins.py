"""Scores in groups of questions, by how uncertain the backbone is, as a page (DMoE Table 5)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from qa.tables.side_by_side import TRIGGER_RATE, Evaluated, plot, table
from qa.tables.tables import SCORES, markdown_table, with_interval

Grouped = Mapping[str, Mapping[str, Mapping[str, float] | float]]
"""What `qa.evaluation.bins.in_bins` returns."""


def bin_rows(grouped: Grouped) -> list[Evaluated]:
    """The scores as rows of a table or a figure: one for each group and label."""
    return [
        Evaluated(
            {"Group": number, "Run": label},
            dict(found),
        )
        for label, numbered in grouped.items()
        for number, found in numbered.items()
        if isinstance(found, Mapping)
    ]


def plot_bins(grouped: Grouped, picture: Path) -> None:
    """Draw EM, F1 and nll over the groups, a line for each label."""
    drawn = {name: SCORES[name][0] for name in ("em", "f1", "nll")}
    plot(bin_rows(grouped), picture, drawn)


def bins_page(grouped: Grouped, baseline: str, of: str) -> str:
    """The page in Markdown, with a table of the groups and one of the rank correlations.

    Args:
        grouped: What `qa.evaluation.bins.in_bins` returned.
        baseline: The label of the run that is sorted, and with which the others are compared.
        of: How the uncertainty of a question is made of those of its tokens.
    """
    gains = {
        f"{name}_gain": (f"{heading} − {baseline}", digits)
        for name, (heading, digits) in SCORES.items()
    }
    triggers = {**TRIGGER_RATE, "triggered_questions": ("questions triggered (%)", 1)}
    rows = [
        Evaluated({**row.labels, "Uncertainty": _between(row.metrics)}, row.metrics)
        for row in bin_rows(grouped)
    ]
    groups = table(rows, {"n": ("n", 0), **SCORES, **gains, **triggers})
    correlations: list[list[str]] = []
    for label, found in grouped.items():
        numbers = {name: value for name, value in found.items() if isinstance(value, float)}
        correlations += [
            [label, heading, with_interval(numbers, f"{name}_certainty", 2)]
            for name, (heading, _) in SCORES.items()
            if f"{name}_certainty" in numbers
        ]
    ranks = markdown_table(correlations, ["Run", "Score", "Correlation"], labels=2)
    return (
        f"The questions in groups of equal size, by how uncertain the backbone is in {baseline!r}: "
        f"the {of} entropy in nats\nof the tokens of its answer that it predicts before an expert "
        "acts.\n\n"
        f"{groups}\nHow closely the scores of single questions follow the certainty, the negated "
        "uncertainty: Spearman's rank\ncorrelation. For EM and F1 it is above 0 if uncertain "
        f"questions are answered worse.\n\n{ranks}"
    )


def _between(metrics: Mapping[str, float]) -> str:
    return f"{metrics['uncertainty_low']:.2f}–{metrics['uncertainty_high']:.2f}"
