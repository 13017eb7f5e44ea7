"""Runs cells: each once, the cheap ones first, and what was interrupted goes on.

Every cell has a folder below that of all cells, named after its key. It is the run folder of the
cell's command, and also holds what the command said (``cell.log``). When the command has ended
well, ``cell.json`` is written; a folder without it is a cell that was interrupted or failed. Such a
cell runs again. Where its script can go on with what an earlier run left, that is kept; everything
else in the folder is removed before.
"""

from __future__ import annotations

import ctypes
import heapq
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.papers.cells import Cell, filled
from plumbing.cli.closing import SCRIPTS
from plumbing.stopwatch import Stopwatch
from plumbing.storage.files import write_json

log = logging.getLogger(__name__)

RECORD = "cell.json"
LOG = "cell.log"
METRICS = "metrics.json"

_LAST_LINES = 12  # of a failed cell's log
_CHECKPOINT = Path("checkpoints", "last.ckpt")
_TRAININGS = ("train_hypernet", "train_editor", "train_reranker", "train_sft_lora")
# What a script goes on with, in its run folder: everything, or folders.
_ALL = "*"
_KEPT = {
    **dict.fromkeys(_TRAININGS, "checkpoints"),
    **dict.fromkeys(("ablation", "sequential_edit", "tune_editor"), _ALL),
    **dict.fromkeys(("build_experts", "encode_passages"), "bank"),
}
_PR_SET_PDEATHSIG = 1  # Linux: the signal that a child gets when its parent dies

Launch = Callable[[Cell, Sequence[str], Path], int]
"""Runs the command of a cell with these overrides in this folder; returns its exit status."""


@dataclass(frozen=True)
class Failure:
    """A cell that has no result.

    Attributes:
        cell: The cell.
        reason: Why: its exit status, or the cell that failed before it.
        log: What its command said; None if it was not run.
    """

    cell: Cell
    reason: str
    log: Path | None

    def __str__(self) -> str:
        head = f"{self.cell.name} ({self.cell.folder_name}): {self.reason}"
        if self.log is None:
            return head
        lines = self.log.read_text("utf-8", "replace").splitlines()[-_LAST_LINES:]
        return "\n".join([f"{head}; its log is {self.log}", *(f"    {line}" for line in lines)])


def is_done(cell: Cell, root: Path) -> bool:
    """Whether a cell has its result, made with what its needs hold now.

    If a part was removed or made again, what was measured with the earlier one does not count.
    """
    made = _made_at(cell, root)
    return made is not None and all(
        is_done(need, root) and (_made_at(need, root) or "") <= made for need in cell.needs.values()
    )


def _made_at(cell: Cell, root: Path) -> str | None:
    """When the run of a cell began, in ISO 8601 and UTC; None if it has not ended well."""
    path = root / cell.folder_name / RECORD
    return str(json.loads(path.read_text("utf-8"))["started"]) if path.is_file() else None


def with_needs(cells: Iterable[Cell]) -> dict[str, Cell]:
    """Cells and all that they need, each once, by their keys."""
    found: dict[str, Cell] = {}
    for cell in cells:
        for each in (*cell.all_needs(), cell):
            found.setdefault(each.key, each)
    return found


def in_order(cells: Mapping[str, Cell]) -> Iterator[Cell]:
    """The order of running: what a cell needs comes before it; of the rest the cheapest first.

    Cells without an estimate come last.
    """
    waiting = {key: {need.key for need in cell.needs.values()} for key, cell in cells.items()}
    ready: list[tuple[float, str]] = []

    def push(key: str) -> None:
        minutes = cells[key].minutes
        heapq.heappush(ready, (float("inf") if minutes is None else minutes, key))

    for key, needs in waiting.items():
        if not needs:
            push(key)
    while ready:
        _, key = heapq.heappop(ready)
        yield cells[key]
        for other, needs in waiting.items():
            if key in needs:
                needs.remove(key)
                if not needs:
                    push(other)


def run_cells(cells: Mapping[str, Cell], root: Path, launch: Launch | None = None) -> list[Failure]:
    """Run the cells that have no result yet.

    A cell that fails is no reason to stop: the others go on, but for those that need it.

    Args:
        cells: The cells, with all that they need, by their keys.
        root: The folder of all cells.
        launch: What runs a command; None: a process of its own.

    Returns:
        The cells that still have no result.
    """
    launch = launch or launch_script
    failures: dict[str, Failure] = {}
    todo = [cell for cell in in_order(cells) if not is_done(cell, root)]
    for number, cell in enumerate(todo, start=1):
        if broken := [need for need in cell.needs.values() if need.key in failures]:
            failures[cell.key] = Failure(cell, f"it needs {broken[0].name}, which failed", None)
            continue
        about = "" if cell.minutes is None else f", about {cell.minutes:g} minutes"
        log.info("cell %d of %d%s: %s (%s)", number, len(todo), about, cell.name, cell.folder_name)
        if failure := _run(cell, root, launch):
            log.error("%s", failure)
            failures[cell.key] = failure
    return list(failures.values())


def _run(cell: Cell, root: Path, launch: Launch) -> Failure | None:
    folder = root / cell.folder_name
    stale = (folder / RECORD).is_file()  # it had ended, with other parts than there are now
    _clear(folder, "" if stale else _KEPT.get(cell.script, ""))
    metrics = {
        part: read_metrics(root / need.folder_name)
        for part, need in cell.needs.items()
        if any(f"<{part}#" in word for word in cell.words)
    }
    try:
        words = filled(cell, root, metrics)
    except LookupError as error:
        return Failure(cell, f"the metric {error} is not among those of what it needs", None)
    if cell.script in _TRAININGS and (folder / _CHECKPOINT).is_file():
        words.append(f"ckpt_path={folder / _CHECKPOINT}")
    commit, watch = commit_of_code(), Stopwatch()
    started = datetime.now(UTC).isoformat(timespec="microseconds")
    status = launch(cell, words, folder)
    if status != 0:
        return Failure(cell, f"exit status {status}", folder / LOG)
    record = {
        "name": cell.name,
        "script": cell.script,
        "overrides": words,
        "key": cell.key,
        "needs": {part: need.folder_name for part, need in cell.needs.items()},
        "commit": commit,
        "started": started,
        "seconds": watch.seconds,
    }
    write_json(folder / RECORD, record)
    return None


def _clear(folder: Path, kept: str) -> None:
    """Remove what an earlier run left, but for what its script goes on with."""
    folder.mkdir(parents=True, exist_ok=True)
    if kept == _ALL:
        return
    for path in folder.iterdir():
        if path.name == kept:
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def launch_script(
    cell: Cell, words: Sequence[str], folder: Path, cache_dir: Path | None = None
) -> int:
    """Run a script of this project in a process of its own, which ends with this one.

    Args:
        cell: The cell.
        words: The overrides of its command.
        folder: Its run folder.
        cache_dir: The folder of what is computed once; None: that of the environment.

    Returns:
        The exit status.
    """
    line = [sys.executable, str(SCRIPTS / f"{cell.script}.py"), *words, f"hydra.run.dir={folder}"]
    environment = os.environ | {"PYTHONPATH": _python_path()}
    if cache_dir is not None:
        environment["GENPOE_CACHE"] = str(cache_dir)
    with (folder / LOG).open("w", encoding="utf-8") as said, _ends_children():
        process = subprocess.Popen(
            line,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            preexec_fn=_end_with_parent if sys.platform == "linux" else None,
        )
        try:
            return process.wait()
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()


def _python_path() -> str:
    given = os.environ.get("PYTHONPATH")
    return os.pathsep.join([str(SCRIPTS.parent), *([given] if given else [])])


def _end_with_parent() -> None:
    """Of a child: ask for SIGTERM when the parent dies, even if it was killed."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


@contextmanager
def _ends_children() -> Iterator[None]:
    """While the block runs, SIGTERM is an exit, so that the block can end its process."""

    def leave(number: int, _: Any) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def read_metrics(folder: Path) -> dict[str, Any]:
    """The ``metrics.json`` of a cell; empty if its script writes none."""
    path = folder / METRICS
    return dict(json.loads(path.read_text("utf-8"))) if path.is_file() else {}


def commit_of_code() -> str | None:
    """The commit of this checkout, with "+" where files differ from it; None without git."""
    try:
        asked = ["git", "-C", str(SCRIPTS.parent)]
        commit = subprocess.run(
            [*asked, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
        changed = subprocess.run(
            [*asked, "status", "--porcelain", "--untracked-files=no"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{commit}+" if changed else commit
