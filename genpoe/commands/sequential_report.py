"""``scripts/sequential_report.py``: runs of sequential editing in one figure and one table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from genpoe.commands.sequential_edit import check_labels
from genpoe.sequential.report import labelled, write_report
from plumbing.cli import check_complete, say_written, type_shell
from plumbing.output import show


def sequential_report(config: DictConfig) -> dict[str, Any]:
    """Compare runs of ``scripts/sequential_edit.py`` that had the same stream.

    Args:
        config: Composed from ``conf/sequential_report.yaml``.

    Returns:
        The metrics of all runs as ``<label>/<metric>``.

    Raises:
        ValueError: If a run is missing, has not ended, or had another stream.
    """
    check_complete(config)
    given: Any = OmegaConf.to_container(config, resolve=True)
    check_labels(given["runs"], given["labels"])
    folder = Path(config.paths.output_dir)
    metrics = write_report(labelled(given["runs"], given["labels"]), folder, config.seed)
    show((folder / "table.md").read_text(encoding="utf-8"))
    files = ["heatmap.png", "table.md", "matrix.csv", "metrics.json"]
    say_written({folder: files}, [type_shell("cat", folder / "table.md")])
    return metrics
