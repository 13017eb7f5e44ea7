"""Damage of every kind is found and named, and undamaged experts are still served."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from dmoe.bank import Bank, BankError, DamagedExpertError, compact, verify
from tests.helpers.tiny_bank import add, experts, holds, make_bank, same

pytestmark = pytest.mark.usefixtures("no_sync")

MODEL = {"a": 10, "c": 2, "d": 11, "e": 20, "é/../": 21}


@pytest.fixture
def bank(tmp_path: Path) -> Bank:
    """A bank with three shards of experts and one of removed ids; it holds ``MODEL``."""
    bank = make_bank(tmp_path / "bank")
    add(bank, ["a", "b", "c"])
    add(bank, ["a", "d"], seed=10, replace=True)
    bank.remove(["b"])
    add(bank, ["e", "é/../"], seed=20)
    return bank


def files(bank: Bank) -> list[Path]:
    """List all files that the bank reads."""
    return sorted(path for path in bank.path.rglob("*") if path.suffix in (".json", ".head")) + [
        shard.paths[0] for shard in bank.view.shards
    ]


def check_served(path: Path) -> set[str]:
    """Return the ids that are reported as damaged; all other experts must be unchanged."""
    bank, named = Bank.open(path), set[str]()
    assert sorted(bank) == sorted(MODEL)
    for id, seed in MODEL.items():
        try:
            got = bank.get([id])
        except DamagedExpertError as error:
            named |= error.problems.keys()
        else:
            assert same(got, experts(seed))
    if named:
        with pytest.raises(DamagedExpertError, match="is damaged") as caught:
            bank.get(list(MODEL))
        assert set(caught.value.problems) == named
    return named


def dead(bank: Bank, path: Path, offset: int) -> bool:
    """True if a byte belongs to an expert that was replaced or removed."""
    for number, shard in enumerate(bank.view.shards):
        if path == shard.paths[0]:
            row = (offset - shard.entry.head_bytes) // bank.layout.row_bytes
            return row >= 0 and (number << 32) + row not in bank.view.table.places.tolist()
    return False


def check_flips(bank: Bank, count: int) -> None:
    chance = random.Random(count)
    paths = files(bank)
    for _ in range(count):
        path = chance.choice(paths)
        raw = bytearray(path.read_bytes())
        offset, bit = chance.randrange(len(raw)), chance.randrange(8)
        whole = bytes(raw)
        raw[offset] ^= 1 << bit
        path.write_bytes(raw)
        named = check_served(bank.path)
        report = verify(bank.path)
        assert set(report.damaged) == named
        assert dead(bank, path, offset) or (not report.sound and bool(named) != bool(report.files))
        path.write_bytes(whole)
    assert verify(bank.path).sound


def check_truncations(bank: Bank, count: int) -> None:
    chance = random.Random(count)
    paths = files(bank)
    for _ in range(count):
        path = chance.choice(paths)
        whole = path.read_bytes()
        if chance.random() < 0.1:
            path.unlink()
        else:
            path.write_bytes(whole[: chance.randrange(len(whole))])
        named = check_served(bank.path)
        report = verify(bank.path)
        assert report.files
        assert set(report.damaged) == named
        path.write_bytes(whole)
    assert verify(bank.path).sound


def test_every_flipped_bit_is_found(bank: Bank):
    check_flips(bank, 100)


@pytest.mark.slow
def test_ten_thousand_flipped_bits_are_found(bank: Bank):
    check_flips(bank, 10_000)


def test_every_truncation_is_found(bank: Bank):
    check_truncations(bank, 40)


@pytest.mark.slow
def test_two_thousand_truncations_are_found(bank: Bank):
    check_truncations(bank, 2_000)


def test_a_file_that_shrinks_under_an_open_bank(bank: Bank):
    path = bank.view.shards[3].paths[0]
    raw = path.read_bytes()
    with path.open("r+b") as file:
        # Reading there through mapped memory would kill the process.
        file.truncate(len(raw) - 1)
    assert same(bank.get(["e"]), experts(20))
    with pytest.raises(DamagedExpertError, match=r"'é/\.\./' is damaged: .* ends before it"):
        bank.get(["é/../"])
    with path.open("r+b") as file:
        file.truncate(0)
    assert same(bank.get(["a", "c", "d"]), experts(10, 2, 11))
    with pytest.raises(DamagedExpertError) as caught:
        bank.get(["e", "a", "é/../"])
    assert list(caught.value.problems) == ["e", "é/../"]


def test_bytes_that_change_under_an_open_bank(bank: Bank):
    path = bank.view.shards[3].paths[0]
    with path.open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x7f")
    with pytest.raises(DamagedExpertError, match="its checksum differs"):
        bank.get(["é/../"])


@pytest.mark.parametrize("which", range(10))
def test_compaction_mends_what_is_kept_twice(bank: Bank, which: int):
    path = files(bank)[which]
    raw = bytearray(path.read_bytes())
    raw[10] ^= 1
    path.write_bytes(raw)
    assert verify(bank.path).files
    compact(bank)
    assert verify(bank.path).sound
    assert holds(bank, MODEL)
    assert holds(Bank.open(bank.path), MODEL)


def test_damaged_experts_are_dropped_only_when_asked(bank: Bank):
    compact(bank)
    (shard,) = bank.view.shards
    with shard.paths[0].open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x7f")
    assert list(verify(bank.path).damaged) == ["é/../"]
    add(bank, ["f"], seed=30)
    before = sorted(bank.path.rglob("*"))
    with pytest.raises(DamagedExpertError, match=r"passage 'é/\.\./' is damaged"):
        compact(bank)
    assert sorted(bank.path.rglob("*")) == before
    report = compact(bank, drop_damaged=True)
    assert list(report.dropped) == ["é/../"]
    assert verify(bank.path).sound
    left = {id: seed for id, seed in MODEL.items() if id != "é/../"} | {"f": 30}
    assert holds(bank, left)


def test_both_copies_damaged_is_said(bank: Bank):
    shard = bank.view.shards[1]
    for path in shard.paths:
        path.write_bytes(b"\0" * 100)
    with pytest.raises(BankError, match=r"\.safetensors: its ids .*\.head: its ids .* backup"):
        Bank.open(bank.path)
    for name in ("manifest.json", "manifest.copy.json"):
        (bank.path / name).write_bytes(b"{}")
    with pytest.raises(BankError, match=r"manifest\.json: .*manifest\.copy\.json: .*backup"):
        Bank.open(bank.path)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"format": 1', b'"format": 2'),
        (b'"rows": 3', b'"rows": 4'),
        (b'"alpha": 16.0', b'"alpha": 32.0'),
        (b"{\n", b"{ \n"),
        (b"}\n", b"}"),
        (b'"shards": [', b'"shards": [['),
        (b'"dtype": "float32"', b'"dtype": "float64"'),
    ],
)
def test_a_manifest_that_was_changed_is_not_used(bank: Bank, old: bytes, new: bytes):
    path = bank.path / "manifest.json"
    raw = path.read_bytes()
    assert old in raw
    path.write_bytes(raw.replace(old, new, 1))
    assert any("manifest.json" in problem for problem in verify(bank.path).files)
    assert check_served(bank.path) == set()
    (bank.path / "manifest.copy.json").unlink()
    with pytest.raises(BankError, match="the manifest cannot be used"):
        Bank.open(bank.path)


def test_a_bank_can_be_moved_and_copied(bank: Bank, tmp_path: Path):
    shutil.copytree(bank.path, tmp_path / "copy")
    shutil.move(bank.path, tmp_path / "moved")
    for name in ("copy", "moved"):
        assert holds(Bank.open(tmp_path / name), MODEL)
