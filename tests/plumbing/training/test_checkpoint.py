"""Checkpoints under kills, bit flips, truncation and strangers' files."""

from __future__ import annotations

import datetime
import os
import random
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning import Trainer
from lightning.pytorch.demos.boring_classes import BoringModel

from plumbing.training import checkpoint as module
from plumbing.training.checkpoint import (
    AtomicCheckpointIO,
    CheckpointError,
    load_checkpoint,
    previous_path,
)
from plumbing.training.resume import RandomState, get_random_state, set_random_state


class Killed(BaseException):
    """Nothing catches it, as nothing catches SIGKILL."""


def content(version: int) -> dict[str, Any]:
    return {
        "version": version,
        "state_dict": {"hypernet.weight": torch.full((3, 4), float(version))},
        "hyper_parameters": {"rank": 4, "betas": (0.9, 0.999)},
        "backbone": {"name": "tiny", "fingerprint": "0" * 64},
    }


def save(path: Path, version: int) -> None:
    AtomicCheckpointIO().save_checkpoint(content(version), path)


def load_quietly(path: Path) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return load_checkpoint(path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "last.ckpt"


def test_what_is_saved_is_loaded(path: Path) -> None:
    save(path, 1)
    loaded = load_checkpoint(path)
    assert loaded["version"] == 1
    assert torch.equal(loaded["state_dict"]["hypernet.weight"], torch.full((3, 4), 1.0))
    assert loaded["hyper_parameters"]["betas"] == (0.9, 0.999)
    assert [file.name for file in path.parent.iterdir()] == ["last.ckpt"]
    assert torch.load(path, weights_only=True)["version"] == 1  # and by anyone else


def test_the_version_before_is_kept_and_no_other(path: Path) -> None:
    for version in (1, 2, 3):
        save(path, version)
    assert load_checkpoint(path)["version"] == 3
    assert load_checkpoint(previous_path(path))["version"] == 2
    assert {file.name for file in path.parent.iterdir()} == {"last.ckpt", "last.previous.ckpt"}


@pytest.mark.parametrize("links", [True, False], ids=["hard links", "no hard links"])
def test_a_kill_at_any_operation_leaves_a_whole_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError("no hard links here")

    link = os.link if links else refuse
    for last in range(1, 100):  # kill around the n-th operation
        folder = tmp_path / str(last)
        path = folder / "last.ckpt"
        finished = 0
        with monkeypatch.context() as patch:
            kill_at(patch, last, link)
            try:
                for version in (1, 2, 3):
                    save(path, version)
                    finished = version
            except Killed:
                pass
        if finished == 3:
            break
        if finished:
            assert load_quietly(path)["version"] in (finished, finished + 1)
        save(path, 9)  # what was left behind is in nobody's way
        assert load_checkpoint(path)["version"] == 9
        if finished:
            assert load_checkpoint(previous_path(path))["version"] >= finished
    assert last > 30, f"only {last - 1} moments were tried"


def kill_at(patch: pytest.MonkeyPatch, last: int, link: Any) -> None:
    """Let the process die before or after an operation on files, without any clean-up."""
    count = 0

    def around(real: Any) -> Any:
        def operation(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count == last:
                raise Killed
            result = real(*args, **kwargs)
            count += 1
            if count == last:
                raise Killed
            return result

        return operation

    def half_written(checkpoint: Any, file: Path) -> None:
        file.write_bytes(b"PK\x03\x04 half of it")  # what a kill within the write leaves
        torch_save(checkpoint, file)

    def leave(self: Path, missing_ok: bool = False) -> None:
        if count != last:  # the dead do not clean up
            unlink(self, missing_ok=missing_ok)

    torch_save, unlink = torch.save, Path.unlink
    patch.setattr(torch, "save", around(half_written))
    patch.setattr(os, "replace", around(os.replace))
    patch.setattr(os, "link", around(link))
    patch.setattr(os, "fsync", around(os.fsync))
    patch.setattr(module, "_seal", around(module._seal))
    patch.setattr(Path, "unlink", leave)


def test_every_bit_flip_is_noticed_or_harmless(path: Path) -> None:
    save(path, 1)
    save(path, 2)
    whole = path.read_bytes()
    chosen = np.random.default_rng(0)
    places = chosen.integers(0, 8 * len(whole), 150).tolist()
    places += range(8 * (len(whole) - 75), 8 * len(whole), 5)  # the seal itself
    noticed = 0
    for place in places:
        flipped = bytearray(whole)
        flipped[place // 8] ^= 1 << place % 8
        path.write_bytes(flipped)
        version = load_quietly(path)["version"]
        noticed += version == 1
    assert noticed == len(places)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99, 0.9999])
def test_a_truncated_checkpoint_falls_back_with_a_warning(path: Path, share: float) -> None:
    save(path, 1)
    save(path, 2)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.warns(UserWarning, match=r"last\.ckpt.*last\.previous\.ckpt"):
        assert load_checkpoint(path)["version"] == 1


def test_a_missing_checkpoint_falls_back_with_a_warning(path: Path) -> None:
    save(path, 1)
    path.rename(previous_path(path))
    with pytest.warns(UserWarning, match=r"no such file.*version before"):
        assert load_checkpoint(path)["version"] == 1


def test_a_damaged_checkpoint_never_replaces_the_good_previous_one(path: Path) -> None:
    save(path, 1)
    save(path, 2)
    path.write_bytes(path.read_bytes()[:-100])
    save(path, 3)
    assert load_checkpoint(path)["version"] == 3
    assert load_checkpoint(previous_path(path))["version"] == 1


def test_without_any_whole_version_it_is_an_error(path: Path) -> None:
    save(path, 1)
    save(path, 2)
    for file in (path, previous_path(path)):
        file.write_bytes(file.read_bytes()[:300])
    save(path.with_name("epoch=0.ckpt"), 1)
    with pytest.raises(CheckpointError, match=r"last\.ckpt: damaged.*previous.*epoch=0\.ckpt"):
        load_checkpoint(path)


def test_a_missing_file_is_an_error(path: Path) -> None:
    for call in (load_checkpoint, AtomicCheckpointIO().load_checkpoint):
        with pytest.raises(CheckpointError, match=r"no such file.*holds no"):
            call(path)


def test_a_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_checkpoint(tmp_path)


def test_a_checkpoint_of_something_else_is_an_error(path: Path) -> None:
    AtomicCheckpointIO().save_checkpoint({"state_dict": {}}, path)
    with pytest.raises(
        CheckpointError, match=r"no checkpoint of this project.*named weights, more; give"
    ):
        load_checkpoint(path, ["state_dict", "weights", "more"])
    assert load_checkpoint(path) == {"state_dict": {}}
    AtomicCheckpointIO().save_checkpoint([1], path)  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match="expected a dictionary, got list"):
        load_checkpoint(path)


def test_plain_torch_files_are_checked_by_their_checksums(path: Path) -> None:
    path.parent.mkdir()
    torch.save(content(5), path)
    assert load_checkpoint(path)["version"] == 5
    whole = bytearray(path.read_bytes())
    whole[whole.index(torch.full((3, 4), 5.0).numpy().tobytes())] ^= 4
    path.write_bytes(whole)
    with pytest.raises(CheckpointError, match=r"damaged"):
        load_checkpoint(path)


def test_arbitrary_pickles_are_refused(path: Path) -> None:
    AtomicCheckpointIO().save_checkpoint(content(1) | {"now": datetime.timedelta(1)}, path)
    with pytest.raises(CheckpointError, match="weights_only=True"):
        load_checkpoint(path)
    with pytest.raises(CheckpointError, match="weights_only=False"):
        AtomicCheckpointIO().load_checkpoint(path, weights_only=False)


def test_other_places_and_options_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="local files"):
        save("s3://bucket/last.ckpt", 1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="storage_options"):
        AtomicCheckpointIO().save_checkpoint({}, tmp_path / "a.ckpt", storage_options={})


def test_a_failed_save_leaves_nothing_behind(path: Path) -> None:
    save(path, 1)
    with pytest.raises(AttributeError):
        AtomicCheckpointIO().save_checkpoint({"x": lambda: 0}, path)
    assert load_checkpoint(path)["version"] == 1
    assert [file.name for file in path.parent.iterdir()] == ["last.ckpt"]


def test_removing_takes_the_previous_version_along(path: Path) -> None:
    save(path, 1)
    save(path, 2)
    AtomicCheckpointIO().remove_checkpoint(path)
    assert list(path.parent.iterdir()) == []


def test_random_state_round_trips_through_a_checkpoint(path: Path) -> None:
    np.random.standard_normal()  # noqa: NPY002  leaves half a pair behind
    AtomicCheckpointIO().save_checkpoint({"random": get_random_state()}, path)

    def draw() -> tuple[float, float, float]:
        return random.random(), np.random.standard_normal(), torch.rand(()).item()  # noqa: NPY002

    first = draw()
    assert draw() != first
    set_random_state(AtomicCheckpointIO().load_checkpoint(path)["random"])
    assert draw() == first


class Noisy(BoringModel):
    """Draws from every generator in each step."""

    def __init__(self) -> None:
        super().__init__()
        self.drawn: list[tuple[float, float, float]] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.drawn.append((random.random(), np.random.rand(), torch.rand(()).item()))  # noqa: NPY002
        return super().training_step(batch, batch_idx)


def fit(path: Path, steps: int, resume: bool = False) -> list[tuple[float, float, float]]:
    model = Noisy()
    trainer = Trainer(
        accelerator="cpu",
        max_steps=steps,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        plugins=[AtomicCheckpointIO()],
        callbacks=[RandomState()],
    )
    trainer.fit(model, ckpt_path=path if resume else None)
    trainer.save_checkpoint(path)
    return model.drawn


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.filterwarnings("ignore:.*dataloader is not resumable")
def test_random_numbers_go_on_where_a_run_stopped(path: Path) -> None:
    torch.manual_seed(0)
    start = get_random_state()
    whole = fit(path, 6)
    set_random_state(start)
    parts = fit(path, 2)
    torch.rand(100)
    random.seed(7)
    parts += fit(path, 6, resume=True)
    assert parts == whole
