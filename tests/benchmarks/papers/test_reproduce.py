"""The command: what it lists, plans, runs and writes, and how it ends when a cell fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks.papers import reproduce as command
from benchmarks.papers.cells import Cell
from benchmarks.papers.reproduce import reproduce
from benchmarks.papers.runner import LOG
from plumbing.mounts import SettingValueError
from plumbing.storage.jsonl import DataError
from tests.helpers.small_world import BIOS, composed
from tests.helpers.tiny import make_backbone, save_backbone

ROOT = Path(__file__).parents[3]


def config(folder: Path, *words: str) -> Any:
    return composed("reproduce", [f"paths.output_dir={folder}", "paths.cache_dir=C", *words])


class Fake:
    """Takes the place of the commands: writes the files of an evaluation, or fails."""

    def __init__(self, failing: str = "") -> None:
        self.failing, self.ran = failing, list[str]()

    def __call__(
        self, cell: Cell, words: Sequence[str], folder: Path, cache_dir: Path | None = None
    ) -> int:
        self.ran.append(cell.script)
        if self.failing and self.failing in words:
            (folder / LOG).write_text("no memory\n")
            return 1
        line: Any = {
            "id": "1",
            "question": "Q",
            "answers": ["a"],
            "gold_ids": ["p"],
            "prediction": "a",
        }
        line |= {"em": 1, "f1": 1, "nll": 1.0}
        (folder / "predictions.jsonl").write_text(json.dumps(line) + "\n")
        (folder / "metrics.json").write_text(json.dumps({"em": 50.0, "f1": 50.0, "n": 1}))
        return 0


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    made = Fake()
    monkeypatch.setattr(command, "launch_script", made)
    return made


def test_a_list_says_what_is_done(
    tmp_path: Path, fake: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    assert reproduce(config(tmp_path, "target=dmoe/table9")) != {}
    capsys.readouterr()
    assert reproduce(config(tmp_path, "target=list")) == {}
    lines = capsys.readouterr().out.splitlines()
    (line,) = [line for line in lines if line.startswith("| dmoe/table9 |")]
    assert "| 7 of 7 | 0 |" in line
    assert any(line.startswith("| genpoe/table1 |") and " 0 of " in line for line in lines)


def test_a_dry_run_runs_nothing(
    tmp_path: Path, fake: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    assert reproduce(config(tmp_path, "target=dmoe/table9", "dry_run=true")) == {}
    said = capsys.readouterr().out
    assert said.count("| to run |") == 7
    assert "method.fraction=0.1" in said
    assert "Minutes left, an estimate:" in said
    assert fake.ran == []
    assert list(tmp_path.iterdir()) == []


def test_targets_share_cells_and_pages_are_written(
    tmp_path: Path, fake: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    reproduce(config(tmp_path, "target=dmoe/table9"))
    ran = len(fake.ran)
    docs = tmp_path / "docs"
    reproduce(config(tmp_path, "target=dmoe/figure6", f"docs={docs}"))
    assert len(fake.ran) == ran + 4  # the threshold of 2 is the full bank's cell
    for name in ("table.md", "table.csv", "metrics.json"):
        assert (tmp_path / "dmoe/figure6" / name).is_file()
    assert (docs / "small/dmoe/figure6.md").is_file()
    assert (docs / "what_holds.md").is_file()
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"Next: cat {tmp_path / 'dmoe/figure6/table.md'}"


def test_commands_can_be_typed_elsewhere(
    tmp_path: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    reproduce(config(tmp_path / "logs", "target=dmoe/table9"))
    page = (tmp_path / "logs/dmoe/table9/table.md").read_text()
    assert "bank.dir=logs/cells/build_experts-" in page
    assert str(tmp_path) not in page


def test_a_failed_cell_is_named_and_its_place_stays_empty(
    tmp_path: Path, fake: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.failing = "method.fraction=0.2"
    with pytest.raises(SystemExit) as ended:
        reproduce(config(tmp_path, "target=dmoe/table9"))
    assert ended.value.code == 1
    said = capsys.readouterr().out
    assert "1 cells failed" in said
    assert "no memory" in said
    assert "cell.log" in said
    table = (tmp_path / "dmoe/table9/table.md").read_text()
    (line,) = [line for line in table.splitlines() if line.startswith("| 1/5 |")]
    assert set(line.removeprefix("| 1/5 |")) <= {"|", " "}
    fake.failing = ""
    reproduce(config(tmp_path, "target=dmoe/table9"))
    assert fake.ran.count("evaluate") == 5  # four, and the failed one again


def test_faulty_settings_are_errors(tmp_path: Path, fake: Fake) -> None:
    with pytest.raises(SettingValueError, match="size=night needs real data"):
        reproduce(config(tmp_path, "target=all", "size=night"))
    with pytest.raises(DataError, match="target must be one of list, all, genpoe/table1"):
        reproduce(config(tmp_path, "target=genpoe/table99"))
    assert fake.ran == []


@pytest.mark.slow
def test_a_table_is_made_with_a_tiny_model(tmp_path: Path) -> None:
    backbone = save_backbone(make_backbone(max_position_embeddings=4096), tmp_path / "backbone")
    data = ",".join(f"'{word}'" for word in ("data=bios", *BIOS))
    words = [
        "target=dmoe/table9",
        f"hydra.run.dir={tmp_path / 'out'}",
        f"paths.cache_dir={tmp_path / 'cache'}",
        "size.dmoe.limit=3",
        f"size.dmoe.models.SmolLM2=['backbone.name={backbone}','backbone.dtype=float32']",
        f"size.dmoe.data.bios=[{data}]",
    ]
    line = [sys.executable, "scripts/reproduce.py", *words]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        line, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    folder = tmp_path / "out/dmoe/table9"
    metrics = json.loads((folder / "metrics.json").read_text())
    for bank in ("1/10", "1/5", "1/2", "full"):
        assert {f"SmolLM2/bios/{bank}/em", f"SmolLM2/bios/{bank}/nll"} <= metrics.keys()
    full = metrics["cells"][-1]
    assert full["n"] == 3
    assert full["hashes"].keys() >= {"model", "questions", "bank", "router_index"}
    assert (folder / "figure.png").read_bytes()[:4] == b"\x89PNG"
    assert metrics["claims"][0]["verdict"] in ("holds", "does not hold", "cannot be told")
    again = subprocess.run(
        line, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert "cell 1 of" not in again.stdout + again.stderr
