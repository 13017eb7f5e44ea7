"""Cells run once, the cheap ones first; what was stopped goes on, and a failure stops no other."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks.papers import runner
from benchmarks.papers.cells import Cell, key_of
from benchmarks.papers.runner import in_order, is_done, run_cells, with_needs

ROOT = Path(__file__).parents[3]


def cell(name: str, *needs: Cell, minutes: float | None = 1.0, words: Sequence[str] = ()) -> Cell:
    named = {need.name: need for need in needs}
    own = [*(f"x.{name}=<{name}>" for name in named), *words]
    return Cell(name, name, tuple(own), named, key_of(name, own, named), minutes)


class Launches:
    """Writes metrics in place of a command, and remembers what was asked."""

    def __init__(self, *failing: str) -> None:
        self.failing = set(failing)
        self.ran: list[str] = []
        self.words: dict[str, list[str]] = {}

    def __call__(self, cell: Cell, words: Sequence[str], folder: Path) -> int:
        self.ran.append(cell.name)
        self.words[cell.name] = list(words)
        if cell.name in self.failing:
            (folder / runner.LOG).write_text("one\nout of memory\n")
            return 3
        (folder / runner.METRICS).write_text(json.dumps({"rate": 40.0}))
        return 0


def test_what_is_needed_comes_first_and_the_cheap_before_the_dear(tmp_path: Path) -> None:
    bank = cell("bank", minutes=5)
    cells = with_needs(
        [cell("dear", minutes=9), cell("uses", bank, minutes=1), cell("cheap", minutes=2)]
    )
    order = [each.name for each in in_order(cells)]
    assert order == ["cheap", "bank", "uses", "dear"]
    unknown = with_needs([cell("unknown", minutes=None), cell("dear", minutes=9)])
    assert [each.name for each in in_order(unknown)] == ["dear", "unknown"]


def test_cells_are_shared_and_never_run_twice(tmp_path: Path) -> None:
    bank = cell("bank")
    one, two = cell("one", bank), cell("two", cell("bank"))  # the same bank, made twice
    cells = with_needs([one, two])
    assert len(cells) == 3
    launches = Launches()
    assert run_cells(cells, tmp_path, launches) == []
    assert sorted(launches.ran) == ["bank", "one", "two"]
    assert launches.words["one"] == [f"x.bank={tmp_path / bank.folder_name}"]
    assert run_cells(cells, tmp_path, launches) == []
    assert len(launches.ran) == 3
    record = json.loads((tmp_path / one.folder_name / runner.RECORD).read_text())
    assert record["overrides"] == launches.words["one"]
    assert record["needs"] == {"bank": bank.folder_name}
    assert record["commit"]


def test_what_was_measured_with_a_part_that_was_made_again_is_measured_again(
    tmp_path: Path,
) -> None:
    bank = cell("build_experts")
    one, other = cell("one", cell("bank2", bank)), cell("other")
    cells = with_needs([one, other])
    run_cells(cells, tmp_path, Launches())
    assert all(is_done(each, tmp_path) for each in cells.values())
    (tmp_path / bank.folder_name / runner.RECORD).unlink()
    assert not is_done(one, tmp_path)  # else its row would show the new bank's hash
    assert is_done(other, tmp_path)
    run_cells({bank.key: bank}, tmp_path, Launches())
    assert not is_done(one, tmp_path)
    launches = Launches()
    run_cells(cells, tmp_path, launches)
    assert launches.ran == ["bank2", "one"]
    assert is_done(one, tmp_path)


def test_a_bank_of_earlier_parts_is_not_gone_on_with(tmp_path: Path) -> None:
    words = cell("surrogates")
    bank = cell("build_experts", words)
    cells = with_needs([bank])
    run_cells(cells, tmp_path, Launches())
    (tmp_path / bank.folder_name / "bank").mkdir()
    (tmp_path / words.folder_name / runner.RECORD).unlink()
    run_cells(cells, tmp_path, Launches())
    assert not (tmp_path / bank.folder_name / "bank").exists()


def test_a_failure_is_reported_and_the_others_go_on(tmp_path: Path) -> None:
    bad = cell("bad", minutes=0)
    cells = with_needs([cell("uses", bad), cell("good")])
    launches = Launches("bad")
    failures = run_cells(cells, tmp_path, launches)
    assert launches.ran == ["bad", "good"]
    assert {failure.cell.name for failure in failures} == {"bad", "uses"}
    first, second = sorted(map(str, failures))
    assert "exit status 3" in first
    assert "out of memory" in first
    assert str(tmp_path / bad.folder_name / runner.LOG) in first
    assert "it needs bad, which failed" in second
    assert not is_done(bad, tmp_path)
    assert run_cells(cells, tmp_path, Launches()) == []  # what failed is tried again


def test_a_half_run_cell_is_cleared_but_for_what_its_script_goes_on_with(tmp_path: Path) -> None:
    plain, training = cell("evaluate"), cell("train_hypernet")
    for each in (plain, training):
        folder = tmp_path / each.folder_name
        (folder / "checkpoints").mkdir(parents=True)
        (folder / "checkpoints/last.ckpt").write_text("half")
        (folder / "metrics.json").write_text("old")
    launches = Launches()
    run_cells(with_needs([plain, training]), tmp_path, launches)
    assert not (tmp_path / plain.folder_name / "checkpoints").exists()
    kept = tmp_path / training.folder_name / "checkpoints/last.ckpt"
    assert kept.read_text() == "half"
    assert launches.words["train_hypernet"] == [f"ckpt_path={kept}"]
    assert launches.words["evaluate"] == []


def test_a_metric_of_another_cell_is_filled_in_as_a_share(tmp_path: Path) -> None:
    first = cell("first")
    named = {"first": first}
    words = ("trigger.rate=<first#rate>",)
    second = Cell("second", "second", words, named, key_of("second", words, named), 1.0)
    launches = Launches()
    assert run_cells(with_needs([second]), tmp_path, launches) == []
    assert launches.words["second"] == ["trigger.rate=0.4"]
    missing = Cell("third", "third", ("a=<first#no>",), named, "0", 1.0)
    (failure,) = run_cells(with_needs([missing]), tmp_path, launches)
    assert "'no'" in failure.reason


def test_a_word_that_is_a_reference_alone_is_left_out(tmp_path: Path) -> None:
    measured = cell("measured")
    named = {"measured": measured}
    after = Cell("after", "after", ("<measured>", "a=1"), named, "0", 1.0)
    launches = Launches()
    run_cells(with_needs([after]), tmp_path, launches)
    assert launches.ran == ["measured", "after"]
    assert launches.words["after"] == ["a=1"]


def test_the_key_changes_with_all_that_decides_a_result(tmp_path: Path) -> None:
    bank, other = cell("bank"), cell("bank", words=["seed=1"])
    keys = {
        key_of("evaluate", ["k=1"], {}),
        key_of("evaluate", ["k=2"], {}),
        key_of("ablation", ["k=1"], {}),
        key_of("evaluate", ["bank.dir=<bank>/bank"], {"bank": bank}),
        key_of("evaluate", ["bank.dir=<bank>/bank"], {"bank": other}),
    }
    assert len(keys) == 5
    assert key_of("evaluate", ["k=1", "rag=true"], {}) == key_of(
        "evaluate", ["rag=true", "k=1"], {}
    )
    assert key_of("evaluate", ["k=1", "k=2"], {}) == key_of("evaluate", ["k=2"], {})
    data = ["data=local", f"data.dir={tmp_path}"]
    (tmp_path / "dev.jsonl").write_text("{}")
    before = key_of("evaluate", data, {})
    assert key_of("evaluate", data, {}) == before
    (tmp_path / "dev.jsonl").write_text('{"id": "another"}')
    assert key_of("evaluate", data, {}) != before


SLOW = """
import pathlib, sys, time
folder = pathlib.Path(sys.argv[-1].partition("=")[2])
(folder / "started").write_text("")
wait = pathlib.Path({wait!r})
while wait.exists():
    time.sleep(0.05)
(folder / "metrics.json").write_text("{{}}")
"""
RUN = """
import pathlib, sys
from benchmarks.papers import runner
from tests.benchmarks.papers.test_runner import cell
runner.SCRIPTS = pathlib.Path({scripts!r})
each = cell("slow")
sys.exit(len(runner.run_cells({{each.key: each}}, pathlib.Path({root!r}))))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_was_killed_takes_its_command_along_and_goes_on(
    tmp_path: Path, number: signal.Signals
) -> None:
    scripts, root, wait = (tmp_path / name for name in ("scripts", "cells", "wait"))
    scripts.mkdir()
    wait.write_text("")
    (scripts / "slow.py").write_text(SLOW.format(wait=str(wait)))
    line = [sys.executable, "-c", RUN.format(scripts=str(scripts), root=str(root))]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(line, env=environment)
    started = root / cell("slow").folder_name / "started"
    _until(started.exists)
    process.send_signal(number)
    assert process.wait() != 0
    children = subprocess.run(
        ["pgrep", "-f", str(scripts / "slow.py")], capture_output=True, text=True, check=False
    )
    _until(lambda: not _alive(children.stdout.split()))
    assert not is_done(cell("slow"), root)
    wait.unlink()
    assert subprocess.run(line, env=environment, check=False).returncode == 0
    assert is_done(cell("slow"), root)


def _alive(processes: Sequence[str]) -> bool:
    """Whether one of these runs; one that has ended and was not waited for does not."""
    for each in processes:
        try:
            state = Path("/proc", each, "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if state != "Z":
            return True
    return False


def _until(condition: object) -> None:
    assert callable(condition)
    for _ in range(1200):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("it took too long")
