"""A corpus becomes a bank of codes: once, however often the command is interrupted."""

from __future__ import annotations

import json
import os
import random
import signal
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir

from backbone.loading import load_backbone
from genpoe.codes import CodeBank
from genpoe.codes import encoding as encoding_file
from genpoe.codes.encoding import CodeEncoder, CodesJob
from genpoe.commands.encode_passages import encode_passages
from genpoe.model import GenPoE
from plumbing.cli import run
from plumbing.storage.jsonl import write_jsonl
from qa.bank.upkeep import verify
from retrieval.passage import Passage
from tests.helpers.tiny_reader import make_reader

ROOT = Path(__file__).parents[3]
WORDS = "Tova Blick Olen Marsk was born in the old town by sea a quick brown fox".split()

pytestmark = pytest.mark.usefixtures("no_sync")


def passages(count: int, seed: int = 0) -> list[Passage]:
    chance = random.Random(seed)
    return [
        Passage(f"p{i}", chance.choice(WORDS), " ".join(chance.choices(WORDS, k=2 + i % 9)) + ".")
        for i in range(count)
    ]


def write(path: Path, corpus: list[Passage]) -> None:
    write_jsonl(path, ({"id": p.id, "title": p.title, "text": p.text} for p in corpus))


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Passage]:
    """Forty passages, which are read four at a time."""
    monkeypatch.setattr(encoding_file, "_FEWEST", 4)
    made = passages(40)
    write(tmp_path / "corpus.jsonl", made)
    return made


@pytest.fixture
def genpoe(model: Path) -> GenPoE:
    return make_reader(load_backbone(str(model), "float32"))


@pytest.fixture
def encode(genpoe: GenPoE, model: Path, tmp_path: Path) -> Callable[..., dict[str, float]]:
    genpoe.save(tmp_path / "reader.ckpt")

    def call(*overrides: str) -> dict[str, float]:
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            config = compose(
                "encode_passages",
                [
                    *(f"backbone.name={model}", "backbone.dtype=float32", "backbone.device=cpu"),
                    *(f"ckpt_path={tmp_path / 'reader.ckpt'}", f"bank.dir={tmp_path / 'bank'}"),
                    *(f"corpus.path={tmp_path / 'corpus.jsonl'}", "batch_tokens=40"),
                    *(f"paths.output_dir={tmp_path}", f"paths.cache_dir={tmp_path / 'cache'}"),
                    *overrides,
                ],
            )
        return run(encode_passages, config)

    return call


def check_codes(genpoe: GenPoE, path: Path, corpus: list[Passage]) -> None:
    """The bank holds the keys and words that the hypernetwork reads, each passage by itself."""
    bank = CodeBank.open(path)
    assert sorted(bank) == sorted(passage.id for passage in corpus)
    bank.check_passages(corpus)
    for passage in corpus:
        wanted, got = genpoe.code(genpoe.tokens([passage])), bank.get([passage.id])
        assert torch.equal(got.ids_PS, wanted.ids_PS)
        assert torch.allclose(got.keys_PSU, wanted.keys_PSU, atol=1e-5)


def test_a_corpus_is_read_once(
    encode: Any, genpoe: GenPoE, corpus: list[Passage], tmp_path: Path
) -> None:
    metrics = encode("bank.keys=float32")
    check_codes(genpoe, tmp_path / "bank", corpus)
    tokens = int(genpoe.tokens(corpus).attention_mask_PS.sum())
    assert metrics == json.loads((tmp_path / "metrics.json").read_text())
    assert (metrics["passages"], metrics["skipped"], metrics["tokens"]) == (40, 0, tokens)
    assert metrics["bytes"] == tokens * (2 + 4 * 8) == 40 * metrics["bytes_per_passage"]
    assert metrics["bank_bytes"] > metrics["bytes"]

    corpus[7] = Passage("p7", "Tova Blick", "The sea.")
    corpus.append(Passage("p40", "", "A fox."))
    write(tmp_path / "corpus.jsonl", corpus)
    before = CodeBank.open(tmp_path / "bank")
    metrics = encode("bank.keys=float32")
    assert (metrics["passages"], metrics["skipped"]) == (2, 39)
    check_codes(genpoe, tmp_path / "bank", corpus)
    others = [passage.id for passage in corpus if passage.id not in ("p7", "p40")]
    after = CodeBank.open(tmp_path / "bank")
    assert torch.equal(after.get(others).keys_PSU, before.get(others).keys_PSU)
    assert encode("bank.keys=float32")["passages"] == 0


def test_nothing_above_the_layer_that_is_read_is_computed(
    encode: Any, corpus: list[Passage], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = CodeEncoder.__init__
    ran: list[int] = []

    def watched(self: CodeEncoder, genpoe: GenPoE, *given: Any) -> None:
        loaded(self, genpoe, *given)
        for index, layer in enumerate(genpoe.backbone.layers):
            layer.register_forward_hook(lambda *_, index=index: ran.append(index))

    monkeypatch.setattr(CodeEncoder, "__init__", watched)
    encode("limit=3")
    assert set(ran) == {0}


def test_one_device_of_lightning(
    encode: Any, genpoe: GenPoE, corpus: list[Passage], tmp_path: Path
):
    encode("engine=lightning", "limit=6", "bank.keys=float32")
    check_codes(genpoe, tmp_path / "bank", corpus[:6])


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["lightning", "ray"])
@pytest.mark.filterwarnings("ignore:The 'predict_dataloader' does not have many workers")
@pytest.mark.filterwarnings("ignore:.*:FutureWarning:ray")
@pytest.mark.filterwarnings("ignore:.*:ResourceWarning")
@pytest.mark.filterwarnings("ignore:.*:pytest.PytestUnraisableExceptionWarning")
def test_two_processes(
    engine: str, encode: Any, genpoe: GenPoE, corpus: list[Passage], tmp_path: Path
) -> None:
    pytest.importorskip("ray")
    metrics = encode(f"engine={engine}", "workers=2", "bank.keys=float32")
    assert metrics["passages"] == 40
    assert verify(tmp_path / "bank").sound
    check_codes(genpoe, tmp_path / "bank", corpus)


def in_child(encode: Any, wait: float) -> bool:
    """Encode in a process that is killed after some seconds; True if it came to its end."""
    child = os.fork()
    if not child:
        try:
            torch.set_num_threads(1)  # a pool of threads does not survive a fork
            encode("bank.keys=float32")
            os._exit(0)
        finally:  # reached only after an error
            traceback.print_exc()
            os._exit(1)
    time.sleep(wait)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert status == 0 or os.WIFSIGNALED(status), "it failed without being killed"
    return status == 0


def test_a_killed_encoding_goes_on(
    encode: Any, genpoe: GenPoE, corpus: list[Passage], tmp_path: Path, monkeypatch: Any
) -> None:
    stored: list[str] = []
    store = CodesJob.store

    def noted(self: CodesJob, number: int, result: Any) -> None:
        store(self, number, result)
        stored.extend(passage.id for passage in self.piece(number))

    def slow(self: CodesJob, number: int, result: Any) -> None:
        time.sleep(0.05)  # so that a kill hits the middle of the ten pieces
        store(self, number, result)

    monkeypatch.setattr(CodesJob, "store", slow)
    start = time.perf_counter()
    encode("bank.keys=float32", f"bank.dir={tmp_path / 'whole'}")
    seconds = time.perf_counter() - start
    before = 0
    for share in (0.6, 0.8):
        in_child(encode, share * seconds)
        there = set(CodeBank.open(tmp_path / "bank"))
        assert before <= len(there)
        before = len(there)
    monkeypatch.setattr(CodesJob, "store", noted)
    metrics = encode("bank.keys=float32")
    assert metrics["passages"] == len(stored) == 40 - before
    assert not there & set(stored)
    assert verify(tmp_path / "bank").sound
    check_codes(genpoe, tmp_path / "bank", corpus)


def test_what_cannot_be_encoded(
    encode: Any,
    genpoe: GenPoE,
    corpus: list[Passage],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    encode("limit=2")
    make_reader(genpoe.backbone, seed=1).save(tmp_path / "other.ckpt")
    (tmp_path / "file").write_text("")
    for override, said in (
        (f"ckpt_path={tmp_path / 'other.ckpt'}", "the bank does not fit: hypernet_sha256: "),
        ("bank.keys=float16", "the bank does not fit: keys: 'float16' here, 'int8' in the bank"),
        ("bank.keys=int4", "keys must be one of int8, float16, float32, got 'int4'; set bank.keys"),
        ("limit=0", "limit must be"),
        ("batch_tokens=0", "batch_tokens must be positive, got 0; set batch_tokens"),
        ("workers=2", "the plain engine is one process, got workers=2; set engine=lightning or"),
        (f"bank.dir={tmp_path / 'file'}", "dir must be a folder"),
        (f"ckpt_path={tmp_path / 'none.ckpt'}", "none.ckpt"),
    ):
        with pytest.raises(SystemExit) as caught:
            encode(override)
        error = capsys.readouterr().err
        assert caught.value.code == 2
        assert said in error
        assert error.count("\n") == 1


def test_another_hypernetwork_has_no_codes(
    encode: Any, genpoe: GenPoE, tmp_path: Path, corpus: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    from genpoe.hypernet.mean import MeanSettings

    hypernet = MeanSettings(layer=1, rank=2, hidden_width=8).build(genpoe.backbone)
    GenPoE(genpoe.backbone, hypernet).save(tmp_path / "mean.ckpt")
    with pytest.raises(SystemExit):
        encode(f"ckpt_path={tmp_path / 'mean.ckpt'}")
    said = "codes are kept for the hypernetwork that reads (hypernet=reader), got a checkpoint of "
    assert (
        f"{said}MeanHypernet; set ckpt_path to a checkpoint of a reader" in capsys.readouterr().err
    )
