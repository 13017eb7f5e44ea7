"""Tensors in a file with a checksum over them: read as written, or known to be damaged."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor

from plumbing.storage.tensors import DamagedTensorsError, read_tensors, write_tensors
from tests.helpers.faults import flipped


@pytest.fixture
def tensors() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "0.up.lora_A": torch.randn(2, 3, generator=generator),
        "0.up.lora_B": torch.randn(4, 2, generator=generator).bfloat16(),
        "transposed": torch.randn(3, 5, generator=generator).T,
        "empty": torch.empty(0, 7),
        "number": torch.tensor(3),
    }


def test_write_then_read_is_identity(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    path = tmp_path / "new folder" / "a.safetensors"
    write_tensors(path, tensors)
    read = read_tensors(path)
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert read[name].dtype == tensor.dtype
        assert torch.equal(read[name], tensor)
    assert list(path.parent.iterdir()) == [path]
    with safe_open(path, framework="pt") as file:  # others read it as well
        assert torch.equal(file.get_tensor("transposed"), tensors["transposed"])


def test_the_format_is_that_of_before(tmp_path: Path) -> None:
    values = {"b": torch.arange(3.0), "a": torch.ones(2, 2, dtype=torch.float16)}
    sha256 = hashlib.sha256()
    for name in ("a", "b"):
        tensor = values[name]
        sha256.update(f"{name} {tensor.dtype} {list(tensor.shape)} ".encode())
        sha256.update(tensor.numpy().tobytes())
    before = save(values, {"sha256": sha256.hexdigest()})
    write_tensors(tmp_path / "new", values)
    assert (tmp_path / "new").read_bytes() == before
    assert sha256.hexdigest().startswith("16db12e3d2c4acea")


def test_what_was_read_does_not_change_with_the_file(
    tmp_path: Path, tensors: dict[str, Tensor]
) -> None:
    path = tmp_path / "a.safetensors"
    write_tensors(path, tensors)
    read = read_tensors(path)
    with path.open("r+b") as file:  # in place, as write_tensors never does
        file.truncate(7)
    assert all(torch.equal(read[name], tensor) for name, tensor in tensors.items())
    read["0.up.lora_A"] += 1  # its memory is its own


def test_a_flipped_bit_is_found(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    path = tmp_path / "a.safetensors"
    write_tensors(path, tensors)
    random, silent = Random(0), 0
    for _ in range(600):
        with flipped(path, random) as where:
            with suppress(SafetensorError, KeyError, ValueError, AssertionError):
                load(path.read_bytes())
                silent += 1  # the library's own check finds few
            with pytest.raises(DamagedTensorsError, match=r"a\.safetensors is damaged \("):
                pytest.fail(f"{where}: {read_tensors(path)}")
    assert silent > 100  # else there would be no need of a checksum
    read_tensors(path)


def test_other_files_are_damaged_ones(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    path = tmp_path / "a.safetensors"
    write_tensors(path, tensors)
    whole = path.read_bytes()
    without = save({"a": torch.ones(2)})
    for content in (b"", whole[:5], whole[:-1], whole + b"x", without, b"\xff" * 100):
        path.write_bytes(content)
        with pytest.raises(DamagedTensorsError, match="is damaged"):
            read_tensors(path)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        read_tensors(path)
