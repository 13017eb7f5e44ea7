"""suite=bank runs, compares what is equal, and says so when it is not."""

from __future__ import annotations

from typing import Any

import pytest
from omegaconf import OmegaConf

from backbone.model import Backbone
from benchmarks import bank as bank_benchmark
from benchmarks.bank import bank_suite
from tests.helpers.tiny import make_backbone

pytestmark = pytest.mark.usefixtures("no_sync")


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Any:
    def build(node: Any, **settings: Any) -> Backbone:
        return make_backbone()

    monkeypatch.setattr(bank_benchmark, "instantiate", build)
    return OmegaConf.create(
        {
            "backbone": {"name": "tiny"},
            "paths": {"output_dir": str(tmp_path)},
            "bank": {"sizes": [20, 40], "dtype": "float32", "k": 3, "draws": 20, "folders": 5},
        }
    )


def test_it_runs(config: Any, tmp_path: Any):
    result, lines = bank_suite(config)
    assert result["difference"] < 1e-4
    assert result["milliseconds"].keys() == {"20", "40", "PEFT"}
    assert all(0 < time["p50"] <= time["p99"] for time in result["milliseconds"].values())
    assert result["bytes_per_expert"]["PEFT"] > result["bytes_per_expert"]["40"]
    assert result["open_milliseconds"].keys() == {"20", "40"}
    assert "| bank of 40 | " in "\n".join(lines)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"draws": 0}, r"draws must be a whole number of 1 or more, got 0; set bank\.draws"),
        ({"k": 0}, r"k must be .* 1 or more, got 0; set bank\.k"),
        ({"folders": 2}, r"folders must be .* 3 \(bank\.k\) or more, got 2; set bank\.folders"),
        *(
            ({"sizes": sizes}, r"sizes must be two or more different .*set bank\.sizes")
            for sizes in ([20], [20, 20], [2, 20], 20, ["a", "b"])
        ),
    ],
)
def test_settings_are_checked_first(config: Any, setting: dict[str, Any], message: str):
    config.backbone = None  # nothing is loaded
    config.bank.update(setting)
    with pytest.raises(ValueError, match=message):
        bank_suite(config)


def test_what_differs_is_not_compared(config: Any, monkeypatch: pytest.MonkeyPatch):
    load = bank_benchmark.PeftFolders.load
    monkeypatch.setattr(bank_benchmark.PeftFolders, "load", lambda self, ids: load(self, ids[:2]))
    with pytest.raises(ValueError, match="ours and PEFT's sum of adapters differ"):
        bank_suite(config)
