"""An adapter in a safetensors file: written as a whole, and known when it is damaged."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from dmoe.bank.atomic import replace_file
from dmoe.expert import Expert

_SHA256 = "sha256"  # of the tensors, in the file's metadata: safetensors has no checksum itself


class DamagedAdapterError(ValueError):
    """A file that is no longer what was written."""


def write_adapter(path: Path, adapter: Mapping[str, Tensor]) -> None:
    """Write an adapter; a reader sees all of it or nothing.

    Args:
        path: The file; its folder is made when missing.
        adapter: Tensors on the CPU.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = {name: tensor.contiguous() for name, tensor in adapter.items()}
    replace_file(path, save(whole, {_SHA256: _digest(whole)}), sync=True)


def read_adapter(path: Path) -> Expert:
    """Read what `write_adapter` wrote.

    Raises:
        FileNotFoundError: If there is none.
        DamagedAdapterError: If it is something else.
    """
    try:
        with safe_open(path, framework="pt") as file:
            adapter = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            expected = (file.metadata() or {}).get(_SHA256)
    except SafetensorError as error:
        raise DamagedAdapterError(f"{path} is damaged ({error})") from error
    if _digest(adapter) != expected:
        raise DamagedAdapterError(
            f"{path} is damaged (its tensors are not those that were written)"
        )
    return adapter


def _digest(adapter: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(adapter):
        tensor = adapter[name]
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)} ".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
