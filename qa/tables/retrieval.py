"""The paper's Table 5 (GenPoE, Appendix B) as Markdown, and its plot."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from qa.tables.tables import markdown_table

_RERANKED = "reranked/"
_LINES = {"": ("retrieved", "0.5"), _RERANKED: ("reranked", "tab:blue")}


def metric_names(metrics: Mapping[str, float]) -> list[str]:
    """The names of the metrics that have an interval, in their order, and without a prefix."""
    return [name for name in metrics if f"{name}_low" in metrics and "/" not in name]


def retrieval_table(metrics: Mapping[str, float]) -> str:
    """The table of one evaluation, with a row for each metric.

    The columns are the value as retrieved and, if there is a reranker, the value after reranking
    and the gain.

    Args:
        metrics: What `qa.evaluation.retrieval.evaluate_retrieval` returned.

    Returns:
        A Markdown table with 95 % intervals in brackets. Accuracy and recall are in percent, and
        their gains in percentage points.
    """
    names = metric_names(metrics)
    reranked = any(name.startswith(_RERANKED) for name in metrics)
    lines = []
    for name in names:
        keys = [name, *([f"{_RERANKED}{name}", f"{_RERANKED}{name}_gain"] if reranked else [])]
        lines.append([name, *(_cell(metrics, key) for key in keys)])
    headings = ["Metric", "Retrieved", *(["Reranked", "Gain"] if reranked else [])]
    return markdown_table(lines, headings, labels=1)


def plot_accuracy(metrics: Mapping[str, float], picture: Path, title: str = "") -> None:
    """Draw top-K accuracy over K before and after reranking, with 95 % intervals.

    Args:
        metrics: What `qa.evaluation.retrieval.evaluate_retrieval` returned.
        picture: The PNG file that is written.
        title: The title of the plot. If it is empty, there is none.
    """
    from matplotlib.figure import Figure

    names = [name for name in metric_names(metrics) if name.startswith("accuracy@")]
    ks = [int(name.partition("@")[2]) for name in names]
    figure = Figure(figsize=(5, 3.5), layout="constrained")
    axes = figure.subplots()
    for prefix, (label, color) in _LINES.items():
        keys = [f"{prefix}{name}" for name in names]
        if keys[0] in metrics:
            low, mean, high = (
                [metrics[f"{k}{end}"] for k in keys] for end in ("_low", "", "_high")
            )
            axes.plot(ks, mean, label=label, color=color, marker="o", markersize=4)
            axes.fill_between(ks, low, high, color=color, alpha=0.2, linewidth=0)
    axes.set_xscale("log", base=2)
    axes.set_xticks(ks, [str(k) for k in ks], minor=False)
    axes.minorticks_off()
    axes.set(xlabel="K", ylabel="top-K accuracy (%)", title=title)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(picture, dpi=120)


def _cell(metrics: Mapping[str, float], key: str) -> str:
    digits = 3 if "mrr" in key else 1  # mrr is between 0 and 1
    sign = "+" if key.endswith("_gain") else ""
    low, high = metrics[f"{key}_low"], metrics[f"{key}_high"]
    return f"{metrics[key]:{sign}.{digits}f} ({low:{sign}.{digits}f} … {high:{sign}.{digits}f})"
