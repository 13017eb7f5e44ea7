"""Training as users run it: killed and resumed, on two processes, with a damaged checkpoint."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir

from genpoe.commands.train_hypernet import train
from genpoe.model import GenPoE
from genpoe.training.curves import read_curves
from plumbing.training.checkpoint import CheckpointError, previous_path
from tests.helpers.killed import die_at
from tests.helpers.tiny import make_backbone

ROOT = Path(__file__).parents[3]
SMALL = [
    "data.train_entities=12",
    "data.dev_entities=6",
    "data.distractor_entities=0",
    "batching.passages_per_batch=4",
    "batching.questions_per_passage=3",
    "hypernet.rank=2",
    "hypernet.layer=1",
    "hypernet.hidden_width=8",
    "hypernet.noise=0.5",
    "optim.lr=0.01",
    "trainer.max_epochs=2",
    "trainer.accelerator=cpu",
    "trainer.log_every_n_steps=1",
    "callbacks.checkpoint.every_n_train_steps=2",
]
STEPS = 12


def config_for(folder, *overrides):
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose(
            "train_hypernet",
            [
                *SMALL,
                f"paths.output_dir={folder}",
                f"paths.cache_dir={folder}/cache",
                "logger=csv",
                "~callbacks.progress_bar",
                "+trainer.enable_progress_bar=false",
                *overrides,
            ],
        )


def weights(folder):
    state = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    return torch.cat([tensor.float().flatten() for tensor in state.values()])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    metrics = train(config_for(folder), make_backbone())
    assert metrics["steps"] == STEPS
    return folder


@pytest.mark.parametrize(
    "how",
    [
        "default",
        "fdr",
        *(pytest.param(how, marks=pytest.mark.slow) for how in ("overfit", "profiler")),
    ],
)
def test_the_debug_presets_run(tmp_path, how):
    config = config_for(tmp_path, f"debug={how}", "logger=none")
    assert not config.cache_frozen
    assert train(config, make_backbone())["steps"] >= 1


def test_without_a_logger(tmp_path):
    train(config_for(tmp_path, "logger=none", "trainer.max_epochs=1"), make_backbone())
    assert (tmp_path / "checkpoints" / "last.ckpt").is_file()


def test_an_empty_ckpt_path_is_an_error(tmp_path):
    with pytest.raises(CheckpointError, match="ckpt_path must be a file, got ''"):
        train(config_for(tmp_path, "ckpt_path=''"), make_backbone())


def train_and_die(config, step, monkeypatch):
    die_at(step, lambda: train(config, make_backbone()), monkeypatch)


SLOW = pytest.mark.slow


@pytest.mark.parametrize("step", [3, pytest.param(5, marks=SLOW), 6, pytest.param(9, marks=SLOW)])
@pytest.mark.parametrize("cached", [False, pytest.param(True, marks=SLOW)])
def test_killed_and_resumed_is_bit_for_bit_never_stopped(
    whole, tmp_path, monkeypatch, step, cached
):
    if cached:  # its own reference: the states come from batches of another shape
        whole = tmp_path / "whole"
        train(config_for(whole, "cache_frozen=true"), make_backbone())
    config = config_for(tmp_path, f"cache_frozen={str(cached).lower()}")
    train_and_die(config, step, monkeypatch)
    config.ckpt_path = str(tmp_path / "checkpoints" / "last.ckpt")
    assert train(config, make_backbone())["steps"] == STEPS
    assert torch.equal(weights(tmp_path), weights(whole))


def test_a_damaged_checkpoint_falls_back_with_a_warning(whole, tmp_path, monkeypatch):
    config = config_for(tmp_path)
    train_and_die(config, 9, monkeypatch)
    last = tmp_path / "checkpoints" / "last.ckpt"
    data = bytearray(last.read_bytes())
    data[len(data) // 2] ^= 1
    last.write_bytes(data)
    config.ckpt_path = str(last)
    with pytest.warns(UserWarning, match=r"last\.ckpt.*last\.previous\.ckpt"):
        train(config, make_backbone())
    assert torch.equal(weights(tmp_path), weights(whole))


def test_never_starts_afresh_silently(tmp_path):
    missing = config_for(tmp_path, "ckpt_path=nowhere/last.ckpt")
    with pytest.raises(CheckpointError, match=r"nowhere/last\.ckpt.*no such file"):
        train(missing, make_backbone())
    broken = tmp_path / "last.ckpt"
    broken.write_bytes(b"PK nonsense")
    with pytest.raises(CheckpointError, match=r"last\.ckpt"):
        train(config_for(tmp_path, f"ckpt_path={broken}"), make_backbone())
    assert not previous_path(broken).exists()


def test_what_training_leaves_is_what_users_load(whole):
    losses = [value for _, value in read_curves(whole / "csv")["train/loss"]]
    assert len(losses) == STEPS
    assert losses[-1] < losses[0]
    checkpoint = torch.load(whole / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["backbone"]["name"] == make_backbone().name
    assert {name.split(".")[0] for name in checkpoint["state_dict"]} == {"hypernet"}
    GenPoE.from_checkpoint(whole / "checkpoints" / "last.ckpt", make_backbone())


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory):
    """A tiny model as a folder, for runs in processes of their own."""
    folder = tmp_path_factory.mktemp("model")
    backbone = make_backbone()
    backbone.model.save_pretrained(folder)
    backbone.tokenizer.save_pretrained(folder)
    return folder


def command(folder, model, *overrides):
    return [
        sys.executable,
        str(ROOT / "scripts" / "train_hypernet.py"),
        *SMALL,
        f"backbone.name={model}",
        "backbone.dtype=float32",  # in bfloat16 rounding depends on the shape of a batch
        f"hydra.run.dir={folder}",
        f"paths.cache_dir={folder}/cache",
        "logger=csv",
        *overrides,
    ]


def environment():
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def run(folder, model, *overrides):
    done = subprocess.run(
        command(folder, model, *overrides), capture_output=True, text=True, env=environment()
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
def test_two_processes_train_as_one_does(tmp_path, tiny_folder):
    two = ["trainer=ddp_sim", "batching.passages_per_batch=2", "hypernet.noise=0"]
    run(tmp_path / "one", tiny_folder, "hypernet.noise=0")
    run(tmp_path / "two", tiny_folder, *two)
    curves = [
        [value for _, value in read_curves(tmp_path / name / "csv")["train/loss"]]
        for name in ("one", "two")
    ]
    assert len(curves[0]) == STEPS
    assert curves[1] == pytest.approx(curves[0], rel=1e-4)
    torch.testing.assert_close(
        weights(tmp_path / "two"), weights(tmp_path / "one"), rtol=1e-2, atol=1e-4
    )


@pytest.mark.slow
def test_a_process_killed_for_real_goes_on(tmp_path, tiny_folder):
    run(tmp_path / "whole", tiny_folder)
    folder = tmp_path / "killed"
    last = folder / "checkpoints" / "last.ckpt"
    process = subprocess.Popen(
        command(folder, tiny_folder), env=environment(), stderr=subprocess.DEVNULL
    )
    while not last.exists() and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    run(folder, tiny_folder, f"ckpt_path={last}")
    assert torch.equal(weights(folder), weights(tmp_path / "whole"))
