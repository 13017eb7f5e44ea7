"""suite=codes fills banks, measures them, and draws a line through them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from omegaconf import OmegaConf

from benchmarks import codes as codes_benchmark
from benchmarks.codes import codes_suite
from plumbing.mounts import SettingValueError
from tests.helpers.tiny import make_backbone
from tests.helpers.tiny_reader import PASSAGES

pytestmark = pytest.mark.usefixtures("no_sync")


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Any:
    def build(node: Any) -> Any:
        if node.name == "tiny":
            return make_backbone()
        return SimpleNamespace(passages={passage.id: passage for passage in PASSAGES})

    monkeypatch.setattr(codes_benchmark, "instantiate", build)
    monkeypatch.setattr(codes_benchmark, "_AT_A_TIME", 16)
    sizes = {"sizes": [20, 60], "keys": "int8", "k": 4, "draws": 10, "expected": 1000}
    return OmegaConf.create(
        {
            "backbone": {"name": "tiny"},
            "data": {"name": "some"},
            "paths": {"output_dir": str(tmp_path)},
            "seed": 0,
            "codes": sizes,
        }
    )


def test_it_runs(config: Any, tmp_path: Any) -> None:
    result, lines = codes_suite(config)
    small, large = result["points"]
    assert (small["passages"], large["passages"]) == (20, 60)
    for point in (small, large):
        row = result["tokens_per_passage"] * 68
        assert point["bytes"] / point["passages"] > row
        assert 0 < point["get_milliseconds_p50"] <= point["get_milliseconds_p95"]
        assert point["open_milliseconds"] > 0
    slope = (large["bytes"] - small["bytes"]) / 40
    assert result["lines"]["bytes"]["per_passage"] == pytest.approx(slope)
    assert result["expected"]["bytes"] == pytest.approx(large["bytes"] + 940 * slope)
    assert "1,000 passages take" in lines[-1]
    assert "17 times beyond the largest" in lines[-1]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"draws": 0}, "draws must be a positive number, got 0"),
        ({"k": "four"}, "k must be a positive number, got 'four'"),
        ({"sizes": [20]}, "sizes must be two or more different whole numbers"),
        ({"sizes": [2, 20]}, r"none below codes\.k, which is 4"),
    ],
)
def test_settings_are_checked_first(config: Any, setting: dict[str, Any], message: str) -> None:
    config.backbone = None  # nothing is loaded
    config.codes.update(setting)
    with pytest.raises(SettingValueError, match=message):
        codes_suite(config)


def test_a_disk_that_is_too_small_is_said_before_anything_is_written(config: Any) -> None:
    config.codes.sizes = [20, 10**12]
    with pytest.raises(ValueError, match=r"needs about .* GiB, but .* free; lower codes\.sizes"):
        codes_suite(config)
