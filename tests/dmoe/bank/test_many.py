"""Several processes on one bank: nothing is lost, nobody waits long or sees half a change."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

import pytest

from dmoe.bank import Bank, BankError, compact, merge, verify
from qa.bank.publish import copy_rows
from qa.bank.upkeep import clean
from tests.helpers.tiny_bank import add, experts, holds, make_bank, same

pytestmark = pytest.mark.usefixtures("no_sync")

fork = multiprocessing.get_context("fork")


def writer(path: Path, name: str, rounds: int) -> None:
    bank = Bank.open(path)
    for number in range(rounds):
        add(bank, [f"{name}{number}a", f"{name}{number}b"], seed=number)
        if number % 4 == 3:
            bank.remove([f"{name}{number}b"])


def compactor(path: Path, rounds: int) -> None:
    for _ in range(rounds):
        try:
            compact(Bank.open(path), shard_bytes=2000)
        except BankError as error:
            if "has compacted the bank" not in str(error):
                raise
        time.sleep(0.02)


def check_together(path: Path, writers: int, rounds: int) -> None:
    make_bank(path)
    names = [chr(ord("a") + number) for number in range(writers)]
    work: list[Any] = [fork.Process(target=writer, args=(path, n, rounds)) for n in names]
    work += [fork.Process(target=compactor, args=(path, rounds)) for _ in range(2)]
    for process in work:
        process.start()
    looks = 0
    while any(process.is_alive() for process in work):
        bank = Bank.open(path)
        ids = list(bank)
        seeds = [int(id[1:-1]) + (id[-1] == "b") for id in ids]
        assert same(bank.get(ids), experts(*seeds))
        for name in names:  # each writer's additions appear in its order, and each as a whole
            numbers = {int(id[1:-1]) for id in ids if id[0] == name and id[-1] == "a"}
            assert numbers == set(range(len(numbers)))
            pairs = {int(id[1:-1]) for id in ids if id[0] == name and id[-1] == "b"}
            assert {n for n in numbers if n % 4 != 3} <= pairs <= numbers
        looks += 1
    for process in work:
        process.join()
        assert process.exitcode == 0
    assert looks
    model = {f"{name}{n}a": n for name in names for n in range(rounds)}
    model |= {f"{name}{n}b": n + 1 for name in names for n in range(rounds) if n % 4 != 3}
    bank = Bank.open(path)
    assert holds(bank, model)
    compact(bank)
    assert holds(bank, model)
    assert verify(path).sound
    assert verify(path).unnamed == ()


def test_writers_readers_and_compactions(tmp_path: Path):
    check_together(tmp_path / "bank", writers=2, rounds=8)


@pytest.mark.slow
def test_many_writers_readers_and_compactions(tmp_path: Path):
    check_together(tmp_path / "bank", writers=6, rounds=60)


def test_a_bank_is_made_once_by_many(tmp_path: Path):
    def make(number: int) -> None:
        bank = Bank.create(tmp_path / "bank", spec, exist_ok=True)
        add(bank, [str(number)], seed=number)

    spec = make_bank(tmp_path / "other").spec
    work = [fork.Process(target=make, args=(number,)) for number in range(4)]
    for process in work:
        process.start()
    for process in work:
        process.join()
        assert process.exitcode == 0
    assert holds(Bank.open(tmp_path / "bank"), {str(number): number for number in range(4)})


def test_the_second_of_two_that_add_the_same_is_told(tmp_path: Path):
    first, second = make_bank(tmp_path), Bank.open(tmp_path)
    add(first, ["a"])
    assert "a" not in second
    with pytest.raises(BankError, match=r"passage 'a' .* is there already"):
        add(second, ["b", "a"])
    second.refresh()
    assert holds(second, {"a": 0})
    first.remove(["a"])
    with pytest.raises(BankError, match="no expert of passage 'a'"):
        second.remove(["a"])


def test_the_second_of_two_that_compact_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    bank = make_bank(tmp_path)
    add(bank, ["a"])
    add(bank, ["b"], seed=1)

    def late(*args: Any) -> Any:
        monkeypatch.undo()
        compact(Bank.open(tmp_path))
        add(Bank.open(tmp_path), ["c"], seed=2)
        return copy_rows(*args)

    monkeypatch.setattr("qa.bank.upkeep.copy_rows", late)
    with pytest.raises(BankError, match="another process has compacted the bank"):
        compact(bank)
    bank.refresh()
    assert holds(bank, {"a": 0, "b": 1, "c": 2})
    assert compact(bank).unnamed == 0
    assert verify(tmp_path).unnamed == ()


def test_a_file_that_goes_while_sizes_are_summed_is_no_error(tmp_path: Path):
    bank = make_bank(tmp_path)
    add(bank, ["a"])
    size = compact(bank).bytes[1]
    gone = tmp_path / "shards" / ("f" * 32 + ".safetensors")
    gone.symlink_to("deleted")  # it is listed but gone, as if another compaction had deleted it
    assert compact(bank).bytes == (size, size)
    assert holds(bank, {"a": 0})


def test_what_comes_during_a_compaction_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    bank = make_bank(tmp_path)
    add(bank, ["a"])
    add(bank, ["b", "c"], seed=1)

    def late(*args: Any) -> Any:
        other = Bank.open(tmp_path)
        add(other, ["a", "d"], seed=10, replace=True)
        other.remove(["b"])
        return copy_rows(*args)

    monkeypatch.setattr("qa.bank.upkeep.copy_rows", late)
    compact(bank)
    assert holds(bank, {"a": 10, "c": 2, "d": 11})
    assert holds(Bank.open(tmp_path), {"a": 10, "c": 2, "d": 11})


def test_files_of_a_writer_at_work_are_left_alone(tmp_path: Path):
    bank = make_bank(tmp_path)
    add(bank, ["a"])
    stray = tmp_path / "shards" / ("f" * 32 + ".safetensors")
    stray.write_bytes(b"half a shard")
    handle = os.open(tmp_path / ".writers.lock", os.O_RDWR)
    fcntl.flock(handle, fcntl.LOCK_SH)
    assert clean(tmp_path, wait=0.0) == 1
    assert stray.exists()
    assert verify(tmp_path).unnamed == (str(stray),)
    assert verify(tmp_path).sound
    os.close(handle)
    assert compact(bank).unnamed == 0
    assert not stray.exists()


def test_a_lock_that_is_never_free_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("qa.bank.locks.WAIT", 0.05)
    bank = make_bank(tmp_path)
    handle = os.open(tmp_path / ".publish.lock", os.O_RDWR)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with pytest.raises(BankError, match=r"holds \.publish\.lock; waited 0.05 s"):
        add(bank, ["a"])
    assert holds(Bank.open(tmp_path), {})  # readers need no lock
    assert list((tmp_path / "shards").iterdir()) == []
    os.close(handle)
    add(bank, ["a"])


def test_merge_and_a_writer_at_the_same_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    bank, other = make_bank(tmp_path / "x"), make_bank(tmp_path / "y")
    add(other, ["a"])

    def late(*args: Any) -> Any:
        add(Bank.open(bank.path), ["a"], seed=5)
        return copy_rows(*args)

    monkeypatch.setattr("qa.bank.merging.copy_rows", late)
    with pytest.raises(BankError, match="merge again"):
        merge(bank, other.path)
    bank.refresh()
    assert holds(bank, {"a": 5})
