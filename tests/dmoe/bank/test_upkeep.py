"""Compaction, merging, export, the hub, and the command line."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from backbone.final_ffn import FinalFFN
from backbone.model import Backbone
from dmoe.bank import (
    Bank,
    BankError,
    BankSpec,
    DamagedExpertError,
    ExpertLayout,
    compact,
    from_pretrained,
    merge,
    push_to_hub,
    save_pretrained,
    verify,
)
from dmoe.commands.bank import bank_command
from dmoe.experts.expert import ExpertSpec
from plumbing.storage.files import write_whole
from plumbing.storage.jsonl import write_jsonl
from qa.bank import manifest
from tests.helpers.tiny_bank import add, holds, make_bank, make_spec, passage

pytestmark = pytest.mark.usefixtures("no_sync")

ROOT = Path(__file__).parents[3]


def test_compaction_packs_and_frees(tmp_path: Path):
    bank = make_bank(tmp_path)
    model = {}
    for seed in range(12):
        add(bank, [f"p{seed}"], seed)
        model[f"p{seed}"] = seed
    bank.remove(["p0", "p1"])
    model.pop("p0"), model.pop("p1")
    report = compact(bank)
    assert report.shards == (13, 1)
    assert report.bytes[1] < report.bytes[0]
    assert report.bytes[1] == sum(path.stat().st_size for path in (tmp_path / "shards").iterdir())
    assert holds(bank, model)
    assert holds(Bank.open(tmp_path), model)
    assert "10 experts" in (tmp_path / "README.md").read_text()


def test_compaction_leaves_full_shards_alone_and_ends(tmp_path: Path):
    bank = make_bank(tmp_path)
    size = 4 * bank.layout.row_bytes
    add(bank, ["a", "b", "c", "d"])
    add(bank, ["e"], seed=4)
    add(bank, ["f"], seed=5)
    full = bank.view.shards[0].entry
    compact(bank, shard_bytes=size)
    assert bank.view.shards[0].entry == full
    assert [shard.entry.rows for shard in bank.view.shards] == [4, 2]
    before = bank.fingerprint
    assert compact(bank, shard_bytes=size).shards == (2, 2)
    assert bank.fingerprint == before
    bank.remove(["a", "b", "c", "d", "e", "f"])
    assert compact(bank).shards == (3, 0)
    assert holds(bank, {})
    assert list((tmp_path / "shards").iterdir()) == []


@pytest.mark.parametrize("shards", [1, 2])  # one small shard stays, two are packed
@pytest.mark.parametrize(
    ("name", "is_gone"),
    [
        *(("manifest.json", gone) for gone in (False, True)),
        *(("manifest.copy.json", gone) for gone in (False, True)),
        *(("*.head", gone) for gone in (False, True)),
        ("*.safetensors", False),  # there is no second copy of the weights
    ],
)
def test_compaction_mends_either_of_two_copies(
    tmp_path: Path, shards: int, name: str, is_gone: bool
):
    bank = make_bank(tmp_path)
    model = {}
    for number in range(shards):
        add(bank, [f"{number}"], seed=number)
        model[f"{number}"] = number
    path = next(tmp_path.rglob(name))
    if is_gone:
        path.unlink()
    else:
        with path.open("r+b") as file:
            file.seek(100)
            file.write(b"\x7f")
    assert not verify(tmp_path).sound
    compact(Bank.open(tmp_path))
    assert verify(tmp_path).sound
    assert holds(Bank.open(tmp_path), model)


@pytest.mark.parametrize("stops_at", ["manifest.copy.json", "manifest.json", None])
def test_a_copy_that_stands_in_has_all_that_was_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stops_at: str | None
):
    bank = make_bank(tmp_path)
    add(bank, ["a"], seed=0)

    def stopped(path: Path, **options: bool) -> Any:
        if path.name == stops_at:
            raise KeyboardInterrupt
        return write_whole(path, **options)

    monkeypatch.setattr(manifest, "write_whole", stopped)
    try:
        add(bank, ["b"], seed=1)
        acknowledged = {"a", "b"}
    except KeyboardInterrupt:
        acknowledged = {"a"}
    monkeypatch.undo()
    assert acknowledged <= set(Bank.open(tmp_path))
    (tmp_path / "manifest.json").write_bytes(b"{")
    assert acknowledged <= set(Bank.open(tmp_path))
    compact(Bank.open(tmp_path))
    assert acknowledged <= set(Bank.open(tmp_path))
    assert verify(tmp_path).sound


def test_compaction_brings_a_copy_up_to_date(tmp_path: Path):
    bank = make_bank(tmp_path)
    copy = tmp_path / "manifest.copy.json"
    old = copy.read_bytes()
    add(bank, ["a"])
    copy.write_bytes(old)  # as if the writer had been killed before it wrote the copy
    before = bank.fingerprint
    compact(bank)
    assert copy.read_bytes() == (tmp_path / "manifest.json").read_bytes() != old
    assert bank.fingerprint == before


def test_banks_of_workers_are_merged(tmp_path: Path):
    bank, left, right = (make_bank(tmp_path / name) for name in ("bank", "left", "right"))
    add(bank, ["a"])
    add(left, ["b", "c"], seed=1)
    left.remove(["c"])
    add(right, ["a", "../d"])  # "a" is the same expert as in bank
    assert [merge(bank, left.path), merge(bank, right.path)] == [1, 1]
    assert holds(bank, {"a": 0, "b": 1, "../d": 1})
    before = bank.fingerprint
    assert [merge(bank, left.path), merge(bank, right.path)] == [0, 0]
    assert bank.fingerprint == before
    assert verify(bank.path).sound
    assert [sha for _, sha in bank.entries()] == [
        *(sha for _, sha in make_again(tmp_path, ["a", "b", "../d"]).entries())
    ]


def make_again(tmp_path: Path, ids: list[str]) -> Bank:
    bank = make_bank(tmp_path / "again")
    add(bank, ids)
    return bank


def test_conflicts_of_merging(tmp_path: Path):
    bank, other = make_bank(tmp_path / "bank"), make_bank(tmp_path / "other")
    add(bank, ["a", "b"])
    add(other, ["b", "c"], seed=5)
    with pytest.raises(BankError, match=r"passage 'b' \(and 0 more\) has another expert in .*keep"):
        merge(bank, other.path)
    assert holds(bank, {"a": 0, "b": 1})
    assert merge(bank, other.path, on_conflict="keep") == 1
    assert holds(bank, {"a": 0, "b": 1, "c": 6})
    assert merge(bank, other.path, on_conflict="replace") == 1
    assert holds(Bank.open(bank.path), {"a": 0, "b": 5, "c": 6})
    with pytest.raises(BankError, match="on_conflict must be one of error, keep, replace"):
        merge(bank, other.path, on_conflict="mix")


def test_only_banks_of_a_kind_are_merged(tmp_path: Path):
    bank = make_bank(tmp_path / "bank")
    for name, spec in {
        "x": make_spec(recipe={}),
        "y": make_spec(backbone_sha256="1" * 64),
    }.items():
        Bank.create(tmp_path / name, spec)
        with pytest.raises(BankError, match=r"/[xy]: the bank does not fit: (re|back)"):
            merge(bank, tmp_path / name)


def test_damage_is_not_merged_nor_exported(tmp_path: Path):
    bank, other = make_bank(tmp_path / "bank"), make_bank(tmp_path / "other")
    add(other, ["a", "b"])
    with other.view.shards[0].paths[0].open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x7f")
    for move in (lambda: merge(bank, other.path), lambda: save_pretrained(other, tmp_path / "new")):
        with pytest.raises(DamagedExpertError, match="passage 'b' is damaged"):
            move()
    assert holds(bank, {})
    assert list((bank.path / "shards").iterdir()) == []


def test_a_copy_to_share(tmp_path: Path):
    bank = make_bank(tmp_path / "bank", backbone='a: "name"\n---\n```', recipe={"x": "```\n---"})
    add(bank, ["a", "b"])
    bank.remove(["a"])
    copy = save_pretrained(bank, tmp_path / "copy")
    assert holds(copy, {"b": 1})
    names = {path.name for path in copy.path.iterdir() if not path.name.startswith(".")}
    assert names == {"manifest.json", "manifest.copy.json", "README.md", "shards"}
    card = (copy.path / "README.md").read_text()
    assert 'base_model: "a: \\"name\\"\\n---\\n```"' in card
    assert "1 experts" in card
    assert card.splitlines().count("---") == 2
    assert card.splitlines().count("```") == 2
    opened = from_pretrained(copy.path, recipe={"x": "```\n---"})
    assert holds(opened, {"b": 1})
    with pytest.raises(BankError, match="open for reading only"):
        add(opened, ["c"])
    with pytest.raises(BankError, match="there is a bank already"):
        save_pretrained(bank, tmp_path / "copy")


def test_to_the_hub_and_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    hub = tmp_path / "hub"
    calls: list[tuple[str, dict]] = []

    class Api:
        def __init__(self, token: str | None) -> None:
            calls.append(("token", {"token": token}))

        def create_repo(self, repo_id: str, **settings: Any) -> None:
            calls.append((repo_id, settings))

        def upload_folder(self, folder_path: str, **settings: Any) -> Any:
            calls.append(("upload", settings))
            Path(folder_path).rename(hub)
            Path(folder_path).mkdir()
            return SimpleNamespace(commit_url="https://hub/commit")

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, **settings: str(hub))
    bank = make_bank(tmp_path / "bank")
    add(bank, ["a", "b"])
    assert push_to_hub(bank, "me/bank", private=True, token="t") == "https://hub/commit"
    assert calls[:2] == [
        ("token", {"token": "t"}),
        ("me/bank", {"private": True, "exist_ok": True}),
    ]
    assert calls[2][1]["delete_patterns"] == ["shards/*"]
    assert holds(from_pretrained("me/bank"), {"a": 0, "b": 1})
    assert {path.name for path in tmp_path.iterdir()} == {"bank", "hub"}


def test_a_name_that_no_hub_knows(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(BankError, match=r"expected a folder or a bank on the hub .*'no such//'"):
        from_pretrained("no such//")


def results(*arguments: object) -> list[dict]:
    output = io.StringIO()
    bank_command([str(argument) for argument in arguments], output)
    return [json.loads(line) for line in output.getvalue().splitlines()]


def test_commands(tmp_path: Path):
    path, other = tmp_path / "bank", make_bank(tmp_path / "other")
    bank = make_bank(path)
    add(bank, ["a", "new\nline", "c"])
    add(other, ["d"], seed=3)
    listed = results("list", path)
    assert [row["id"] for row in listed] == ["a", "new\nline", "c"]
    assert results("merge", path, other.path) == [{"source": str(other.path), "copied": 1}]
    (tmp_path / "ids.jsonl").write_text(json.dumps(listed[1]) + "\n")
    left = results("remove", path, "--id", "c", "--ids", tmp_path / "ids.jsonl")
    assert left == [{"removed": 2, "experts": 2}]
    (packed,) = results("compact", path)
    assert (packed["experts"], packed["shards"]) == (2, [3, 1])
    assert results("export", path, tmp_path / "copy") == [{"experts": 2}]
    (info,) = results("info", tmp_path / "copy")
    assert (info["experts"], info["shards"], info["alpha"]) == (2, 1, 16.0)
    (report,) = results("verify", tmp_path / "copy")
    assert (report["experts"], report["damaged"], report["files"]) == (2, {}, [])
    assert holds(Bank.open(tmp_path / "copy"), {"a": 0, "d": 3})
    with pytest.raises(BankError, match="give --id ID or --ids FILE"):
        results("remove", path)


def test_verification_fails_where_there_is_damage(tmp_path: Path):
    bank = make_bank(tmp_path)
    add(bank, ["a"])
    with bank.view.shards[0].paths[0].open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x7f")
    output = io.StringIO()
    with pytest.raises(BankError, match="1 experts and 0 other parts are damaged, see above"):
        bank_command(["verify", str(tmp_path)], output)
    assert list(json.loads(output.getvalue())["damaged"]) == ["a"]


def test_numbers_of_a_run(tmp_path: Path):
    path, run = tmp_path / "bank", f"hydra.run.dir={tmp_path / 'run'}"
    bank, other = make_bank(path), make_bank(tmp_path / "other")

    def metrics(*arguments: object) -> dict[str, float]:
        results(*arguments, run)
        return json.loads((tmp_path / "run" / "metrics.json").read_text())

    assert metrics("list", path) == {"results": 0}
    add(bank, ["a", "b"])
    add(other, ["c", "d", "e"])
    assert metrics("list", path) == {"results": 2}
    assert metrics("merge", path, other.path, other.path) == {"results": 2, "copied": 3}
    info = metrics("info", path)
    assert (info["experts"], info["shards"], info["alpha"]) == (5, 2, 16)
    packed = metrics("compact", path)
    assert (packed["shards/before"], packed["shards/after"], packed["dropped"]) == (2, 1, 0)
    assert metrics("verify", path) == {
        **{"results": 1, "experts": 5, "damaged": 0, "files": 0, "unnamed": 0}
    }
    (path / "manifest.json").unlink()
    with pytest.raises(BankError, match="0 experts and 1 other parts"):
        metrics("verify", path)
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["files"] == 1
    with pytest.raises(BankError, match="expected a bank"):
        results("list", tmp_path / "none", f"hydra.run.dir={tmp_path / 'failed'}")
    assert not (tmp_path / "failed").exists()


def test_who_reads_the_output_may_end_before(tmp_path: Path):
    bank = make_bank(tmp_path)
    add(bank, [str(number) for number in range(300)])  # more output than a buffer holds
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as output, pytest.raises(SystemExit) as end:
        bank_command(["list", str(tmp_path)], output)
    assert end.value.code == 141  # the exit code of a tool that SIGPIPE has ended


def test_adapters_go_out_and_come_in(tiny_backbone: Backbone, tmp_path: Path):
    folder = tmp_path / "model"
    tiny_backbone.model.save_pretrained(folder)
    tiny_backbone.tokenizer.save_pretrained(folder)
    spec = ExpertSpec(2, 3.0, ["down", "gate"])
    layout = ExpertLayout(spec.shapes(FinalFFN(tiny_backbone).sizes))
    bank, other = (
        Bank.create(
            tmp_path / name, BankSpec(str(folder), tiny_backbone.fingerprint, layout, alpha)
        )
        for name, alpha in (("bank", 3.0), ("other", 4.0))
    )
    bank.add(
        [passage("a")], {name: torch.randn(1, *shape) for name, shape in layout.shapes.items()}
    )
    write_jsonl(tmp_path / "passages.jsonl", [asdict(passage("b"))])
    adapter, texts = tmp_path / "adapter", tmp_path / "passages.jsonl"
    assert results("export-peft", bank.path, adapter, "--id", "a") == [{"exported": 1}]
    given = [adapter, "--passages", texts, "--backbone", folder]
    came = results("import-peft", bank.path, *given, "--id", "b")
    assert came == [{"imported": 1, "experts": 2}]
    bank.refresh()
    pair = bank.get(["a", "b"])
    assert all(torch.equal(tensor[0], tensor[1]) for tensor in pair.values())
    bank.check_passages([passage("b")])
    with pytest.raises(BankError, match=r"passage 'b' .* is there already"):
        results("import-peft", bank.path, *given, "--id", "b")
    results("import-peft", bank.path, *given, "--id", "b", "--replace")
    with pytest.raises(BankError, match="expected the passage 'c', found none"):
        results("import-peft", bank.path, *given, "--id", "c")
    with pytest.raises(BankError, match=r"expected ExpertSpec\(rank=2, alpha=4.0"):
        results("import-peft", other.path, *given, "--id", "b")


@pytest.mark.slow
def test_the_script(tmp_path: Path):
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(ROOT / "scripts" / "bank.py"), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    add(make_bank(tmp_path / "bank"), ["a"])
    done = run("list", str(tmp_path / "bank"))
    assert (done.returncode, json.loads(done.stdout)["id"]) == (0, "a")
    with subprocess.Popen(
        [sys.executable, str(ROOT / "scripts" / "bank.py"), "list", str(tmp_path / "bank")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as unread:
        assert unread.stdout is not None
        assert unread.stderr is not None
        unread.stdout.close()
        assert unread.stderr.read() == b""
    failed = run("verify", str(tmp_path / "nowhere"))
    assert failed.returncode == 2
    assert failed.stderr.startswith("error: ")
    assert failed.stderr.count("\n") == 1
