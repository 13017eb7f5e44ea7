"""What lies below the expert layer is frozen: compute it once, train on it as often as you like.

The input of the expert layer depends on the question alone, neither on the passage nor on the
hypernetwork. Over several epochs (or several runs: a sweep over ranks, widths and learning rates)
the same states are read from a memory-mapped file, and a step costs only the layers above.

Shapes: N questions, T tokens, D d_model.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import shutil
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from genpoe.collate import pad
from qa.backbone import Backbone

_BATCH_TOKENS = 2048
_MANIFEST = "manifest.json"


class FrozenStatesError(ValueError):
    """Cached states that cannot be used."""


class _Pass(nn.Module):
    """Stands in for a layer that is not computed."""

    attention_type = "full_attention"

    def forward(self, hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
        return hidden_states


class _Tap(_Pass):
    """Hands out what reaches it, or hands on what it was given instead."""

    states: Tensor | None = None

    def forward(self, hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
        if self.states is not None:
            return self.states
        self.seen = hidden_states
        return hidden_states


class SplitBackbone:
    """The decoder cut below one layer: the part below it, and the part from it on.

    Both are shallow copies that share every weight with the backbone. The part above keeps the
    place of each layer, since some families choose a layer's attention by its index.

    Args:
        backbone: The frozen model.
        layer: The cut lies below this layer; at least 1.
    """

    def __init__(self, backbone: Backbone, layer: int) -> None:
        if layer < 1:
            raise FrozenStatesError(
                "nothing lies below layer 0: set model.cache_frozen=false, or model.layer >= 1"
            )
        self.backbone = backbone
        self._tap = _Tap()
        self._resume = _Tap()
        skipped = [_Pass() for _ in range(layer - 1)]
        self._below = _with_layers(backbone.decoder, [*backbone.layers[:layer], self._tap])
        self._above = _with_layers(
            backbone.decoder, [*skipped, self._resume, *backbone.layers[layer:]]
        )

    @torch.no_grad()
    def below(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """``[N, T, D]``: what the layer reads."""
        self._below(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
        seen, self._tap.seen = self._tap.seen, None  # type: ignore[assignment]
        return seen

    def above(self, states_NTD: Tensor, attention_mask: Tensor) -> Tensor:
        """``[N, T, D]``: the final hidden states, after the last norm."""
        self._resume.states = states_NTD
        try:
            out = self._above(
                inputs_embeds=states_NTD, attention_mask=attention_mask, use_cache=False
            )
        finally:
            self._resume.states = None
        return out.last_hidden_state


def _with_layers(decoder: nn.Module, layers: Sequence[nn.Module]) -> nn.Module:
    part = copy.copy(decoder)
    part._modules = dict(decoder._modules)
    name = next(n for n in ("layers", "h", "blocks") if n in part._modules)
    part._modules[name] = nn.ModuleList(layers)
    return part


class FrozenStates:
    """States of many token sequences, in one memory-mapped file.

    Args:
        path: The file.
        lengths: Tokens of each sequence, in their order.
        width: D.
        dtype: Of the states.
    """

    def __init__(self, path: Path, lengths: Sequence[int], width: int, dtype: torch.dtype) -> None:
        self._lengths = torch.tensor(lengths, dtype=torch.long)
        self._starts = self._lengths.cumsum(0) - self._lengths
        total = int(self._lengths.sum())
        flat = torch.from_file(str(path), shared=True, size=total * width, dtype=dtype)
        self.flat_TD = flat.view(total, width)

    def rows(self, indices_N: Tensor) -> Tensor:
        """``[N, T, D]`` of some sequences, padded with zeros on the right."""
        indices_N = indices_N.cpu()
        lengths, starts = self._lengths[indices_N], self._starts[indices_N]
        offsets = torch.arange(int(lengths.max()))
        inside = offsets < lengths[:, None]
        states = self.flat_TD[(starts[:, None] + offsets).where(inside, starts[:, None])]
        return states * inside[..., None]

    def write(self, index: int, states_TD: Tensor) -> None:
        """Store one sequence's states."""
        start = int(self._starts[index])
        self.flat_TD[start : start + len(states_TD)] = states_TD.cpu()


def frozen_states(
    split: SplitBackbone,
    sequences: Sequence[Sequence[int]],
    layer: int,
    folder: Path,
    progress: Callable[[Sequence[Any]], Any] = iter,
) -> FrozenStates:
    """Open the states of ``sequences``, computing them first where they are not there.

    They are written aside and published by one rename, so an interrupted computation leaves
    nothing behind that could be taken for a whole one. Batches are made of the sequences alone,
    so the same input gives the same bits whoever computes it.

    Args:
        split: The backbone, cut below ``layer``.
        sequences: Token ids.
        layer: The cut.
        folder: Where caches lie; this one gets a name made of all that it depends on.
        progress: Wraps the batches, for a progress bar.

    Raises:
        FrozenStatesError: If the disk is full, or the cache is damaged.
    """
    backbone = split.backbone
    home = folder / _key(backbone, sequences, layer)
    lengths = [len(sequence) for sequence in sequences]
    shape: tuple[list[int], int, torch.dtype] = (lengths, backbone.d_model, backbone.dtype)
    if not (home / _MANIFEST).is_file():
        part = folder / f".{home.name}.{socket.gethostname()}.{os.getpid()}"
        _remove_abandoned(part)
        part.mkdir(parents=True, exist_ok=True)
        try:
            _check_space(part, sum(lengths) * backbone.d_model * backbone.dtype.itemsize)
            states = FrozenStates(part / "states.bin", *shape)
            _compute(split, sequences, states, progress)
            digest = _digest(states.flat_TD)
            (part / _MANIFEST).write_text(json.dumps({"sha256": digest}), encoding="utf-8")
            _publish(part, home)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    states = FrozenStates(home / "states.bin", *shape)
    expected = json.loads((home / _MANIFEST).read_text(encoding="utf-8"))["sha256"]
    if _digest(states.flat_TD) != expected:
        raise FrozenStatesError(f"the cached states in {home} are damaged; remove that folder")
    return states


def _remove_abandoned(part: Path) -> None:
    """Remove what processes of this machine left unfinished when they were killed."""
    for other in part.parent.glob(f"{part.stem}.*"):
        try:
            os.kill(int(other.suffix[1:]), 0)
        except ProcessLookupError:
            shutil.rmtree(other, ignore_errors=True)
        except (ValueError, PermissionError):
            pass  # of no process, or alive and another user's


def _publish(part: Path, home: Path) -> None:
    if (home / _MANIFEST).is_file():
        return  # another process was faster
    shutil.rmtree(home, ignore_errors=True)
    try:
        part.rename(home)
    except OSError:
        if not (home / _MANIFEST).is_file():
            raise


@torch.no_grad()
def _compute(
    split: SplitBackbone,
    sequences: Sequence[Sequence[int]],
    states: FrozenStates,
    progress: Callable[[Sequence[Any]], Any],
) -> None:
    device = split.backbone.device
    for batch in progress(_batches(sequences)):
        input_ids, attention_mask = pad([sequences[index] for index in batch], 0)
        below = split.below(input_ids.to(device), attention_mask.to(device))
        for row, index in enumerate(batch):
            states.write(index, below[row, : len(sequences[index])])


def _batches(sequences: Sequence[Sequence[int]]) -> list[list[int]]:
    """Indices in batches of about equal length and about ``_BATCH_TOKENS`` tokens."""
    batches: list[list[int]] = []
    for index in sorted(range(len(sequences)), key=lambda i: len(sequences[i])):
        if not batches or (len(batches[-1]) + 1) * len(sequences[index]) > _BATCH_TOKENS:
            batches.append([])
        batches[-1].append(index)
    return batches


def _key(backbone: Backbone, sequences: Sequence[Sequence[int]], layer: int) -> str:
    digest = hashlib.sha256(f"{backbone.fingerprint} {layer} {backbone.dtype}".encode())
    for sequence in sequences:
        digest.update(torch.tensor(sequence, dtype=torch.int32).numpy().tobytes() + b"|")
    return digest.hexdigest()[:32]


def _digest(flat_TD: Tensor) -> str:
    return hashlib.sha256(flat_TD.view(torch.uint8).numpy().data).hexdigest()


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise FrozenStatesError(
            f"the frozen states need {needed / 2**30:.1f} GiB, but {folder.parent} has "
            f"{free / 2**30:.1f} GiB free; set paths.cache_dir, or model.cache_frozen=false"
        )
