"""Codes in a bank: what is read back acts as what was read, and nothing else gets in."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from backbone.model import Backbone
from dmoe.bank import Bank
from dmoe.commands.bank import bank_command
from genpoe.codes import CodeBank, CodeLayout, CodeSpec
from genpoe.hypernet.reader_experts import ReaderCode
from genpoe.method import GenPoEMethod
from genpoe.model import GenPoE
from qa.bank.bank import PassageBank
from qa.bank.errors import BankError, DamagedError
from qa.bank.hub import save_pretrained
from qa.bank.layout import Rows
from qa.bank.merging import merge
from qa.bank.upkeep import compact, verify
from retrieval.passage import Passage
from tests.helpers.tiny import make_backbone
from tests.helpers.tiny_bank import make_bank
from tests.helpers.tiny_reader import PASSAGES, make_reader

pytestmark = pytest.mark.usefixtures("no_sync")

ONE, TWO, THREE = PASSAGES
IDS = [passage.id for passage in PASSAGES]


@pytest.fixture
def genpoe(tiny_backbone: Backbone) -> GenPoE:
    return make_reader(tiny_backbone)


def codes(genpoe: GenPoE, passages: Sequence[Passage] = PASSAGES) -> ReaderCode:
    return genpoe.code(genpoe.tokens(passages))


def new_bank(genpoe: GenPoE, path: Path, keys: str = "float32") -> CodeBank:
    spec = CodeSpec.of(genpoe.backbone, genpoe.hypernet, genpoe.max_passage_tokens, keys)
    return CodeBank.create(path, spec)


def fill(genpoe: GenPoE, bank: CodeBank, passages: Sequence[Passage] = PASSAGES) -> CodeBank:
    bank.add(passages, codes(genpoe, passages))
    return bank


@pytest.fixture
def bank(genpoe: GenPoE, tmp_path: Path) -> CodeBank:
    return fill(genpoe, new_bank(genpoe, tmp_path / "bank"))


def logits(genpoe: GenPoE, rows: list[list[Passage]]) -> torch.Tensor:
    """The logits of a batch in which each row has its own passages."""
    text = "Question: Where was Tova Blick born?\nAnswer:"
    ids = genpoe.backbone.tokenizer([text] * len(rows), return_tensors="pt")["input_ids"]
    with genpoe.injected(rows), torch.inference_mode():
        return genpoe.backbone.model(ids).logits


def test_a_code_read_back_gives_the_same_logits(genpoe: GenPoE, bank: CodeBank) -> None:
    rows = [[ONE, THREE], [TWO], [], [THREE, TWO, ONE]]
    wanted = logits(genpoe, rows)
    plain = logits(genpoe, [[], [], [], []])
    genpoe.use_codes(CodeBank.open(bank.path, genpoe.backbone, read_only=True))
    read: list[Any] = []
    genpoe.hypernet.encode = lambda *given: read.append(given)  # type: ignore[method-assign]
    assert torch.equal(logits(genpoe, rows), wanted)
    assert not read
    assert torch.equal(wanted[2], plain[2])
    assert not torch.equal(wanted[0], plain[0])


@pytest.mark.parametrize(("keys", "error"), [("float16", 2**-11), ("int8", 0.5 / 127)])
def test_rounded_keys(genpoe: GenPoE, tmp_path: Path, keys: str, error: float) -> None:
    exact = codes(genpoe)
    bank = fill(genpoe, new_bank(genpoe, tmp_path, keys))
    got = bank.get(IDS)
    assert torch.equal(got.ids_PS, exact.ids_PS)
    assert torch.equal(got.mask_PS, exact.mask_PS)
    inside = exact.mask_PS.bool()
    largest = exact.keys_PSU.abs().amax(-1, keepdim=True)
    wrong = (got.keys_PSU - exact.keys_PSU).abs() / largest
    assert 0 < wrong[inside].max() < error * 1.01
    assert not got.keys_PSU[~inside].any()
    wanted = logits(genpoe, [[ONE, TWO, THREE]])
    genpoe.use_codes(bank)
    assert torch.allclose(logits(genpoe, [[ONE, TWO, THREE]]), wanted, atol=0.05)


def test_get_gives_any_codes_in_any_order(genpoe: GenPoE, bank: CodeBank) -> None:
    whole = codes(genpoe)
    got = bank.get(["3", "2", "3"])
    for row, index in enumerate([2, 1, 2]):
        count = int(whole.mask_PS[index].sum())
        assert int(got.mask_PS[row].sum()) == count
        assert torch.equal(got.ids_PS[row, :count], whole.ids_PS[index, :count])
        assert torch.equal(got.keys_PSU[row, :count], whole.keys_PSU[index, :count])
    assert got.keys_PSU.dtype == torch.float32
    assert got.ids_PS.dtype == got.mask_PS.dtype == torch.int64
    assert "2" in bank
    assert "4" not in bank
    assert list(bank) == IDS
    with pytest.raises(BankError, match=r"no code of passage '4' .*scripts/encode_passages\.py"):
        bank.get(["1", "4"])


@pytest.mark.parametrize(
    ("vocab_size", "keys", "token_bytes"),
    [
        (65536, "int8", 2 + 2 + 5),
        (65537, "int8", 4 + 2 + 5),
        (100, "float16", 12),
        (9, "float32", 22),
    ],
)
def test_bytes_of_a_token(vocab_size: int, keys: str, token_bytes: int) -> None:
    layout = CodeLayout(5, vocab_size, keys)
    generator = torch.Generator().manual_seed(0)
    ids = torch.tensor([[vocab_size - 1, 0, 3], [1, 7, 7]])
    code = ReaderCode(
        torch.randn(2, 3, 5, generator=generator), ids, torch.tensor([[1, 1, 1], [1, 0, 0]])
    )
    rows = layout.rows(code)
    assert layout.token_bytes == token_bytes
    assert rows.ends.tolist() == [3 * token_bytes, 4 * token_bytes]
    assert layout.wrong(rows) == {}
    assert torch.equal(layout.code(rows).ids_PS, ids * code.mask_PS)


def test_keys_of_zeros_stay_zeros() -> None:
    layout = CodeLayout(2, 9)
    code = ReaderCode(torch.zeros(1, 2, 2), torch.ones(1, 2).long(), torch.ones(1, 2).long())
    assert not layout.code(layout.rows(code)).keys_PSU.any()


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        (b"\x08\x00" + bytes(6), "it has 8 bytes, and each token takes 10"),
        (b"\x09\x00" + bytes(8), "a token that the backbone does not have"),
        (b"\x08\x00" + np.array([1, np.nan], "<f4").tobytes(), "it holds a NaN"),
    ],
)
def test_rows_that_are_no_codes(row: bytes, problem: str) -> None:
    layout = CodeLayout(2, 9, "float32")
    assert layout.wrong(Rows.of([b"", b"\x08\x00" + bytes(8)])) == {}
    wrong = layout.wrong(Rows.of([b"", row]))
    assert list(wrong) == [1]
    assert problem in wrong[1]


def test_a_code_that_cannot_be_kept_is_not_added(genpoe: GenPoE, tmp_path: Path) -> None:
    bank, code = new_bank(genpoe, tmp_path, "float16"), codes(genpoe)
    keys_PSU = code.keys_PSU.clone()
    keys_PSU[1, 0, 0] = 1e6
    with pytest.raises(BankError, match=r"code of passage '2' cannot be kept as float16: it holds"):
        bank.add(PASSAGES, replace(code, keys_PSU=keys_PSU))
    with pytest.raises(BankError, match="expected 2 codes, one a passage, got 3"):
        fill(genpoe, bank).add([ONE, TWO], codes(genpoe), replace=True)


def test_another_hypernetwork_backbone_or_length_is_refused(
    genpoe: GenPoE, bank: CodeBank, tiny_tokenizer: Any
) -> None:
    other = make_backbone("llama", tokenizer=tiny_tokenizer, rms_norm_eps=1e-3)
    for wrong, said in (
        (make_reader(genpoe.backbone, seed=1), r"the bank does not fit: hypernet_sha256: '"),
        (make_reader(genpoe.backbone, follow=False), "hypernet.follow: False here, True in the"),
        (GenPoE(genpoe.backbone, genpoe.hypernet, 99), "max_passage_tokens: 99 here, 512 in the"),
        (make_reader(other), "expected codes of "),
    ):
        with pytest.raises(BankError, match=said) as caught:
            wrong.use_codes(bank)
        assert "\n" not in str(caught.value)
    make_reader(genpoe.backbone, mixing="experts", dropout=0.3).use_codes(bank)


def test_a_setting_that_is_newer_than_the_bank_has_its_default(
    genpoe: GenPoE, tmp_path: Path
) -> None:
    spec = CodeSpec.of(genpoe.backbone, genpoe.hypernet, genpoe.max_passage_tokens)
    before = {name: value for name, value in spec.hypernet.items() if name != "follow"}
    fill(genpoe, CodeBank.create(tmp_path, replace(spec, hypernet=before)))
    genpoe.use_codes(CodeBank.open(tmp_path))
    with pytest.raises(BankError, match=r"hypernet\.follow: False here, True in the bank"):
        make_reader(genpoe.backbone, follow=False).use_codes(CodeBank.open(tmp_path))


def test_a_setting_that_is_newer_than_this_version_is_an_error_that_names_the_bank(
    genpoe: GenPoE, tmp_path: Path
) -> None:
    spec = CodeSpec.of(genpoe.backbone, genpoe.hypernet, genpoe.max_passage_tokens)
    newer = {**spec.hypernet, "reads_backwards": True}
    fill(genpoe, CodeBank.create(tmp_path, replace(spec, hypernet=newer)))
    said = rf"^{tmp_path}: what the bank says of its codes cannot be used: .*'reads_backwards'"
    with pytest.raises(BankError, match=said):
        genpoe.use_codes(CodeBank.open(tmp_path))


def test_a_changed_text_is_refused(genpoe: GenPoE, bank: CodeBank) -> None:
    genpoe.use_codes(bank)
    with pytest.raises(BankError, match="code of passage '1' was made of another text"):
        genpoe.inject([replace(ONE, text="Tova Blick was born in Rome.")])
    with pytest.raises(BankError, match="no code of passage '7'"):
        genpoe.inject([Passage("7", "", "The sea.")])
    assert [passage.id for passage in bank.missing([ONE, replace(TWO, text="b"), THREE])] == ["2"]


def test_kinds_are_not_mixed_up(genpoe: GenPoE, bank: CodeBank, tmp_path: Path) -> None:
    experts = make_bank(tmp_path / "experts")
    with pytest.raises(BankError, match="expected a bank of experts, got one of codes"):
        Bank.open(bank.path)
    with pytest.raises(BankError, match="expected a bank of codes, got one of experts"):
        CodeBank.open(experts.path)
    for one, other in ((bank, experts.path), (experts, bank.path)):
        with pytest.raises(BankError, match="expected a bank of"):
            merge(one, other)
    manifest = bank.path / "manifest.json"
    content = manifest.read_text().replace('"kind": "codes"', '"kind": "songs"')
    for path in (manifest, bank.path / "manifest.copy.json"):
        path.write_text(content)
    with pytest.raises(BankError, match="expected a bank of experts or codes, got one of 'songs'"):
        PassageBank.open(bank.path)


def test_upkeep_is_that_of_every_bank(genpoe: GenPoE, tmp_path: Path) -> None:
    bank = new_bank(genpoe, tmp_path / "bank", "int8")
    for passage in PASSAGES:
        fill(genpoe, bank, [passage])
    wanted = bank.get(IDS)
    bank.add([TWO], codes(genpoe, [THREE]), replace=True)
    bank.remove(["2"])
    assert list(bank) == ["1", "3"]
    fill(genpoe, bank, [TWO])
    before = bank.get(IDS)
    assert all(torch.equal(getattr(before, n), getattr(wanted, n)) for n in vars(wanted))
    assert compact(bank).shards == (6, 1)
    copy = save_pretrained(bank, tmp_path / "copy")
    other = fill(genpoe, new_bank(genpoe, tmp_path / "other", "int8"), [Passage("9", "", "b c")])
    assert merge(copy, other.path) == 1
    assert verify(copy.path).sound
    after = CodeBank.open(copy.path).get(IDS)
    assert torch.equal(after.keys_PSU, wanted.keys_PSU)
    assert "4 codes" not in (bank.path / "README.md").read_text()
    assert "3 codes of passages" in (bank.path / "README.md").read_text()


def test_the_command_line_looks_after_codes_too(bank: CodeBank, tmp_path: Path) -> None:
    def lines(*words: str) -> list[dict[str, Any]]:
        output = io.StringIO()
        bank_command([words[0], str(bank.path), *words[1:]], output)
        return [json.loads(line) for line in output.getvalue().splitlines()]

    info = lines("info")[0]
    assert (info["codes"], info["kind"], info["keys"]) == (3, "codes", "float32")
    assert [line["id"] for line in lines("list")] == IDS
    assert lines("verify") == [{"codes": 3, "damaged": {}, "files": [], "unnamed": []}]
    assert lines("remove", "--id", "2") == [{"removed": 1, "codes": 2}]
    assert lines("compact")[0]["codes"] == 2
    assert lines("export", str(tmp_path / "copy")) == [{"codes": 2}]
    with pytest.raises(BankError, match="expected a bank of experts, got one of codes"):
        bank_command(["export-peft", str(bank.path), str(tmp_path / "peft"), "--id", "1"])


def test_damage_is_found_and_the_others_are_served(genpoe: GenPoE, bank: CodeBank) -> None:
    wanted = {id: bank.get([id]).keys_PSU for id in IDS}
    path = bank.view.shards[0].paths[0]
    whole, random_ = path.read_bytes(), random.Random(0)
    head = bank.view.shards[0].entry.head_bytes
    flips = [*random_.sample(range(len(whole)), 20), *random_.sample(range(head), 5)]
    for place in flips:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << random_.randrange(8)
        path.write_bytes(damaged)
        report = verify(bank.path)
        assert not report.sound
        assert len(report.damaged) == (place >= head)
        opened = CodeBank.open(bank.path)
        for id in IDS:
            if id in report.damaged:
                with pytest.raises(DamagedError, match=rf"code of passage '{id}' is damaged"):
                    opened.get([id])
            else:
                assert torch.equal(opened.get([id]).keys_PSU, wanted[id])
    path.write_bytes(whole[:-1])
    assert list(verify(bank.path).damaged) == ["3"]


def test_the_method_takes_its_experts_from_codes(
    genpoe: GenPoE, bank: CodeBank, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "reader.ckpt"
    genpoe.save(checkpoint)
    method = GenPoEMethod(genpoe.backbone, str(checkpoint), codes_dir=str(bank.path))
    method.genpoe.hypernet.encode = None  # type: ignore[assignment]
    assert torch.allclose(logits(method.genpoe, [[ONE]]), logits(genpoe, [[ONE]]), atol=1e-5)
