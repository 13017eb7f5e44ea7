"""suite=updates runs, counts the bytes rightly, and leaves what was there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hydra.utils import instantiate

from benchmarks import updates
from benchmarks.updates import updates_suite
from plumbing.mounts import SettingValueError
from tests.helpers.tiny import make_backbone
from tests.test_conf import composed

pytestmark = [
    pytest.mark.usefixtures("no_sync"),
    pytest.mark.filterwarnings("ignore:`isinstance\\(treespec, LeafSpec\\)` is deprecated"),
]

SMALL = (
    *("suite=updates", "updates.passages=4", "updates.changes=3", "updates.rounds=2"),
    *("updates.epochs=1", "data.train_entities=8", "data.dev_entities=0", "data.test_entities=0"),
    *("data.unseen_entities=0", "data.distractor_entities=0"),
)


@pytest.fixture(autouse=True)
def backbone(monkeypatch: pytest.MonkeyPatch) -> Any:
    made = make_backbone(max_position_embeddings=2048)
    build = instantiate
    monkeypatch.setattr(
        updates,
        "instantiate",
        lambda config: made if "load_backbone" in str(config) else build(config),
    )
    return made


def test_bytes_and_seconds(backbone: Any, tmp_path: Path) -> None:
    config = composed("benchmark", *SMALL, f"paths.output_dir={tmp_path}")
    result, lines = updates_suite(config)
    storage, seconds = result["storage"], result["seconds"]
    # Rank 4 on gate and up (32 to 48) and down (48 to 32): each has 4 * (32 + 48) parameters.
    assert storage["parameters"] == 3 * 4 * (32 + 48)
    assert storage["weights"] >= 4 * storage["parameters"]
    assert storage["bank"] > storage["weights"]
    assert storage["acting"] == 3 * 4 * storage["parameters"]
    assert storage["corpus_gib"] == pytest.approx(storage["bank"] * 27613 / 2**30)
    for task, parts in {
        "adding": ("expert", "bank", "index"),
        "changing": ("expert", "bank", "index"),
        "revoking": ("bank", "index"),
    }.items():
        assert seconds[task] == pytest.approx(sum(seconds[f"{task}: {part}"] for part in parts))
        assert seconds[f"{task}_low"] <= seconds[task] <= seconds[f"{task}_high"]
    assert seconds["SFT-LoRA anew"] > 0 < seconds["index anew"]
    assert result["times"]["adding"] == seconds["SFT-LoRA anew"] / seconds["adding"]
    assert f"| parameters of an expert | {storage['parameters']} |" in "\n".join(lines)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("updates.changes=5", "need 9 passages with questions, the split train has 8"),
        ("updates.rounds=0", "rounds must be positive"),
        ("updates.dtype=int8", "dtype must be one of"),
    ],
)
def test_settings_are_checked_first(setting: str, message: str) -> None:
    with pytest.raises(SettingValueError, match=message):
        updates_suite(composed("benchmark", *SMALL, setting))
