"""Measure the covariances that MEMIT, AlphaEdit and ROME need, on ordinary text."""

from __future__ import annotations

from plumbing.cli import command

if __name__ == "__main__":
    command(
        "measure_covariances",
        "genpoe.commands.measure_covariances.measure_covariances_command",
        __doc__,
    )
