"""The hypernetwork that reads is trained by two processes as by one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from genpoe.commands.train_hypernet import train
from plumbing.storage.tensors import read_tensors
from tests.helpers.small_world import composed
from tests.helpers.tiny import make_backbone, save_backbone

ROOT = Path(__file__).parents[3]
GIVEN = [
    *("data.train_entities=12", "data.dev_entities=4", "data.distractor_entities=0"),
    *("data.test_entities=0", "data.unseen_entities=0", "batching.questions_per_passage=3"),
    *("hypernet=reader", "hypernet.layer=1", "hypernet.read_layer=1", "hypernet.query_layers=[1]"),
    *("hypernet.hidden_width=16", "hypernet.key_width=8", "hypernet.common_rank=2"),
    *("hypernet.follow_words=2", "hypernet.dropout=0", "optim.lr=0.01", "cache_frozen=answers"),
    *("trainer.max_epochs=2", "backbone.dtype=float32", "logger=none", "~callbacks.checkpoint"),
    "+callbacks.keep._target_=tests.helpers.ranks.KeepWeights",
]


@pytest.mark.slow
def test_two_processes_train_as_one_and_end_with_the_same_weights(tmp_path):
    backbone = make_backbone(max_position_embeddings=2048)
    model = save_backbone(backbone, tmp_path / "model")

    def given(name, *settings):
        folder = tmp_path / name
        folder.mkdir()
        places = [f"paths.cache_dir={tmp_path}/cache", f"+callbacks.keep.folder={folder}"]
        return [*GIVEN, *settings, *places, f"backbone.name={model}"]

    alone = given("one", "trainer.accelerator=cpu", "batching.passages_per_batch=4")
    train(composed("train_hypernet", [*alone, f"paths.output_dir={tmp_path}/one"]))
    two = given("two", "trainer=ddp_sim", "batching.passages_per_batch=2")
    script = [sys.executable, str(ROOT / "scripts" / "train_hypernet.py")]
    done = subprocess.run(
        [*script, *two, f"hydra.run.dir={tmp_path}/two"],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    one, first, second = (
        read_tensors(tmp_path / place) for place in ("one/rank0", "two/rank0", "two/rank1")
    )
    assert len(one) > 10
    for name, weights in one.items():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], weights, rtol=1e-2, atol=1e-3, msg=name)
