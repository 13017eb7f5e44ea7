"""Tensors in a safetensors file that holds its own checksum, so that damage is noticed.

Safetensors has no checksum of its own. Of 10,000 copies of an expert's file (rank 4, the final FFN
of SmolLM2-135M) with one flipped bit each, 9,959 were loaded without an error. So the metadata of
the file holds a SHA-256 over the names, dtypes, shapes and values of all tensors. Other programs
can read the file as well; they ignore the checksum.

The file is read at once and not with ``safe_open``, which maps it into memory. With a mapping, the
numbers that were checked could still change when something else writes into the file, and the
process would be killed when the file becomes shorter.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from plumbing.storage.files import write_whole

_SHA256 = "sha256"  # the key in the file's metadata


class DamagedTensorsError(ValueError):
    """A file of tensors that is no longer what was written; the message names it."""


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors with a checksum over them; a reader sees the whole file or none.

    Args:
        path: The file. Its folder is made if needed.
        tensors: Tensors by name, on the CPU.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    content = save(whole, {_SHA256: tensors_digest(whole)})
    with write_whole(path) as file:
        file.write(content)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read what `write_tensors` wrote, and check it.

    Args:
        path: The file.

    Returns:
        The tensors by name, on the CPU, in memory of their own.

    Raises:
        FileNotFoundError: If there is no such file.
        DamagedTensorsError: If the file is not what was written.
    """
    content = path.read_bytes()
    try:
        tensors = load(content)
        expected = _metadata(content).get(_SHA256)
    # safetensors raises Python's and PyTorch's errors as well as its own.
    except (SafetensorError, LookupError, ValueError, RuntimeError, AssertionError) as error:
        raise DamagedTensorsError(f"{path} is damaged ({error})") from error
    if tensors_digest(tensors) != expected:
        raise DamagedTensorsError(
            f"{path} is damaged (its tensors are not those that were written)"
        )
    return tensors


def _metadata(content: bytes) -> dict[str, str]:
    """The metadata of a safetensors file: part of its header, JSON behind the header's length."""
    end = 8 + int.from_bytes(content[:8], "little")
    return dict(json.loads(content[8:end]).get("__metadata__") or {})


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """The SHA-256 over the names, dtypes, shapes and values of tensors on the CPU.

    Files on users' disks hold it, so it stays what it is.
    """
    sha256 = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        sha256.update(f"{name} {tensor.dtype} {list(tensor.shape)} ".encode())
        sha256.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return sha256.hexdigest()
