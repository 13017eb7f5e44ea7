"""FLARE retrieves again where a sentence is doubtful, and writes that sentence again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.errors import InstantiationException

from backbone.decoding import Continuation, greedy_continue, greedy_decode, score_answers
from backbone.tokens import encode_prompt, stop_token_ids
from dmoe.baselines.flare import FLAREMethod, FLARERow
from plumbing.cli import one_line
from plumbing.storage.jsonl import read_jsonl
from qa.commands.evaluate import evaluate_command
from qa.data.dataset import QADataset, Question, save_folder
from qa.evaluation.evaluate import evaluate
from qa.method import QuestionInput, RAGMethod
from qa.passages.gold import GoldPassages
from qa.passages.retrieved import OracleNegatives, RetrievedPassages
from qa.passages.source import NoPassages, Selection
from qa.prompts import build_prompt
from retrieval.passage import Passage
from retrieval.pipeline import Pipeline, PipelineSettings
from tests.helpers.fakes import WordRetriever
from tests.helpers.tiny import make_backbone

CONF = str(Path(__file__).parents[3] / "conf")
WORDS = ("lisbon", "violins", "fox", "dog", "surgeon in town", "quick sea")
PASSAGES = {
    f"p{i}": Passage(f"p{i}", "", f"passage {i} about {words}") for i, words in enumerate(WORDS)
}
QUESTIONS = [
    Question("q0", "Where was Tova Blick born? passage", ("Lisbon",), ("p0",)),
    Question("q1", "Who plays violins?", ("the quick brown fox",)),
    Question("q2", "lisbon or the sea", ("a",), ("p0", "p1")),
]


def make_source(kind=RetrievedPassages):
    return kind(Pipeline(PASSAGES, WordRetriever(PASSAGES), None, PipelineSettings(n=4)), 2)


def make_method(backbone, source=None, **settings):
    return FLAREMethod(backbone, source or make_source(), **{"max_new_tokens": 12, **settings})


def inputs_of(method, questions=QUESTIONS):
    selections = method.source.select(questions)
    return [QuestionInput(*pair) for pair in zip(questions, selections, strict=True)]


def test_at_theta_0_it_is_rag(tiny_backbone):
    method = make_method(tiny_backbone, theta=0)
    inputs = inputs_of(method)
    mine, rag = method.answer(inputs), RAGMethod(tiny_backbone, max_new_tokens=12).answer(inputs)
    assert [p.text for p in mine] == [p.text for p in rag]
    assert [p.nll for p in mine] == pytest.approx([p.nll for p in rag], rel=1e-4)
    assert [p.details["triggers"] for p in mine] == [0, 0, 0]
    assert [p.details["retrieved"] for p in mine] == [[], [], []]


def test_at_theta_1_it_always_triggers(tiny_backbone):
    method = make_method(tiny_backbone, theta=1)
    for prediction in method.answer(inputs_of(method)):
        details = json.loads(json.dumps(prediction.details))
        assert details["triggers"] >= 1
        assert len(details["queries"]) == len(details["retrieved"]) == details["triggers"]
        assert 0 < details["tokens"] <= 12


def test_what_is_written_again_reads_the_passages_retrieved(tiny_backbone):
    """If an answer is one sentence, it is RAG's answer with the passages that the query found."""
    source = make_source()
    method = make_method(tiny_backbone, source, theta=1, beta=1)  # the query is the question
    shown = Selection.uniform([PASSAGES["p4"]])
    for question in QUESTIONS:
        (prediction,) = method.answer([QuestionInput(question, shown)])
        (found,) = source.select([question])
        assert prediction.details["queries"][0] == question.question
        assert prediction.details["retrieved"][0] == [passage.id for passage in found.passages]
        prompt = build_prompt(question.question, found.passages)
        decoded = greedy_decode(tiny_backbone, [prompt], 12)
        before = greedy_decode(tiny_backbone, [build_prompt(question.question, shown.passages)], 12)
        assert [prediction.text] == decoded.texts != before.texts
        nll = score_answers(tiny_backbone, decoded, question.answers[:1]).item()
        assert prediction.nll == pytest.approx(nll, rel=1e-4)  # measured after the final prompt


class Scripted(FLAREMethod):
    """FLARE with given drafts, which have a probability for each word; it records the prompts."""

    def __init__(self, backbone, drafts, **settings):
        super().__init__(backbone, make_source(), max_new_tokens=200, **settings)
        self.drafts, self.prompts = list(drafts), []

    def _drafts(self, rows):
        (row,) = rows
        self.prompts.append([passage.id for passage in row.input.selection.passages])
        ids, probabilities = [], []
        for word, probability in self.drafts.pop(0):
            encoded = self.backbone.tokenizer(f" {word}", add_special_tokens=False)["input_ids"]
            ids += encoded
            probabilities += [probability] * len(encoded)
        return [Continuation(ids, probabilities)]


def words(text, unsure=(), low=()):
    return [(word, 0.2 if word in low else 0.5 if word in unsure else 0.9) for word in text.split()]


def test_sentence_by_sentence(tiny_backbone):
    method = Scripted(
        tiny_backbone,
        [
            words("He was sure. The dog may be grey. And so on.", {"may"}, {"grey."}),
            words("The fox jumps. The violins may play. End.", {"fox", "may"}),
            words("All is well. So it ends.", {"All"}),
        ],
    )
    (row,) = method.decode([QuestionInput(QUESTIONS[1], Selection.uniform([PASSAGES["p4"]]))])
    text = method._decoded(row.ids).strip()
    # The first sentence is final. The rewritten one is final, too, though a word of it is unsure.
    # The sentence after it triggers again.
    assert text == "He was sure. The fox jumps. All is well. So it ends."
    assert row.queries == ["The dog may be", "The violins may play."]
    assert row.retrieved == [["p3"], ["p1"]]
    assert method.prompts == [["p4"], ["p3"], ["p1"]]  # only the latest passages are in the prompt


def test_without_a_hit_the_passages_stay(tiny_backbone):
    method = Scripted(tiny_backbone, [words("Nothing.", {"Nothing."})] * 2)
    (row,) = method.decode([QuestionInput(QUESTIONS[1], Selection.uniform([PASSAGES["p4"]]))])
    assert (row.queries, row.retrieved) == (["Nothing."], [[]])
    assert method.prompts == [["p4"], ["p4"]]


def test_a_query_of_nothing_is_the_question(tiny_backbone):
    method = Scripted(tiny_backbone, [words("Nothing.", low={"Nothing."})] * 2)
    (row,) = method.decode([QuestionInput(QUESTIONS[1], Selection())])
    assert row.queries == [QUESTIONS[1].question]
    assert row.retrieved == [["p1"]]
    assert method.prompts == [[], ["p1"]]


def test_what_stands_below_the_line_is_of_no_sentence(tiny_backbone):
    method = Scripted(tiny_backbone, [])
    encode = tiny_backbone.tokenizer
    ids = encode(" One line", add_special_tokens=False)["input_ids"]
    below = encode(" .\n Two", add_special_tokens=False)["input_ids"]
    row = FLARERow(QuestionInput(QUESTIONS[0]))
    draft = Continuation([*ids, encode.eos_token_id], [0.9] * (len(ids) + 1))
    assert method._sentences(row, draft) == [[*range(len(ids))]]
    draft = Continuation(ids + below, [0.9] * len(ids + below))
    (sentence,) = method._sentences(row, draft)
    assert len(sentence) < len(ids + below)
    assert "Two" not in encode.decode([draft.ids[at] for at in sentence])
    assert method._sentences(row, Continuation([encode.eos_token_id], [0.1])) == []


def test_a_batch_is_its_rows(tiny_backbone):
    method = make_method(tiny_backbone, theta=0.6)
    inputs = inputs_of(method)
    together = method.answer(inputs)
    alone = [method.answer([input])[0] for input in inputs]
    turned = method.answer(inputs[::-1])[::-1]
    assert any(p.details["triggers"] for p in together)
    for other in (alone, turned):
        assert [(p.text, p.details) for p in together] == [(p.text, p.details) for p in other]
        assert [p.nll for p in together] == pytest.approx([p.nll for p in other], rel=1e-4)
    assert method.answer([]) == []


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_continuations_have_the_models_probabilities(family, tiny_tokenizer):
    backbone = make_backbone(family, tokenizer=tiny_tokenizer)
    rows = [encode_prompt(tiny_tokenizer, text) for text in ("Question: a", "b c d e Answer:")]
    stop = stop_token_ids(tiny_tokenizer)
    for row, found in zip(rows, greedy_continue(backbone, rows, 9), strict=True):
        ids = list(row)
        for id, probability in zip(found.ids, found.probabilities, strict=True):
            with torch.inference_mode():
                logits = backbone.model(torch.tensor([ids]), use_cache=False).logits[0, -1]
            value, best = logits.softmax(-1).max(-1)
            assert id == best.item()
            assert probability == pytest.approx(value.item(), rel=1e-3)
            ids.append(id)
        assert len(found.ids) == 9 or found.ids[-1] in stop
        assert not set(found.ids[:-1]) & set(stop)


def test_it_never_decodes_more_than_it_may(tiny_backbone):
    method = make_method(tiny_backbone, theta=1, max_new_tokens=5)
    assert all(p.details["tokens"] <= 5 for p in method.answer(inputs_of(method)))


def test_a_prompt_without_room_is_named(tiny_backbone):
    method = make_method(tiny_backbone)
    long = Selection.uniform([Passage("long", "", "violins " * 600)])
    with pytest.raises(
        ValueError,
        match=r"question 'q0' is too long.*exceed the 512 positions .*split the passage 'long'",
    ):
        method.answer([QuestionInput(QUESTIONS[0], long)])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"theta": -0.1}, r"theta must be in 0\.\.1, got -0\.1; set theta"),
        ({"theta": float("nan")}, "theta must be in"),
        ({"beta": 1.5}, r"beta must be in 0\.\.1, got 1\.5; set beta"),
        ({"rag": False}, "method=flare puts passages in the prompt, got rag=false"),
        ({"max_new_tokens": 0}, "max_new_tokens must be positive"),
    ],
)
def test_wrong_settings_are_named(tiny_backbone, settings, message):
    with pytest.raises(ValueError, match=message):
        make_method(tiny_backbone, **settings)


def test_it_needs_a_source_that_retrieves(tiny_backbone):
    data = QADataset("d", PASSAGES, {"dev": QUESTIONS})
    with pytest.raises(ValueError, match=r"\(GoldPassages\); set passages=retrieved"):
        FLAREMethod(tiny_backbone, GoldPassages(data))
    with pytest.raises(ValueError, match=r"\(NoPassages\); set passages=retrieved"):
        FLAREMethod(tiny_backbone).retrieve_from(NoPassages())
    make_method(tiny_backbone, make_source(OracleNegatives))


def test_metrics(tiny_backbone, tmp_path):
    method = make_method(tiny_backbone, theta=0.6)
    metrics = evaluate(method, QUESTIONS, method.source, tmp_path, batch_size=2)
    rows = [row for _, row in read_jsonl(tmp_path / "predictions.jsonl")]
    tokens, triggers = (sum(row[key] for row in rows) for key in ("tokens", "triggers"))
    assert metrics["trigger_rate"] == pytest.approx(100 * triggers / tokens)
    asked = [row["triggers"] > 0 for row in rows]
    assert metrics["triggered_questions"] == pytest.approx(100 * sum(asked) / 3)
    assert metrics["retrievals_per_question"] == pytest.approx(1 + triggers / 3)
    assert method.measure([]) == {}


@pytest.fixture
def compose_small(tiny_backbone, tmp_path, monkeypatch):
    """Return a function that composes an evaluation of the three questions."""
    data = tmp_path / "data"
    save_folder(QADataset("data", PASSAGES, {"dev": QUESTIONS}), data)
    monkeypatch.setattr("backbone.load_backbone", lambda **settings: tiny_backbone)
    monkeypatch.setattr(
        "retrieval.bm25.index.BM25Settings.open", lambda self, corpus: WordRetriever(corpus)
    )
    small = [
        *("method=flare", "data=local", f"data.dir={data}", f"paths.output_dir={tmp_path}"),
        *("retriever=bm25", "retriever.index_dir=x", "max_new_tokens=8", "batch_size=2"),
        *(f"corpus.path={data / 'passages.jsonl.gz'}", f"paths.cache_dir={tmp_path / 'cache'}"),
    ]

    def composed(*overrides):
        with initialize_config_dir(CONF, version_base="1.3"):
            return compose("evaluate", [*small, *overrides])

    return composed


def test_the_command_evaluates_it(compose_small, tmp_path):
    metrics = evaluate_command(compose_small("method.theta=1"))
    assert metrics["n"] == 3
    assert metrics["retrievals_per_question"] > 1
    rows = [row for _, row in read_jsonl(tmp_path / "predictions.jsonl")]
    assert len(rows[0]["passage_ids"]) == 3  # the first retrieval, for the question, with k = 3
    assert all(len(row["queries"]) == row["triggers"] for row in rows)


def test_the_papers_settings_are_the_default(compose_small):
    config = compose_small()
    assert (config.rag, config.passages, config.k) == (True, "retrieved", 3)
    assert (config.method.theta, config.method.beta) == (0.8, 0.4)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("passages=gold", "method=flare retrieves while it decodes"),
        ("retriever=null", "passages=retrieved needs a retrieval index"),
        ("method.theta=2", "theta must be in"),
        ("pipeline.n=2", "k must be in 1 … 2"),
    ],
)
def test_the_command_names_wrong_settings(compose_small, override, message):
    config = compose_small(*([] if override == "retriever=null" else [override]))
    if override == "retriever=null":
        config.retriever = None
    with pytest.raises((ValueError, InstantiationException)) as caught:
        evaluate_command(config)
    assert one_line(caught.value).startswith(message)
