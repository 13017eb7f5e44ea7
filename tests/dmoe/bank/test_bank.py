"""The bank's public interface."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from backbone.model import Backbone
from dmoe.bank import Bank, BankError, BankSpec, ExpertLayout, compact, verify
from retrieval.passage import Passage
from tests.helpers.tiny_bank import SHAPES, add, experts, holds, make_bank, make_spec, passage, same

pytestmark = pytest.mark.usefixtures("no_sync")

HOSTILE = [
    "../../etc/passwd",
    "/etc/passwd",
    "..",
    ".",
    "",
    " ",
    "a/b\\c",
    "nul\0byte",
    "new\nline\r\t",
    "CON",
    "*?[]{}$(rm -rf ~)`'\";|&",
    "%2e%2e%2f",
    "é",
    "e\u0301",
    "É",
    "\u202eright to left",
    "\ufeffbom",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 🧨",
    "x" * 100_000,
    "manifest.json",
    "shards",
]
PIECES = HOSTILE[:18]
HOSTILE += [f"{first}{glue}{second}" for first in PIECES for glue in "/\0" for second in PIECES]
HOSTILE = list(dict.fromkeys(HOSTILE))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_what_was_added_comes_back(tmp_path: Path, dtype: str):
    bank = make_bank(tmp_path / "bank", dtype)
    add(bank, ["a", "b", "c"])
    for again in (bank, Bank.open(tmp_path / "bank")):
        got = again.get(["c", "a", "c"])
        assert same(got, experts(2, 0, 2))
        assert {tensor.dtype for tensor in got.values()} == {getattr(torch, dtype)}
        assert list(again) == ["a", "b", "c"]
        assert len(again) == 3
        assert again.scaling == 8.0


def test_an_expert_that_was_got_is_a_copy(tmp_path: Path):
    bank = make_bank(tmp_path)
    add(bank, ["a"])
    for tensor in bank.get(["a"]).values():
        tensor.zero_()
    assert same(bank.get(["a"]), experts(0))
    rows = bank.matrix(["a"])
    assert rows.shape == (1, bank.layout.numel)
    assert same(bank.layout.split(rows), experts(0))


def test_none_is_as_good_as_any_number(tmp_path: Path):
    bank = make_bank(tmp_path)
    before = bank.fingerprint
    add(bank, [])
    bank.remove([])
    assert bank.fingerprint == before
    assert holds(bank, {})
    assert same(bank.get([]), experts())


def test_replace_and_remove(tmp_path: Path):
    bank = make_bank(tmp_path)
    add(bank, ["a", "b", "c"])
    fingerprints = {bank.fingerprint}
    add(bank, ["b", "d"], seed=10, replace=True)
    fingerprints.add(bank.fingerprint)
    bank.remove(["a"])
    fingerprints.add(bank.fingerprint)
    assert holds(bank, {"b": 10, "c": 2, "d": 11})
    add(bank, ["a"], seed=20)
    fingerprints.add(bank.fingerprint)
    assert holds(Bank.open(tmp_path), {"a": 20, "b": 10, "c": 2, "d": 11})
    assert len(fingerprints) == 4


def test_any_text_is_an_id_and_none_is_a_path(tmp_path: Path):
    assert len(HOSTILE) > 500
    bank = make_bank(tmp_path / "bank")
    add(bank, HOSTILE)
    bank = Bank.open(tmp_path / "bank")
    assert list(bank) == HOSTILE
    assert holds(bank, {id: seed for seed, id in enumerate(HOSTILE)})
    compact(bank)
    assert holds(bank, {id: seed for seed, id in enumerate(HOSTILE)})
    assert verify(bank.path).sound
    assert {path.name for path in tmp_path.iterdir()} == {"bank"}
    names = {path.name for path in (tmp_path / "bank").rglob("*") if path.parent.name == "shards"}
    assert all(len(name.partition(".")[0]) == 32 for name in names)


@given(ids=st.lists(st.text(), max_size=20, unique=True))
@settings(max_examples=25, deadline=None)
def test_ids_of_any_text(tmp_path_factory: pytest.TempPathFactory, ids: list[str]):
    bank = make_bank(tmp_path_factory.mktemp("bank"))
    add(bank, ids)
    bank = Bank.open(bank.path)
    assert list(bank) == ids
    assert same(bank.get(ids), experts(*range(len(ids))))


IDS = st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=4, unique=True)
STEPS = st.lists(
    st.tuples(st.sampled_from(["add", "replace", "remove", "compact", "reopen"]), IDS), max_size=15
)


@given(steps=STEPS)
@settings(max_examples=40, deadline=None)
def test_a_bank_is_a_dict(tmp_path_factory: pytest.TempPathFactory, steps: list):
    bank, model = make_bank(tmp_path_factory.mktemp("bank")), dict[str, int]()
    for seed, (step, ids) in enumerate(steps):
        if step == "remove" and not set(ids) <= set(model):
            with pytest.raises(BankError, match="no expert of passage"):
                bank.remove(ids)
        elif step == "remove":
            bank.remove(ids)
            model = {id: old for id, old in model.items() if id not in ids}
        elif step == "add" and set(ids) & set(model):
            with pytest.raises(BankError, match="is there already"):
                add(bank, ids, seed * 10)
        elif step in ("add", "replace"):
            add(bank, ids, seed * 10, replace=step == "replace")
            model |= {id: seed * 10 + index for index, id in enumerate(ids)}
        elif step == "compact":
            compact(bank, shard_bytes=3 * bank.layout.row_bytes)
        else:
            bank = Bank.open(bank.path)
        assert holds(bank, model)
    assert holds(Bank.open(bank.path), model)
    report = verify(bank.path)
    assert report.sound
    assert report.unnamed == ()


def test_a_large_addition_becomes_several_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("qa.bank.publish.SHARD_BYTES", 1000)
    bank = make_bank(tmp_path)
    ids = [str(n) for n in range(20)]
    add(bank, ids)
    assert len(bank.view.shards) == -(-20 // (1000 // bank.layout.row_bytes))
    assert list(bank) == ids
    assert holds(bank, {id: seed for seed, id in enumerate(ids)})


def test_a_reader_sees_one_version_until_it_looks_again(tmp_path: Path):
    bank = make_bank(tmp_path)
    add(bank, ["a", "b"])
    reader = Bank.open(tmp_path)
    add(bank, ["a"], seed=10, replace=True)
    bank.remove(["b"])
    compact(bank)  # deletes the files that the reader has open
    assert holds(reader, {"a": 0, "b": 1})
    reader.refresh()
    assert holds(reader, {"a": 10})


def test_an_addition_opens_nothing_again(tmp_path: Path):
    bank = make_bank(tmp_path)
    add(bank, ["a"])
    (first,) = bank.view.shards
    add(bank, ["b"], seed=1)
    assert bank.view.shards[0] is first
    other = Bank.open(tmp_path)
    other.refresh()
    assert holds(other, {"a": 0, "b": 1})


def test_what_is_left_to_build(tmp_path: Path):
    bank = make_bank(tmp_path)
    add(bank, ["a", "b"])
    wanted = [passage("a"), passage("b", "another text"), passage("c")]
    assert [left.id for left in bank.missing(wanted)] == ["b", "c"]
    assert list(bank.missing(iter([]))) == []
    bank.check_passages([passage("a"), passage("c")])
    with pytest.raises(BankError, match="expert of passage 'b' was made of another text"):
        bank.check_passages(wanted)


def test_the_title_counts_and_where_it_ends(tmp_path: Path):
    bank = make_bank(tmp_path)
    bank.add([Passage("a", "one", "two")], experts(0))
    assert list(bank.missing([Passage("a", "one two", "")]))
    assert list(bank.missing([Passage("a", "onet", "wo")]))
    assert not list(bank.missing([Passage("a", "one", "two")]))


def test_a_bank_fits_its_backbone_and_recipe_only(tmp_path: Path, tiny_backbone: Backbone):
    with pytest.raises(BankError, match="use that model, or another"):
        make_bank(tmp_path / "other").check_backbone(tiny_backbone)
    make_bank(tmp_path / "bank", backbone_sha256=tiny_backbone.fingerprint)
    Bank.open(tmp_path / "bank", tiny_backbone, {"epochs": 1, "lr": 1e-5})
    differs = r"the bank does not fit: recipe\.lr: 0\.1 here, 1e-05 in the bank; use another"
    with pytest.raises(BankError, match=differs):
        Bank.open(tmp_path / "bank", tiny_backbone, {"epochs": 1, "lr": 0.1})


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"backbone_sha256": "1" * 64}, "backbone_sha256: '1+' here, '0+' in the bank"),
        ({"alpha": 8.0}, "alpha: 8.0 here, 16.0 in the bank"),
        (
            {"recipe": {"lr": 1e-4}},
            "recipe.epochs: none here, 1 in the bank; recipe.lr: 0.0001 here, 1e-05 in the bank",
        ),
        ({"layout": ExpertLayout(SHAPES, "float16")}, "dtype: 'float16' here"),
        (
            {"layout": ExpertLayout({**SHAPES, "down.lora_B": (4, 2)})},
            r"shapes.down.lora_B: \[4, 2\] here, \[3, 2\] in the bank",
        ),
    ],
)
def test_only_a_bank_that_fits_is_continued(tmp_path: Path, changes: dict, named: str):
    add(make_bank(tmp_path), ["a"])
    renamed = dataclasses.replace(make_spec(), backbone="the same elsewhere")
    assert holds(Bank.create(tmp_path, renamed, exist_ok=True), {"a": 0})
    with pytest.raises(BankError, match=f"the bank does not fit: {named}"):
        Bank.create(tmp_path, make_spec(**changes), exist_ok=True)


def test_a_bank_is_made_once(tmp_path: Path):
    make_bank(tmp_path)
    with pytest.raises(BankError, match="there is a bank already"):
        make_bank(tmp_path)
    with pytest.raises(BankError, match=r"found no manifest\.json; build one"):
        Bank.open(tmp_path / "nowhere")


def test_nothing_is_added_unless_all_is(tmp_path: Path):
    bank = make_bank(tmp_path)
    add(bank, ["a"])
    files = sorted((tmp_path / "shards").iterdir())
    with pytest.raises(BankError, match=r"'a' \(and 0 more\) is there already"):
        add(bank, ["b", "a"])
    with pytest.raises(BankError, match="no expert of passage 'c'"):
        bank.remove(["a", "c"])
    with pytest.raises(BankError, match="'b' comes twice"):
        add(bank, ["b", "b"])
    with pytest.raises(BankError, match="'a' comes twice"):
        bank.remove(["a", "a"])
    with pytest.raises(BankError, match="expected 1 experts, one a passage, got 2"):
        bank.add([passage("b")], experts(0, 1))
    assert holds(Bank.open(tmp_path), {"a": 0})
    assert sorted((tmp_path / "shards").iterdir()) == files


@pytest.mark.parametrize(
    ("id", "match"),
    [
        ("half \ud800 a pair", "must be text that UTF-8 can express"),
        (7, "must be a string, got 7"),
        (None, "must be a string, got None"),
    ],
)
def test_what_is_no_id(tmp_path: Path, id: object, match: str):
    bank = make_bank(tmp_path)
    with pytest.raises(BankError, match=match):
        bank.add([Passage(id, "", "")], experts(0))  # type: ignore[arg-type]
    assert id not in bank
    with pytest.raises(BankError, match="got the string 'abc'"):
        bank.get("abc")
    with pytest.raises(BankError, match="got the string 'abc'"):
        bank.remove("abc")
    with pytest.raises(BankError, match="no expert of passage 'b'"):
        bank.get(["b"])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e6, 70_000.0])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_poison_is_refused_at_the_door(tmp_path: Path, value: float, dtype: str):
    bank = make_bank(tmp_path, dtype)
    poisoned = experts(0, 1)
    poisoned["down.lora_B"][1, 2, 1] = value
    with pytest.raises(BankError, match="expert of passage 'b' holds a NaN"):
        bank.add([passage("a"), passage("b")], poisoned)
    assert holds(bank, {})


def test_what_a_stranger_poisoned_is_refused_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    bank = make_bank(tmp_path)
    poisoned = experts(0, 1)
    poisoned["gate.lora_A"][1] = float("nan")
    # The writer makes no checks, but its checksums are right.
    with monkeypatch.context() as patch:
        patch.setattr("dmoe.bank.bank.poisoned", lambda rows: torch.zeros(len(rows)).bool())
        bank.add([passage("a"), passage("b")], poisoned)
    with pytest.raises(BankError, match="passage 'b' is damaged: it holds a NaN"):
        bank.get(["a", "b"])
    assert same(bank.get(["a"]), experts(0))
    assert list(verify(tmp_path).damaged) == ["b"]


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"gate.lora_A": None}, r"got down\.lora_A .*gate\.lora_B \[1, 5, 2\] of torch"),
        ({"up.lora_A": torch.zeros(1, 2, 3)}, r"up\.lora_A \[1, 2, 3\]"),
        ({"gate.lora_A": torch.zeros(1, 3, 2)}, r"gate\.lora_A \[1, 3, 2\]"),
        ({"gate.lora_A": torch.zeros(2, 3)}, r"gate\.lora_A \[2, 3\]"),
        ({"gate.lora_A": torch.zeros(2, 2, 3)}, r"gate\.lora_A \[2, 2, 3\]"),
        ({"gate.lora_A": torch.zeros(1, 2, 3, dtype=torch.int64)}, "int64"),
    ],
)
def test_experts_have_the_layout_of_the_bank(tmp_path: Path, changes: dict, match: str):
    bank = make_bank(tmp_path)
    given = {name: t for name, t in {**experts(0), **changes}.items() if t is not None}
    with pytest.raises(BankError, match=match):
        bank.add([passage("a")], given)


@pytest.mark.parametrize(
    ("shapes", "dtype", "match"),
    [
        (SHAPES, "float64", "dtype must be one of float32, bfloat16, float16, got 'float64'"),
        ({}, "float32", "got no tensors"),
        ({"gate.lora_A": (2, 3)}, "float32", "needs <projection>.lora_A and"),
        ({"lora_A": (2, 3), "lora_B": (3, 2)}, "float32", "needs <projection>.lora_A and"),
        ({**SHAPES, "gate.weight": (2, 3)}, "float32", "needs <projection>.lora_A and"),
        ({**SHAPES, "gate.lora_B": (5, 4)}, "float32", "expected one rank"),
        ({**SHAPES, "gate.lora_B": (0, 2)}, "float32", "expected two positive sizes"),
        ({**SHAPES, "gate.lora_B": (5,)}, "float32", "expected two positive sizes"),
    ],
)
def test_what_is_no_layout(shapes: dict, dtype: str, match: str):
    with pytest.raises(BankError, match=match):
        ExpertLayout(shapes, dtype)


def test_layouts_of_experts():
    layout = ExpertLayout.of(experts(0, 1, 2), "bfloat16")
    assert layout == ExpertLayout(dict(reversed(SHAPES.items())), "bfloat16")
    assert (layout.numel, layout.row_bytes, layout.rank) == (32, 64, 2)
    rows = layout.flatten(experts(0, 1, 2))
    assert rows.is_contiguous()
    assert same(layout.split(rows), experts(0, 1, 2))
    with pytest.raises(BankError, match="expected two positive sizes"):
        ExpertLayout.of({"gate.lora_A": torch.zeros(2, 3), "gate.lora_B": torch.zeros(3, 2)})


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"alpha": 0.0}, "alpha must be positive, got 0.0"),
        ({"alpha": float("nan")}, "alpha must be positive"),
        ({"recipe": {"lr": float("nan")}}, "a recipe must hold plain JSON values"),
        ({"recipe": {"lr": torch.zeros(1)}}, "a recipe must hold plain JSON values"),
    ],
)
def test_what_is_no_spec(changes: dict, match: str):
    with pytest.raises(BankError, match=match):
        make_spec(**changes)


def test_a_spec_is_as_it_will_be_read_again(tmp_path: Path):
    spec = make_spec(alpha=16, recipe={"targets": ("gate", "down"), "name": "Zoë"})
    assert spec.recipe == {"targets": ["gate", "down"], "name": "Zoë"}
    Bank.create(tmp_path, spec)
    assert Bank.open(tmp_path).spec == spec
    assert BankSpec.from_json(spec.to_json()) == spec


def test_a_bank_for_reading_only_is_not_changed(tmp_path: Path):
    add(make_bank(tmp_path), ["a"])
    bank = Bank.open(tmp_path, read_only=True)
    for change in (lambda: add(bank, ["b"]), lambda: bank.remove(["a"]), lambda: compact(bank)):
        with pytest.raises(BankError, match="open for reading only; change a copy"):
            change()
    assert holds(bank, {"a": 0})
