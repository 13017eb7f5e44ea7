"""The hash of all of a model's weights, from the files that hold them or from memory.

Each tensor is hashed by itself, with its name, dtype and shape. So the hash does not depend on how
the tensors are spread over files, and a plain model has the same hash in memory as in the files
that ``save_pretrained`` writes.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from plumbing.storage.files import cache_folder, write_json
from plumbing.storage.hashing import digest

log = logging.getLogger(__name__)

RECORD = ".weights-hash.json"  # beside the weights

_FORMAT = 1  # of the hash
_SMALL = 1 << 26  # bytes; what is smaller is hashed faster than a record of it is worth
_BLOCK = 1 << 22  # bytes that are read at once
_THREADS = 8  # at most; hashing and reading let other threads run

# What transformers looks for in a folder, in this order.
_FILES = ("model.safetensors", "pytorch_model.bin")
_DTYPES = {  # as safetensors calls them
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
}

_Piece = tuple[list[Any], Callable[[], str]]  # a tensor's name, dtype and shape; what hashes it


def weight_files(folder: Path) -> list[Path]:
    """The files that transformers loads the weights of a folder from.

    Returns:
        The files, sorted; an empty list if they cannot be told.
    """
    if (folder / "adapter_config.json").is_file():  # the weights are those of another folder
        return []
    for name in _FILES:
        if (folder / name).is_file():
            return [folder / name]
        index = folder / f"{name}.index.json"
        if index.is_file():
            places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            return sorted({folder / place for place in places.values()})
    return []


def hash_of_files(files: Sequence[Path]) -> str:
    """The hash of the weights in some files of one folder.

    It is computed once. A record of it is kept beside the files, together with their sizes and
    times of change, or in the cache folder if nothing can be written there.

    Args:
        files: What `weight_files` returned; not empty.
    """
    folder = files[0].parent
    states = {file.name: file.stat() for file in files}
    if sum(state.st_size for state in states.values()) < _SMALL:
        return _hash_of_files(files)
    # The time of change of the entry notices a file whose time of change was set back.
    known = {
        name: [state.st_size, state.st_mtime_ns, state.st_ctime_ns]
        for name, state in states.items()
    }
    made_of = {"format": _FORMAT, "files": known}
    own = cache_folder() / "weights" / f"{digest(str(folder.resolve()))[:32]}.json"
    for place in (folder / RECORD, own):
        if found := _kept(place, made_of):
            return found
    found = _hash_of_files(files)
    for place in (folder / RECORD, own):
        try:
            write_json(place, {**made_of, "sha256": found})
        except OSError:
            continue
        return found
    log.info("the hash of the weights in %s cannot be kept, so it is computed each time", folder)
    return found


def _kept(place: Path, made_of: dict[str, Any]) -> str:
    """The hash in a record, or "" if the record is missing, damaged or of other files."""
    try:
        record = json.loads(place.read_text(encoding="utf-8"))
        sha256 = record.pop("sha256")
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return ""
    return sha256 if record == made_of and isinstance(sha256, str) else ""


def _hash_of_files(files: Sequence[Path]) -> str:
    return _combined([piece for file in files for piece in _pieces(file)])


def hash_of_model(model: Any) -> str:
    """The hash of the weights of a model as they are in memory."""
    # A tensor that has several names, such as a tied head, counts once, under its first name.
    names = {id(t): name for name, t in reversed(model.state_dict(keep_vars=True).items())}

    def piece(name: str, tensor: Tensor) -> _Piece:
        about = [name, _DTYPES.get(tensor.dtype, str(tensor.dtype)), list(tensor.shape)]
        return about, lambda: hashlib.sha256(raw_bytes(tensor)).hexdigest()

    each = model.state_dict(keep_vars=True).items()
    return _combined([piece(name, t) for name, t in each if names[id(t)] == name])


def raw_bytes(tensor: Tensor) -> memoryview:
    """The bytes of a tensor, copied to the CPU if it is elsewhere."""
    flat = tensor.detach().contiguous().flatten().view(torch.uint8)
    found: memoryview = flat.cpu().numpy().data
    return found


def _combined(pieces: Iterable[_Piece]) -> str:
    """Hash pieces in several threads, and combine the hashes whatever the order of the pieces."""
    about, tasks = zip(*pieces, strict=True)
    with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
        hashes = pool.map(lambda task: task(), tasks)
        return digest(sorted([*one, sha256] for one, sha256 in zip(about, hashes, strict=True)))


def _pieces(file: Path) -> list[_Piece]:
    """The tensors of a file: the name, dtype and shape of each, and a function that hashes it."""
    if file.suffix != ".safetensors":  # a pickle, which only PyTorch should read
        return [([file.name, "", []], lambda: _range_hash(file, 0, file.stat().st_size))]
    with file.open("rb") as opened:
        size = int.from_bytes(opened.read(8), "little")
        header = json.loads(opened.read(size))
    header.pop("__metadata__", None)

    def piece(name: str, entry: dict[str, Any]) -> _Piece:
        start, end = (8 + size + offset for offset in entry["data_offsets"])
        about = [name, entry["dtype"], entry["shape"]]
        return about, lambda: _range_hash(file, start, end)

    return [piece(name, entry) for name, entry in header.items()]


def _range_hash(file: Path, start: int, end: int) -> str:
    """The SHA-256 of a part of a file."""
    sha256, block = hashlib.sha256(), memoryview(bytearray(min(_BLOCK, end - start)))
    with file.open("rb", buffering=0) as opened:
        opened.seek(start)
        while start < end:
            count = opened.readinto(block[: end - start])
            if not count:
                raise OSError(f"{file} became shorter while it was read")
            sha256.update(block[:count])
            start += count
    return sha256.hexdigest()


class WeightsWatch:
    """Notices that the weights in memory are no longer what they were.

    It compares the sum of each weight's bytes, taken as whole numbers, and PyTorch's count of the
    changes in place. A gigabyte takes less than a tenth of a second. A weight that was moved to
    another device has not changed.

    Args:
        model: The model as it is now.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._weights: list[Tensor] = list(model.parameters())
        self._state = {id(weight): _now(weight) for weight in self._weights}

    def changed(self) -> bool:
        """Whether a weight has been changed or replaced since it was last looked at."""
        there = {id(weight) for weight in self._model.parameters()}
        return not there.issuperset(self._state) or any(
            _now(weight) != self._state[id(weight)] for weight in self._weights
        )

    def renew(self, weights: Iterable[Tensor]) -> None:
        """Take some of the weights for unchanged as they are now; the others are not looked at."""
        self._state |= {id(weight): _now(weight) for weight in weights}


def _now(weight: Tensor) -> tuple[int, ...]:
    return (0 if weight.is_inference() else weight._version, *_sums(weight.detach()))


def _sums(weight: Tensor) -> tuple[int, int]:
    """Two sums modulo 2^64 over the bytes of a weight: of whole words, and of what is left."""
    if weight.is_meta:
        return 0, 0
    flat = weight.contiguous().flatten()
    if flat.storage_offset() * flat.itemsize % 8:  # it cannot be read as words where it is
        flat = flat.clone()
    whole = flat.numel() - flat.numel() % max(1, 8 // flat.itemsize)
    words, rest = flat[:whole].view(torch.int64), flat[whole:].view(torch.uint8)
    return int(words.sum()), int(rest.sum())
