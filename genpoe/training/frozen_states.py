"""The states below the expert layer, computed once and read in every later step.

The layers below are frozen, and the input of the expert layer depends on the question alone: not on
the passage, and not on the hypernetwork. Several epochs, or several runs of a sweep, therefore read
the same states from a memory-mapped file, and a step computes only the layers above.

Shapes: N questions, T tokens, D d_model.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from backbone.model import Backbone
from backbone.split import SplitBackbone
from plumbing.batches import by_length, pad
from plumbing.storage.files import write_json
from plumbing.storage.folders import only_writer, publish_folder
from plumbing.storage.manifest import (
    MANIFEST,
    FolderError,
    read_manifest,
    write_manifest,
)

T = TypeVar("T")

_BATCH_TOKENS = 2048
_STATES = "states.bin"
_MARK = "done.json"  # how many batches are on the disk; only in a folder that is not finished
_SECONDS_BETWEEN_MARKS = 15.0
_WHAT = "cache of frozen states"


class FrozenStatesError(ValueError):
    """Cached states cannot be used, or cannot be written."""


class FrozenStates:
    """States of many token sequences, in one memory-mapped file.

    Args:
        path: The file; it is made if it does not exist.
        lengths: The number of tokens of each sequence, in the order of the file.
        width: D, the width of a state.
        dtype: The dtype of the states.
    """

    def __init__(self, path: Path, lengths: Sequence[int], width: int, dtype: torch.dtype) -> None:
        self._lengths = torch.tensor(lengths, dtype=torch.long)
        self._starts = self._lengths.cumsum(0) - self._lengths
        total = int(self._lengths.sum())
        flat = torch.from_file(str(path), shared=True, size=total * width, dtype=dtype)
        self.flat_TD = flat.view(total, width)

    def rows(self, indices_N: Tensor, left: bool = False) -> Tensor:
        """The states ``[N, T, D]`` of some sequences, padded with zeros on the right or left."""
        indices_N = indices_N.cpu()
        lengths, starts = self._lengths[indices_N], self._starts[indices_N]
        offsets = torch.arange(int(lengths.max())).expand(len(lengths), -1)
        if left:
            offsets = offsets - (offsets.shape[1] - lengths[:, None])
        inside = (offsets >= 0) & (offsets < lengths[:, None])
        states = self.flat_TD[(starts[:, None] + offsets).where(inside, starts[:, None])]
        return states * inside[..., None]

    def write(self, index: int, states_TD: Tensor) -> None:
        """Store the states of one sequence."""
        start = int(self._starts[index])
        self.flat_TD[start : start + len(states_TD)] = states_TD.cpu()


def frozen_states(
    split: SplitBackbone,
    sequences: Sequence[Sequence[int]],
    layer: int,
    folder: Path,
    progress: Callable[[Sequence[Any]], Any] = iter,
    dtype: torch.dtype | None = None,
) -> FrozenStates:
    """Open the cached states of some sequences; compute them first if they are not cached.

    An interrupted computation is never taken for a complete one, and the next call goes on with it;
    see `cached_states`. The batches depend only on the sequences, so the same input always gives
    the same bits.

    Args:
        split: The backbone, cut below ``layer``.
        sequences: Token ids of each sequence.
        layer: The layer below which the backbone is cut.
        folder: The folder of all caches. This one gets a name made of all that it depends on.
        progress: Wraps the list of batches, for a progress bar.
        dtype: The dtype in which the states are kept; None: that of the backbone.

    Raises:
        FrozenStatesError: If the disk is too full, or if the cache is damaged.
    """
    backbone = split.backbone
    home = _home(folder, backbone, sequences, layer)
    if dtype is not None and dtype != backbone.dtype:
        home = home.with_name(f"{home.name}-{str(dtype).removeprefix('torch.')}")
    (states,) = cached_states(
        [home],
        [len(sequence) for sequence in sequences],
        backbone.d_model,
        dtype or backbone.dtype,
        lambda missing, remaining: _compute(split, sequences, missing[home], remaining),
        progress,
    )
    return states


class Remaining:
    """The batches of a computation that are not on the disk yet, and a mark of how far it came.

    Args:
        parts: The folders that are being filled. The computation goes on where the one of them that
            has the fewest batches stands.
        progress: Wraps the list of batches, for a progress bar.
    """

    def __init__(
        self, parts: Sequence[Path], progress: Callable[[Sequence[Any]], Any] = iter
    ) -> None:
        self._parts, self._progress = parts, progress

    def __call__(self, batches: Sequence[T]) -> Iterator[T]:
        """Those of the batches that remain; each counts as done when the next one is asked for."""
        done = min(_done(part, len(batches)) for part in self._parts)
        marked = time.monotonic()
        for index, batch in enumerate(self._progress(batches)):
            if index < done:
                continue
            yield batch
            if time.monotonic() - marked >= _SECONDS_BETWEEN_MARKS:
                for part in self._parts:
                    _mark(part, index + 1, len(batches))
                marked = time.monotonic()


def _done(part: Path, batches: int) -> int:
    """The number of batches that a folder has; 0 if its mark is of others or damaged."""
    try:
        mark = json.loads((part / _MARK).read_bytes())
        return int(mark["done"]) if mark["of"] == batches else 0
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def _mark(part: Path, done: int, batches: int) -> None:
    """Note how many batches are on the disk, after they are there."""
    with (part / _STATES).open("rb") as file:
        os.fsync(file.fileno())
    write_json(part / _MARK, {"done": done, "of": batches})


def cached_states(
    homes: Sequence[Path],
    lengths: Sequence[int],
    width: int,
    dtype: torch.dtype,
    compute: Callable[[dict[Path, FrozenStates], Remaining], None],
    progress: Callable[[Sequence[Any]], Any] = iter,
) -> list[FrozenStates]:
    """Open several kinds of states of the same tokens; those that are missing are computed first.

    They are written into folders ``.NAME.building``, which get their names at the end. A mark there
    says how many batches are on the disk, so that a computation that was killed goes on. If two
    processes want the same states, one of them waits for the other.

    Args:
        homes: The folder of each kind, with a name made of all that it depends on.
        lengths: The number of states of each sequence.
        width: The width of a state.
        dtype: The dtype of the states.
        compute: Writes the states of all kinds that are missing, which it gets by their folders. It
            takes its batches from the `Remaining` that it also gets.
        progress: Wraps the list of batches, for a progress bar.

    Raises:
        FrozenStatesError: If the disk is too full, or if the cache is damaged.
    """
    shape = (lengths, width, dtype)
    if any(_unfinished(home) for home in homes):
        with ExitStack() as stack:
            for home in sorted(set(homes)):  # in one order, so that no two wait for each other
                stack.enter_context(only_writer(home, _WHAT, wait=True))
            missing = [home for home in homes if _unfinished(home)]
            parts = [home.with_name(f".{home.name}.building") for home in missing]
            for part in parts:
                part.mkdir(parents=True, exist_ok=True)
            if missing:
                _check_space(parts, sum(lengths) * width * dtype.itemsize)
                states = [FrozenStates(part / _STATES, *shape) for part in parts]
                compute(dict(zip(missing, states, strict=True)), Remaining(parts, progress))
            for home, part in zip(missing, parts, strict=True):
                (part / _MARK).unlink(missing_ok=True)
                write_manifest(part, {}, [_STATES])
                publish_folder(part, home)
    for home in homes:
        try:
            read_manifest(home, _WHAT, older_form=_older_form)
        except FolderError as error:
            raise FrozenStatesError(
                f"the cached states in {home} are damaged; remove that folder ({error})"
            ) from error
    return [FrozenStates(home / _STATES, *shape) for home in homes]


def _unfinished(home: Path) -> bool:
    return not (home / MANIFEST).is_file()


def _older_form(manifest: dict[str, Any]) -> dict[str, Any]:
    """The generic form of a manifest that an earlier version wrote; it is still accepted."""
    return {"settings": {}, "files": {_STATES: {"sha256": manifest["sha256"]}}}


@torch.no_grad()
def _compute(
    split: SplitBackbone,
    sequences: Sequence[Sequence[int]],
    states: FrozenStates,
    remaining: Remaining,
) -> None:
    device = split.backbone.device
    lengths = [len(sequence) for sequence in sequences]
    for batch in remaining(by_length(lengths, max_tokens=_BATCH_TOKENS)):
        input_ids, attention_mask = pad([sequences[index] for index in batch], 0)
        below = split.below(input_ids.to(device), attention_mask.to(device))
        for row, index in enumerate(batch):
            states.write(index, below[row, : len(sequences[index])])


def _home(folder: Path, backbone: Backbone, sequences: Sequence[Sequence[int]], layer: int) -> Path:
    """The folder of some states; it is the one that version 0.1 made if only that is there."""
    identity = backbone.identity
    new, old = (
        folder / _key(f"{fingerprint} {layer} {backbone.dtype}", sequences)
        for fingerprint in (identity.fingerprint, identity.weights.legacy)
    )
    return old if _unfinished(new) and not _unfinished(old) else new


def _key(decisive: str, sequences: Sequence[Sequence[int]]) -> str:
    digest = hashlib.sha256(decisive.encode())
    for sequence in sequences:
        digest.update(torch.tensor(sequence, dtype=torch.int32).numpy().tobytes() + b"|")
    return digest.hexdigest()[:32]


def _check_space(parts: Sequence[Path], size: int) -> None:
    """Check that the disk has room for what the parts do not have yet."""
    there = [(part / _STATES).stat().st_blocks * 512 for part in parts if (part / _STATES).exists()]
    needed, free = len(parts) * size - sum(there), shutil.disk_usage(parts[0]).free
    if needed > free:
        raise FrozenStatesError(
            f"the frozen states need {needed / 2**30:.1f} GiB, but {parts[0].parent} has "
            f"{free / 2**30:.1f} GiB free; choose a cache_dir with more space, or do not cache them"
        )
