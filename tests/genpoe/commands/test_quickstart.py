"""The whole of ``make train`` on a tiny model, and the picture of a training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from genpoe.commands import quickstart as module
from genpoe.training.curves import plot_training, read_curves
from tests.helpers.tiny import make_backbone

ROOT = Path(__file__).parents[3]
ROWS = ["rag/gold", "rag/shuffled"] + [
    f"genpoe/{rag}/{kind}" for rag in ("norag", "rag") for kind in ("gold", "shuffled")
]


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quickstart")
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose(
            "quickstart",
            [
                "data.train_entities=12",
                "data.dev_entities=6",
                "data.distractor_entities=0",
                "hypernet.layer=1",
                "hypernet.rank=2",
                "hypernet.hidden_width=8",
                "trainer.max_epochs=1",
                "trainer.accelerator=cpu",
                "evaluation.limit=8",
                "evaluation.limit_rag=4",
                "evaluation.max_new_tokens=3",
                "~callbacks.progress_bar",
                "+trainer.enable_progress_bar=false",
                f"paths.output_dir={folder}",
                f"paths.cache_dir={folder}/cache",
            ],
        )
    with pytest.MonkeyPatch.context() as patch:
        tiny = make_backbone(max_position_embeddings=2048)
        patch.setattr(module, "training_backbone", lambda _: tiny)
        module.quickstart(config)
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
    assert table.count("| genpoe |") == 4
    assert table.count("| rag |") == 2
    assert table.count("| base |") == 1
    differences = json.loads((run_dir / "differences.json").read_text())
    metrics = json.loads((run_dir / "metrics.json").read_text())
    nll = next(d for d in differences if d["what"].startswith("nll, GenPoE"))
    expected = metrics["genpoe/norag/shuffled/nll"] - metrics["genpoe/norag/gold/nll"]
    assert nll["mean"] == pytest.approx(expected)
    assert nll["low"] <= nll["mean"] <= nll["high"]
    assert nll["what"] in table


def test_the_picture_is_drawn(run_dir):
    assert (run_dir / "training.png").read_bytes().startswith(b"\x89PNG")
    assert (run_dir / "checkpoints" / "last.ckpt").is_file()


def test_curves_of_a_resumed_run_are_joined(tmp_path):
    for version, rows in (("version_0", ["0,2.0", "1,1.5"]), ("version_1", ["1,1.4", "2,1.0"])):
        (tmp_path / version).mkdir()
        text = "\n".join(["step,train/loss", *rows]) + "\n"
        (tmp_path / version / "metrics.csv").write_text(text)
    assert read_curves(tmp_path) == {"train/loss": [(0, 2.0), (1, 1.4), (2, 1.0)]}
    with pytest.raises(FileNotFoundError, match="train with logger=csv"):
        plot_training(tmp_path / "nothing", tmp_path / "x.png")
