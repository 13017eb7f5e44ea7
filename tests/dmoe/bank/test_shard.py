"""Shards as files: any reader of safetensors can open them."""

from __future__ import annotations

import hashlib
import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from dmoe.bank import Bank, BankError
from qa.bank import shard as shard_file
from qa.bank.shard import ShardEntry
from retrieval.passage import text_digest
from tests.helpers.tiny_bank import add, experts, holds, make_bank, passage

pytestmark = pytest.mark.usefixtures("no_sync")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_shard_is_safetensors(tmp_path: Path, dtype: str):
    bank = make_bank(tmp_path, dtype)
    ids = ["a", "ü", "/etc", ""]
    add(bank, ids)
    (path,) = (tmp_path / "shards").glob("*.safetensors")
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        assert json.loads(file.metadata()["layout"]) == bank.layout.to_json()
    ends = [0, *tensors["id_ends"].tolist()]
    raw = tensors["ids"].numpy().tobytes()
    assert [raw[a:b].decode() for a, b in pairwise(ends)] == ids
    rows = tensors["experts"]
    assert torch.equal(rows, bank.layout.flatten(experts(0, 1, 2, 3)))
    for row, id in enumerate(ids):
        weights = rows[row].view(torch.uint8).numpy().tobytes()
        assert tensors["expert_sha256"][row].numpy().tobytes() == hashlib.sha256(weights).digest()
        sha256 = text_digest(passage(id))
        assert tensors["passage_sha256"][row].numpy().tobytes() == sha256
        assert tensors["keys"][row].numpy().tobytes() == hashlib.sha256(id.encode()).digest()[:16]
    head = path.with_suffix(".head").read_bytes()
    assert path.read_bytes().startswith(head)
    assert len(head) % 64 == 0
    assert [sha for _, sha in bank.entries()] == [text_digest(passage(id)).hex() for id in ids]


def test_removed_ids_are_safetensors_too(tmp_path: Path):
    bank = make_bank(tmp_path)
    add(bank, ["a", "b"])
    bank.remove(["b"])
    path = bank.view.shards[1].paths[0]
    with safe_open(path, "pt") as file:
        assert file.get_tensor("experts").shape == (0, bank.layout.numel)
        assert file.get_tensor("ids").numpy().tobytes() == b"b"


def test_equal_experts_give_equal_files(tmp_path: Path):
    banks = [make_bank(tmp_path / name) for name in "xy"]
    for bank in banks:
        add(bank, ["a", "b"])
    first, second = (bank.view.shards[0].paths[0].read_bytes() for bank in banks)
    assert first == second


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "../../../../etc/passwd"},
        {"name": "A" * 32},
        {"name": 7},
        {"rows": 0},
        {"rows": True},
        {"removed": 1},
        {"head_bytes": -1},
        {"head_sha256": None},
    ],
)
def test_entries_of_strangers_are_checked(changes: dict):
    entry = {"name": "a" * 32, "rows": 1, "removed": False, "head_bytes": 99, "head_sha256": "b"}
    assert ShardEntry.from_json(entry).to_json() == entry
    with pytest.raises(ValueError, match="a shard of unexpected"):
        ShardEntry.from_json({**entry, **changes})
    with pytest.raises(TypeError):
        ShardEntry.from_json({**entry, "path": "/etc"})


def test_a_header_that_we_would_not_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    bank = make_bank(tmp_path)
    real = shard_file._header
    with monkeypatch.context() as patch:
        patch.setattr(shard_file, "_header", lambda *sizes: real(*sizes).replace(b"U64", b"I64"))
        add(bank, ["a"])
    with pytest.raises(BankError, match="expected a shard of 1 experts in the manifest's layout"):
        Bank.open(tmp_path)


def test_writes_reach_the_disk_before_the_manifest_names_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    bank = make_bank(tmp_path)
    events: list[str] = []

    def fsync(handle: int) -> None:
        target = Path(f"/proc/self/fd/{handle}").readlink()
        events.append(target.suffix or target.name)

    replace = Path.replace

    def rename(self: Path, target: Path) -> Path:
        events.append(f"-> {Path(target).name}")
        return replace(self, target)

    monkeypatch.setattr("os.fsync", fsync)
    monkeypatch.setattr(Path, "replace", rename)
    add(bank, ["a"])
    shard, folder = events.index(".safetensors"), events.index("shards")
    manifest = events.index("-> manifest.json")
    assert shard < folder < manifest < events.index(tmp_path.name)
    assert holds(bank, {"a": 0})
