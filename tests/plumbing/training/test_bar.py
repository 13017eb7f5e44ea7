"""Lightning's progress bar."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
from lightning import Trainer

from plumbing.training.bar import NamedProgressBar
from tests.plumbing.training.test_setup import Line


class Terminal(io.StringIO):
    """A stderr that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def run(folder: Path, epochs: int = 2) -> None:
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        callbacks=[NamedProgressBar("Training")],
    )
    trainer.fit(Line())


def test_the_bar_names_the_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    run(tmp_path)
    written = terminal.getvalue()
    assert "Training, epoch 1 of 2:" in written
    assert "Training, epoch 2 of 2: 100%" in written
    assert " 3/3 " in written
    assert "Training" not in capsys.readouterr().out


def test_where_nobody_watches_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path)
    written = capsys.readouterr()
    assert "Training" not in written.out + written.err
