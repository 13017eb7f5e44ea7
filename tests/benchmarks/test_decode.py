"""suite=decode runs, compares what is equal, and says so when it is not."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from omegaconf import OmegaConf

from backbone.final_ffn import FinalFFN
from benchmarks import decode as decode_benchmark
from benchmarks import decode_ways
from benchmarks.decode import decode_suite
from benchmarks.decode_ways import AlternatingRouter, Decoding, check_equal_decoding
from benchmarks.timing import in_turns
from dmoe.decoding import FirstTrigger
from dmoe.decoding.router import RandomRouter, RoutingRequest
from dmoe.decoding.steps import Routing
from dmoe.decoding.trigger import ConstantTrigger
from qa.data.dataset import QADataset, Question
from retrieval.passage import Passage
from retrieval.retriever import Hit
from tests.helpers.dmoe_doubles import MemoryExperts
from tests.helpers.fakes import WordSettings
from tests.helpers.tiny import make_backbone
from tests.helpers.tiny_reader import make_reader

pytestmark = pytest.mark.usefixtures("no_sync")

PASSAGES = {f"p{i}": Passage(f"p{i}", "", f"violins play {i}") for i in range(9)}
QUESTIONS = [Question(f"q{i}", f"Who plays {i} violins?", ("a",), (f"p{i}",)) for i in range(4)]


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Any:
    def build(node: Any, **settings: Any) -> Any:
        if node.name == "tiny":
            return make_backbone()
        return QADataset("data", PASSAGES, {"dev": QUESTIONS})

    monkeypatch.setattr(decode_benchmark, "instantiate", build)
    monkeypatch.setattr(
        decode_benchmark, "BM25Settings", lambda folder, threads: WordSettings(str(folder))
    )
    return OmegaConf.create(
        {
            "backbone": {"name": "tiny"},
            "data": {"name": "data"},
            "paths": {"output_dir": str(tmp_path)},
            "rounds": 2,
            "seed": 0,
            "decode": {
                **{"passages": 8, "dtype": "float32", "k": 3, "tokens": 6},
                **{"threshold": 5.46, "theta": 0.8, "ckpt_path": None},
            },
        }
    )


def test_it_runs(config: Any, tmp_path: Any):
    result, lines = decode_suite(config)
    assert result["difference"] < 1e-3
    assert len(result["milliseconds_per_token"]) == 6
    assert all(len(values) == 2 for values in result["milliseconds_per_token"].values())
    assert result["over_plain"]["backbone alone"]["median"] == 1
    assert isinstance(result["trigger_milliseconds"], float)
    assert 0 <= result["swap_rate"] <= result["trigger_rate"] <= 100
    assert list(result["milliseconds_per_answer"]) == ["backbone alone", "DMoE", "RAG", "FLARE"]
    assert result["triggers_per_answer"]["RAG"] == 0
    assert result["triggers_per_answer"]["FLARE"] >= 1
    page = "\n".join(lines)
    assert "| experts always on | " in page
    assert "| FLARE | " in page
    assert list(tmp_path.iterdir()) == []


def test_generated_experts_are_measured_as_well(config: Any, tmp_path: Any):
    make_reader(make_backbone()).save(tmp_path / "last.ckpt")
    config.decode.ckpt_path = str(tmp_path / "last.ckpt")
    result, lines = decode_suite(config)
    assert result["difference"] < 1e-3
    assert result["over_plain"]["experts always on"]["median"] > 0
    assert "experts that a hypernetwork generates" in "\n".join(lines)


@pytest.mark.parametrize("setting", ["rounds=0", "decode.tokens=1"])
def test_settings_out_of_range_are_named(config: Any, setting: str):
    config.merge_with_dotlist([setting])
    with pytest.raises(ValueError, match=r"expected rounds of 1 or more and decode\.tokens of 2"):
        decode_suite(config)


@pytest.fixture
def decoding(tiny_backbone: Any) -> Decoding:
    source = MemoryExperts(tiny_backbone)
    routing = Routing(source, RandomRouter(source), ConstantTrigger(False), experts=3)
    return Decoding(FinalFFN(tiny_backbone), routing, 8)


def test_experts_that_are_always_on_come_with_the_first_token(decoding: Decoding):
    steps = list(decoding.routed(QUESTIONS[0], FirstTrigger()))
    assert [step.triggered for step in steps] == [True] + [False] * 7
    assert len({step.active for step in steps}) == 1
    assert len(steps[0].active) == 3


def test_recomputing_gives_the_same_and_reads_everything_again(
    decoding: Decoding, monkeypatch: pytest.MonkeyPatch
):
    lengths: list[int] = []
    read = decode_ways.RecomputingSession._read

    def noted(self: Any, ids: Any, *args: Any, **kwargs: Any) -> Any:
        lengths.append(ids.shape[1])
        return read(self, ids, *args, **kwargs)

    assert check_equal_decoding(decoding, QUESTIONS[0]) < 1e-3
    monkeypatch.setattr(decode_ways.RecomputingSession, "_read", noted)
    steps = list(decoding.swapping(QUESTIONS[0], recompute=True))
    prompt = lengths[0]
    assert lengths == [prompt, prompt] + [n for t in range(1, 8) for n in (1, prompt + t)]
    assert all(set(a.active) != set(b.active) for a, b in pairwise(steps))


def test_what_differs_is_not_compared(decoding: Decoding, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(decode_ways.RecomputingSession, "_redecode", lambda self, *args: None)
    with pytest.raises(ValueError, match="cached decoding and full recomputation differ"):
        check_equal_decoding(decoding, QUESTIONS[0])


def test_experts_that_change_nothing_prove_nothing(
    decoding: Decoding, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(AlternatingRouter, "route", lambda self, requests, k: [[]])
    with pytest.raises(ValueError, match=r"agree.* where the experts change it by 0\.0e\+00"):
        check_equal_decoding(decoding, QUESTIONS[0])


def test_other_tokens_than_the_backbones_are_an_error(
    decoding: Decoding, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(Decoding, "plain", lambda self, question: iter([1]))
    with pytest.raises(ValueError, match="other tokens are decoded than by the backbone alone"):
        check_equal_decoding(decoding, QUESTIONS[0])


def test_the_alternating_router_swaps_all_experts():
    class Found:
        uses_passages = False
        temperature = 1.0

        def route(self, requests: Any, k: int) -> list[list[Hit]]:
            return [[Hit(f"p{i}", 0.0) for i in range(k)] for _ in requests]

    router = AlternatingRouter(Found())
    found = [[hit.passage_id for hit in router.route([RoutingRequest("a")], 2)[0]] for _ in "abc"]
    assert found == [["p0", "p1"], ["p2", "p3"], ["p0", "p1"]]


def test_iterators_take_turns():
    noted: list[str] = []

    def counting(name: str) -> Any:
        for number in range(3):
            noted.append(name)
            yield number

    found, seconds = in_turns({"a": counting("a"), "b": counting("b")})
    assert found == {"a": [0, 1, 2], "b": [0, 1, 2]}
    assert [len(values) for values in seconds.values()] == [3, 3]
    assert [set(noted[i : i + 2]) for i in (0, 2, 4)] == [{"a", "b"}] * 3
