"""The states below the expert layer, computed once and read in every later step.

The layers below are frozen, and the input of the expert layer depends on the question alone: not on
the passage, and not on the hypernetwork. Several epochs, or several runs of a sweep, therefore read
the same states from a memory-mapped file, and a step computes only the layers above.

Shapes: N questions, T tokens, D d_model.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from backbone.model import Backbone
from backbone.split import SplitBackbone
from plumbing.batches import by_length, pad
from plumbing.storage.folders import new_folder
from plumbing.storage.manifest import (
    MANIFEST,
    FolderError,
    read_manifest,
    write_manifest,
)

_BATCH_TOKENS = 2048
_STATES = "states.bin"
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

    They are written into a temporary folder that is renamed at the end, so an interrupted
    computation is never taken for a complete one. The batches depend only on the sequences, so
    the same input always gives the same bits.

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
        lambda missing: _compute(split, sequences, missing[home], progress),
    )
    return states


def cached_states(
    homes: Sequence[Path],
    lengths: Sequence[int],
    width: int,
    dtype: torch.dtype,
    compute: Callable[[dict[Path, FrozenStates]], None],
) -> list[FrozenStates]:
    """Open several kinds of states of the same tokens; those that are missing are computed first.

    Args:
        homes: The folder of each kind, with a name made of all that it depends on.
        lengths: The number of states of each sequence.
        width: The width of a state.
        dtype: The dtype of the states.
        compute: Writes the states of all kinds that are missing, which it gets by their folders.

    Raises:
        FrozenStatesError: If the disk is too full, or if the cache is damaged.
    """
    shape = (lengths, width, dtype)
    if missing := [home for home in homes if _unfinished(home)]:
        with ExitStack() as stack:
            parts = [stack.enter_context(new_folder(h, replace=_unfinished)) for h in missing]
            _check_space(parts[0], len(missing) * sum(lengths) * width * dtype.itemsize)
            states = [FrozenStates(part / _STATES, *shape) for part in parts]
            compute(dict(zip(missing, states, strict=True)))
            for part in parts:
                write_manifest(part, {}, [_STATES])
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
    progress: Callable[[Sequence[Any]], Any],
) -> None:
    device = split.backbone.device
    lengths = [len(sequence) for sequence in sequences]
    for batch in progress(by_length(lengths, max_tokens=_BATCH_TOKENS)):
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


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise FrozenStatesError(
            f"the frozen states need {needed / 2**30:.1f} GiB, but {folder.parent} has "
            f"{free / 2**30:.1f} GiB free; choose a cache_dir with more space, or do not cache them"
        )
