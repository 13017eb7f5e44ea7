"""Generated experts by the command line: ``method=dmoe experts=generated``, and their controls."""

from __future__ import annotations

import itertools
from dataclasses import asdict
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import OmegaConf

from dmoe.commands.ablation import ablate
from dmoe.method import load_dmoe
from genpoe.hypernet.mean import MeanSettings
from genpoe.model import BackboneMismatchError, GenPoE
from genpoe.routed import GeneratedKind
from plumbing.mounts import SettingValueError, locate
from plumbing.storage.jsonl import read_jsonl, write_jsonl
from qa.commands.evaluate import evaluate_command
from qa.data.dataset import Question
from tests.helpers.fakes import WordRetriever
from tests.helpers.tiny import make_backbone
from tests.helpers.tiny_reader import PASSAGES, make_reader

CONF = str(Path(__file__).parents[3] / "conf")
QUESTIONS = [
    Question("q0", "Where was Tova Blick born?", ("Lisbon",), ("1",)),
    Question("q1", "What did Olen Marsk write?", ("a quick brown fox",), ("3",)),
]


def composed(*overrides, root="evaluate"):
    with initialize_config_dir(CONF, version_base="1.3"):
        return compose(root, list(overrides))


@pytest.fixture
def corpus_path(tmp_path):
    write_jsonl(tmp_path / "data" / "passages.jsonl", map(asdict, PASSAGES))
    for split in ("train", "dev"):
        write_jsonl(tmp_path / "data" / f"{split}.jsonl", map(asdict, QUESTIONS))
    return tmp_path / "data" / "passages.jsonl"


@pytest.fixture
def checkpoint(tmp_path, tiny_backbone):
    make_reader(tiny_backbone).save(tmp_path / "last.ckpt")
    return tmp_path / "last.ckpt"


@pytest.fixture
def evaluated(tmp_path, corpus_path, checkpoint, tiny_backbone, monkeypatch):
    """Evaluates the tiny reader's experts on two questions."""
    monkeypatch.setattr("backbone.load_backbone", lambda **settings: tiny_backbone)
    monkeypatch.setattr(
        "retrieval.bm25.index.BM25Settings.open", lambda self, corpus: WordRetriever(corpus)
    )

    def run(*overrides, router="bm25"):
        at_router = [f"router.corpus.path={corpus_path}", "router.retriever.index_dir=x"]
        corpus = at_router if router == "bm25" else [f"corpus.path={corpus_path}"]
        config = composed(
            *("method=dmoe", "experts=generated", f"ckpt_path={checkpoint}", "data=local"),
            *(f"data.dir={tmp_path / 'data'}", f"router={router}", *corpus, "max_new_tokens=3"),
            *(f"paths.output_dir={tmp_path}", f"paths.cache_dir={tmp_path / 'cache'}", *overrides),
        )
        metrics = evaluate_command(config)
        return metrics, [row for _, row in read_jsonl(tmp_path / "predictions.jsonl")]

    return run


def test_the_routers_passages_are_read_when_they_are_needed(evaluated):
    metrics, rows = evaluated("k=1", "trigger=always")
    assert [row["passage_ids"] for row in rows] == [["1"], ["3"]]
    assert metrics["routed_gold"] == 100
    assert metrics["passages_read"] == 2
    assert metrics["seconds_per_passage"] > 0
    more, _ = evaluated("k=3", "trigger=always")
    assert more["nll"] != pytest.approx(metrics["nll"], abs=1e-4)
    equal, rows = evaluated("k=3", "trigger=always", "method.weights=sum")
    assert equal["nll"] != pytest.approx(more["nll"], abs=1e-4)
    assert set(rows[0]["weights"]) == {1.0}


@pytest.mark.parametrize("router", ["random", "fixed", "oracle"])
def test_routers_without_a_corpus_take_corpus_path(evaluated, router):
    _, rows = evaluated("k=1", "trigger=first", router=router)
    for row, question in zip(rows, QUESTIONS, strict=True):
        assert (row["passage_ids"] == list(question.passage_ids)) == (router == "oracle")


def test_without_a_corpus_they_are_those_of_the_data_set(evaluated, caplog):
    _, rows = evaluated("k=1", "trigger=first", "corpus.path=null", router="oracle")
    assert [row["passage_ids"] for row in rows] == [["1"], ["3"]]
    evaluated("k=1", "corpus.path=null", "data.passages_path=null", router="random")


def test_codes_of_a_bank_give_what_reading_gives(evaluated, tmp_path, tiny_backbone, checkpoint):
    from genpoe.codes import CodeBank, CodeSpec

    genpoe = GenPoE.from_checkpoint(checkpoint, tiny_backbone)
    spec = CodeSpec.of(tiny_backbone, genpoe.hypernet, genpoe.max_passage_tokens, "float32")
    bank = CodeBank.create(tmp_path / "codes", spec)
    bank.add(list(PASSAGES), genpoe.code(genpoe.tokens(PASSAGES)))
    read, rows = evaluated("k=2", "trigger=always")
    kept, same = evaluated("k=2", "trigger=always", f"bank.dir={bank.path}")
    assert "passages_read" not in kept
    assert [row["prediction"] for row in rows] == [row["prediction"] for row in same]
    assert kept["nll"] == pytest.approx(read["nll"], abs=1e-5)
    bank.remove(["1", "2", "3"])
    with pytest.raises(InstantiationException, match="empty"):
        evaluated(f"bank.dir={bank.path}")


def test_its_controls_change_what_acts(evaluated):
    runs = [
        evaluated("k=1", *overrides)[0]["nll"]
        for overrides in (
            ("trigger=first",),
            ("trigger=first", "method.control=noise"),
            ("trigger=first", "method.control=noise", "seed=1"),
            ("trigger=never",),
        )
    ]
    for one, two in itertools.combinations(runs, 2):
        assert one != pytest.approx(two, abs=1e-4)
    metrics, _ = evaluated("k=1", "trigger=never")
    assert metrics["passages_read"] == metrics["seconds_per_passage"] == 0


def test_a_part_of_the_passages_can_be_left_out(evaluated):
    def routed(*overrides):
        _, rows = evaluated("k=3", "trigger=first", *overrides)
        return {id for row in rows for id in row["passage_ids"]}

    assert len(routed("method.fraction=0.34")) <= 1 < len(routed())


def test_gold_passages_that_are_not_in_the_corpus_are_said(evaluated, tmp_path, caplog):
    write_jsonl(tmp_path / "other.jsonl", map(asdict, PASSAGES[1:2]))
    evaluated("k=1", f"router.corpus.path={tmp_path / 'other.jsonl'}")
    assert "none of 2 gold passages (0 %) have their id in" in caplog.text
    assert "give the corpus (or the bank of the corpus)" in caplog.text


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["ckpt_path=null"], "needs a trained hypernetwork, got ckpt_path=None; set ckpt_path to"),
        (["method.weights=mean"], "weights must be one of sum, router, got 'mean'; set method.wei"),
        (["experts.keep=0"], r"keep must be at least 1, got 0; set experts\.keep"),
    ],
)
def test_what_it_cannot_do_is_an_error(overrides, message, tmp_path, corpus_path, checkpoint):
    """The messages name the keys of the command line."""
    backbone = make_backbone()
    config = composed(
        *("method=dmoe", "experts=generated", f"ckpt_path={checkpoint}", "router=oracle"),
        *(f"corpus.path={corpus_path}", f"paths.output_dir={tmp_path}", *overrides),
    )
    written = OmegaConf.to_container(config, resolve=False)
    with pytest.raises(InstantiationException) as caught:
        instantiate(config.method, backbone=backbone)
    locate(caught.value, written)
    with pytest.raises(SettingValueError, match=message):
        raise caught.value.__cause__ or caught.value


def test_experts_below_the_last_layer_cannot_come_and_go(tmp_path):
    backbone = make_backbone()
    GenPoE(backbone, MeanSettings(layer=0, rank=4, hidden_width=16).build(backbone)).save(
        tmp_path / "low.ckpt"
    )
    with pytest.raises(SettingValueError, match=r"only beside the last layer's FFN \(1\), got a h"):
        GeneratedKind.open(backbone, str(tmp_path / "low.ckpt"), passages=dict)
    with pytest.raises(SettingValueError, match="passages or a bank of their codes, got neither"):
        GeneratedKind.open(backbone, str(tmp_path / "low.ckpt"))
    with pytest.raises(BackboneMismatchError):
        GeneratedKind.open(make_backbone(seed=1), str(tmp_path / "low.ckpt"), passages=dict)


def test_an_ablation_is_of_trained_experts():
    config = composed("ablation=k", "augmenter=questions", "experts=generated", root="ablation")
    with pytest.raises(ValueError, match=r"experts=generated; evaluate .* scripts/evaluate\.py"):
        ablate(config, ())


def test_trained_experts_are_the_default(tiny_backbone, tmp_path):
    config = composed("method=dmoe", "bank.dir=bank", "router=oracle")
    assert config.experts is None
    assert config.method.bank_dir == "bank"
    with pytest.raises(ValueError, match="expected a bank, found no"):
        load_dmoe(tiny_backbone, tmp_path, router=None, trigger=None)
