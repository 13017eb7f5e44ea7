"""Run one suite of benchmarks and write what it measured."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from hydra.utils import get_method
from omegaconf import DictConfig

from benchmarks.timing import machine, write_report
from plumbing.cli import say_written, type_shell
from plumbing.output import show


def run_suite(config: DictConfig, suites: Mapping[str, str]) -> dict[str, Any]:
    """Run a suite and write ``<suite>.json``, ``<suite>.md`` and ``metrics.json``.

    Args:
        config: ``conf/benchmark.yaml``, composed; the files go into its run directory.
        suites: The path of each suite's function, by the suite's name. The function takes the
            configuration and returns what it measured and the lines of a page in Markdown.

    Raises:
        ValueError: If the suite is unknown, or if our way and the peer do not compute the same.
    """
    if config.suite not in suites:
        raise ValueError(f"suite must be one of {', '.join(suites)}, got {config.suite!r}")
    torch.manual_seed(config.seed)
    result, lines = get_method(suites[config.suite])(config)
    result["machine"] = machine(config.backbone.device)
    write_report(Path(config.paths.output_dir), config.suite, result, lines)
    show("\n".join(lines))
    folder = Path(config.paths.output_dir)
    files = [f"{config.suite}.md", f"{config.suite}.json", "metrics.json"]
    say_written({folder: files}, [type_shell("cat", folder / files[0])])
    return result
