"""The whole of ``make train`` on a tiny model, and the picture of a training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from genpoe.commands import quickstart as module
from genpoe.commands.train_hypernet import train
from genpoe.hypernet.mean import MeanHypernet
from genpoe.hypernet.reader import ReaderHypernet
from genpoe.model import GenPoE
from genpoe.training.curves import plot_training, read_curves
from plumbing.training.checkpoint import CheckpointError, load_checkpoint
from tests.helpers.tiny import make_backbone

ROOT = Path(__file__).parents[3]
ROWS = ["rag/gold", "rag/shuffled"] + [
    f"{name}/{rag}/{kind}"
    for name in ("genpoe", "reader")
    for rag in ("norag", "rag")
    for kind in ("gold", "shuffled")
]


def composed(folder, *overrides):
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose(
            "quickstart",
            [
                "data.train_entities=12",
                "data.dev_entities=6",
                "data.distractor_entities=0",
                "hypernet.layer=1",
                "hypernet.rank=2",
                "hypernet.hidden_width=8",
                "reader.hypernet.read_layer=1",
                "reader.hypernet.query_layers=[1]",
                "reader.hypernet.hidden_width=8",
                "trainer.max_epochs=1",
                "trainer.accelerator=cpu",
                "evaluation.limit=8",
                "evaluation.limit_rag=4",
                "evaluation.max_new_tokens=3",
                "~callbacks.progress_bar",
                "+trainer.enable_progress_bar=false",
                f"paths.output_dir={folder}",
                f"paths.cache_dir={folder}/cache",
                *overrides,
            ],
        )


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quickstart")
    with pytest.MonkeyPatch.context() as patch:
        tiny = make_backbone(max_position_embeddings=2048)
        patch.setattr(module, "training_backbone", lambda _: tiny)
        module.quickstart(composed(folder))
    return folder


def test_metrics_have_the_documented_keys(run_dir):
    metrics = json.loads((run_dir / "metrics.json").read_text())
    assert "base/em" in metrics
    for row in ROWS:
        assert {f"{row}/{score}" for score in ("em", "f1", "nll")} <= metrics.keys()
    assert metrics["genpoe/norag/gold/n"] == 8
    assert metrics["rag/gold/n"] == 4


def test_the_table_has_every_row_and_the_differences(run_dir):
    table = (run_dir / "table.md").read_text()
    assert table.count("| genpoe |") == table.count("| reader |") == 4
    assert table.count("| rag |") == 2
    assert table.count("| base |") == 1
    differences = json.loads((run_dir / "differences.json").read_text())
    metrics = json.loads((run_dir / "metrics.json").read_text())
    nll = next(d for d in differences if d["what"].startswith("nll, GenPoE"))
    expected = metrics["genpoe/norag/shuffled/nll"] - metrics["genpoe/norag/gold/nll"]
    assert nll["mean"] == pytest.approx(expected)
    assert nll["low"] <= nll["mean"] <= nll["high"]
    assert nll["what"] in table


def test_both_have_the_same_steps_and_batches(run_dir):
    steps = [
        json.loads((run_dir / name / "training.json").read_text())["steps"]
        for name in ("", "reader")
    ]
    assert steps[0] == steps[1] > 0


@pytest.mark.parametrize(("name", "hypernet"), [("", MeanHypernet), ("reader", ReaderHypernet)])
def test_a_picture_and_one_small_checkpoint_are_left(run_dir, name, hypernet):
    folder = run_dir / name
    assert (folder / "training.png").read_bytes().startswith(b"\x89PNG")
    assert [file.name for file in (folder / "checkpoints").iterdir()] == ["last.ckpt"]
    checkpoint = folder / "checkpoints" / "last.ckpt"
    tiny = make_backbone(max_position_embeddings=2048)
    assert isinstance(GenPoE.from_checkpoint(checkpoint, tiny).hypernet, hypernet)
    assert "optimizer_states" not in load_checkpoint(checkpoint)


def test_a_training_that_has_ended_does_not_go_on(run_dir, tmp_path):
    checkpoint = run_dir / "checkpoints" / "last.ckpt"
    config = composed(tmp_path, f"ckpt_path={checkpoint}")
    with pytest.raises(CheckpointError, match="of a training that has ended, and its optimiser's"):
        train(config, make_backbone(max_position_embeddings=2048))


def test_what_predicts_answers_is_computed_once_for_both(run_dir):
    # For each split: before the last FFN, before one layer, and the passages.
    assert len(list((run_dir / "cache" / "frozen").glob("*/states.bin"))) == 2 * 3


def test_an_earlier_run_is_set_aside_and_named_by_its_setting(tmp_path, caplog):
    (tmp_path / "checkpoints").mkdir()
    caplog.set_level("INFO")
    module._set_aside(tmp_path, "reader.ckpt_path")
    assert (tmp_path / "previous" / "checkpoints").is_dir()
    assert f"reader.ckpt_path={tmp_path / 'previous' / 'checkpoints' / 'last.ckpt'}" in caplog.text


def test_without_the_reader_its_rows_are_left_out(run_dir):
    metrics = json.loads((run_dir / "metrics.json").read_text())
    alone = {key: value for key, value in metrics.items() if not key.startswith("reader")}
    labels = [gain["what"] for gain in module.paired(run_dir, alone)]
    assert len(labels) == 5
    assert not any("reader" in label for label in labels)


def test_curves_of_a_resumed_run_are_joined(tmp_path):
    for version, rows in (("version_0", ["0,2.0", "1,1.5"]), ("version_1", ["1,1.4", "2,1.0"])):
        (tmp_path / version).mkdir()
        text = "\n".join(["step,train/loss", *rows]) + "\n"
        (tmp_path / version / "metrics.csv").write_text(text)
    assert read_curves(tmp_path) == {"train/loss": [(0, 2.0), (1, 1.4), (2, 1.0)]}
    with pytest.raises(FileNotFoundError, match="train with logger=csv"):
        plot_training(tmp_path / "nothing", tmp_path / "x.png")
