"""Speed of decoding with experts: ``scripts/benchmark.py suite=decode``.

One question is answered at a time. First, the milliseconds per token are measured, without the
reading of the prompt: for the backbone alone, with k experts at every token, with triggers, and
with a KV cache that is computed anew at each swap of experts. Then whole answers are measured to
their natural stop, for DMoE and for FLARE. The experts are random: they know nothing, but they cost
as much as any others. They are in a bank on disk. The router and FLARE share one BM25 index.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig

from backbone.final_ffn import FinalFFN
from benchmarks.bank import fill_bank
from benchmarks.decode_ways import Decoding, check_equal_decoding
from benchmarks.timing import in_turns, laps, ratio, with_range
from dmoe.baselines.flare import FLAREMethod
from dmoe.decoding import FirstTrigger
from dmoe.decoding.router import RetrievalRouter, RoutingRequest
from dmoe.decoding.steps import Routing, Step
from dmoe.decoding.trigger import ConstantTrigger, Trigger, UncertaintyTrigger
from dmoe.experts.expert import ExpertSpec
from plumbing.progress import progress
from plumbing.storage.jsonl import write_jsonl
from qa.data.dataset import QADataset, Question
from qa.evaluation.evaluate import sample
from qa.method import QuestionInput
from qa.passages.retrieved import RetrievedPassages
from qa.tables.tables import markdown_table
from retrieval.bm25.index import BM25Settings
from retrieval.corpus.corpus import Corpus
from retrieval.passage import Passage
from retrieval.pipeline import Pipeline, PipelineSettings

_PLAIN = "backbone alone"
_EXPERTS = "experts always on"
_TRIGGERS = "triggers"
_RECOMPUTED = "triggers, the cache recomputed at each swap"
_SWAPS = "other experts at every token"
_ALL_RECOMPUTED = "other experts at every token, the cache recomputed"
_DMOE, _RAG, _FLARE = "DMoE", "RAG", "FLARE"
_SEARCHES = 1000  # searches by BM25 before anything is measured

Way = Callable[[Question], tuple[int, int]]
"""Answers a question; returns the number of tokens and the number of triggers."""


def decode_suite(config: DictConfig) -> tuple[dict[str, Any], list[str]]:
    """Measure milliseconds per token and per answer, on the same questions in interleaved rounds.

    Raises:
        ValueError: If cached decoding and full recomputation differ, or if a setting is out of
            range.
    """
    settings, source = config.decode, config.backbone
    if config.rounds < 1 or settings.tokens < 2:
        raise ValueError(
            f"expected rounds of 1 or more and decode.tokens of 2 or more, got {config.rounds} and "
            f"{settings.tokens}; set rounds=… decode.tokens=…"
        )
    dataset: QADataset = instantiate(config.data)
    # Each round has one question, and one more warms up.
    questions = sample(dataset.split("dev"), config.rounds + 1, config.seed)
    passages = pool(dataset, questions, settings.passages)
    exact = FinalFFN(instantiate(source, dtype="float32"))
    output = Path(config.paths.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="decode-", dir=output) as folder:
        pipeline = open_index(Path(folder), passages, settings.k)
        bank = fill_bank(Path(folder, "bank"), exact, ExpertSpec(), passages, settings.dtype)
        router = RetrievalRouter(bank, pipeline.retriever)
        routing = Routing(bank, router, ConstantTrigger(False), settings.k)
        difference = check_equal_decoding(Decoding(exact, routing, settings.tokens), questions[0])
        decoding = Decoding(FinalFFN(instantiate(source)), routing, settings.tokens)
        trigger = UncertaintyTrigger(settings.threshold)
        flare, rag = (
            FLAREMethod(
                decoding.backbone,
                RetrievedPassages(pipeline, settings.k),
                theta,
                max_new_tokens=settings.tokens,
            )
            for theta in (settings.theta, 0)  # FLARE that never triggers is RAG
        )
        ways = ways_to_answer(decoding, trigger, {_RAG: rag, _FLARE: flare})
        result = {
            "dtype": str(decoding.backbone.dtype).removeprefix("torch."),
            "difference": difference,
            "routing_milliseconds": routing_milliseconds(router, questions, settings.k),
            **measure_tokens(decoding, trigger, questions),
            **measure_answers(ways, questions),
        }
    return result, _lines(config, result)


def pool(dataset: QADataset, questions: Sequence[Question], count: int) -> list[Passage]:
    """The gold passages of the questions, filled up with others to the given number."""
    gold = [id for question in questions for id in question.passage_ids]
    return [dataset.passages[id] for id in list(dict.fromkeys([*gold, *dataset.passages]))[:count]]


def open_index(folder: Path, passages: Sequence[Passage], k: int) -> Pipeline:
    """Build a BM25 index over the passages in a folder; the pipeline returns k hits."""
    write_jsonl(folder / "passages.jsonl", map(asdict, passages))
    corpus = Corpus.open(folder / "passages.jsonl", folder)
    settings = BM25Settings(folder / "index", threads=1)
    settings.build(corpus)
    return Pipeline(corpus, settings.open(corpus), None, PipelineSettings(n=k))


def routing_milliseconds(router: RetrievalRouter, questions: Sequence[Question], k: int) -> float:
    """The milliseconds that it takes to find k experts, as a median of the last of many searches.

    The first searches take several times as long, because Java compiles code only once it has run
    often.
    """
    requests = [[RoutingRequest(question.question)] for question in questions]
    _, seconds = laps(router.route(requests[n % len(requests)], k) for n in range(_SEARCHES))
    return 1e3 * statistics.median(seconds[-len(requests) :])


def measure_tokens(
    decoding: Decoding, trigger: Trigger, questions: Sequence[Question]
) -> dict[str, Any]:
    """Measure the milliseconds per token, and how often tokens trigger.

    The first token does not count, because it reads the prompt.

    Args:
        decoding: The ways to decode; they take turns, token by token.
        trigger: The trigger of DMoE.
        questions: One question for each round; the first one warms up.
    """
    times: dict[str, list[float]] = {}
    steps: list[list[Step]] = []
    for question in progress(questions, "Measuring tokens"):
        ways: dict[str, Iterator[Any]] = {
            _PLAIN: decoding.plain(question),
            _EXPERTS: decoding.routed(question, FirstTrigger()),
            _TRIGGERS: decoding.routed(question, trigger),
            _RECOMPUTED: decoding.routed(question, trigger, recompute=True),
            _SWAPS: decoding.swapping(question),
            _ALL_RECOMPUTED: decoding.swapping(question, recompute=True),
        }
        found, seconds = in_turns(ways)
        steps.append(found[_TRIGGERS])
        for name, values in seconds.items():
            times.setdefault(name, []).append(1e3 * statistics.fmean(values[1:]))
    times = {name: values[1:] for name, values in times.items()}
    costs = [swap - on for swap, on in zip(times[_SWAPS], times[_EXPERTS], strict=True)]
    triggered = [step.triggered for row in steps[1:] for step in row[1:]]
    swapped = [swap for row in steps[1:] for swap in _swaps(row)]
    return {
        "milliseconds_per_token": times,
        "over_plain": {name: ratio(values, times[_PLAIN]) for name, values in times.items()},
        "recomputing_over_reusing": ratio(times[_RECOMPUTED], times[_TRIGGERS]),
        "recomputing_over_reusing_at_every_token": ratio(times[_ALL_RECOMPUTED], times[_SWAPS]),
        "trigger_milliseconds": statistics.median(costs),
        "trigger_rate": 100 * statistics.fmean(triggered),
        "swap_rate": 100 * statistics.fmean(swapped),
    }


def ways_to_answer(
    decoding: Decoding, trigger: Trigger, retrieving: Mapping[str, FLAREMethod]
) -> dict[str, Way]:
    """The ways to a whole answer: the backbone alone, DMoE, and methods that retrieve passages."""
    stop_ids = decoding.backbone.stop_token_ids

    def alone(question: Question) -> tuple[int, int]:
        return len(list(decoding.plain(question, stop_ids))), 0

    def dmoe(question: Question) -> tuple[int, int]:
        steps = list(decoding.routed(question, trigger, stop_ids))
        return len(steps), sum(step.triggered for step in steps)

    def retrieved(method: FLAREMethod, question: Question) -> tuple[int, int]:
        (selection,) = method.source.select([question])
        (row,) = method.decode([QuestionInput(question, selection)])
        return len(row.ids), len(row.queries)

    others = {name: partial(retrieved, method) for name, method in retrieving.items()}
    return {_PLAIN: alone, _DMOE: dmoe, **others}


def measure_answers(ways: Mapping[str, Way], questions: Sequence[Question]) -> dict[str, Any]:
    """Measure milliseconds, tokens and triggers of an answer, from the question to the stop.

    Args:
        ways: The ways to an answer; they take turns, question by question.
        questions: One question for each round; the first one warms up.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    counts: dict[str, list[tuple[int, int]]] = {name: [] for name in ways}
    for question in progress(questions, "Measuring answers"):
        for name, way in ways.items():
            found, times = laps(map(way, [question]))
            counts[name] += found
            seconds[name] += times
    tokens, triggers = (
        {name: statistics.fmean(pair[part] for pair in pairs[1:]) for name, pairs in counts.items()}
        for part in (0, 1)
    )
    answers = {name: [1e3 * value for value in values[1:]] for name, values in seconds.items()}
    return {
        "milliseconds_per_answer": answers,
        "tokens_per_answer": tokens,
        "triggers_per_answer": triggers,
        "over_dmoe": {name: ratio(values, answers[_DMOE]) for name, values in answers.items()},
        "milliseconds_per_answer_token": {
            name: statistics.fmean(values) / tokens[name] for name, values in answers.items()
        },
    }


def _swaps(steps: Sequence[Step]) -> list[bool]:
    """For each step behind the first: true if its experts differ from those of the step before."""
    return [set(before.active) != set(step.active) for before, step in pairwise(steps)]


def _lines(config: DictConfig, result: dict[str, Any]) -> list[str]:
    settings = config.decode
    shape = (
        f"{config.backbone.name} in {result['dtype']}, one question at a time; k = "
        f"{settings.k} of {settings.passages} random experts of rank {ExpertSpec().rank}; triggers "
        f"above {settings.threshold} nats; {settings.tokens} tokens a question, the first of which "
        f"(it reads the prompt) does not count; {config.rounds} rounds, interleaved token by token."
    )
    equal = (
        "Equal before measuring: cached decoding and full recomputation give the same tokens, "
        f"whose uncertainty differs by {result['difference']:.0e} nats at most."
    )
    some, every = (
        with_range(result[f"recomputing_over_reusing{at}"], 3) for at in ("", "_at_every_token")
    )
    summary = (
        f"Of the tokens, {result['trigger_rate']:.0f} % trigger and {result['swap_rate']:.0f} % "
        "get other experts. A trigger that brings other experts costs "
        f"{result['trigger_milliseconds']:.2f} ms, of which {result['routing_milliseconds']:.2f} "
        f"are BM25's (after {_SEARCHES} searches). Recomputing the cache takes {some} times as "
        f"long as reusing it; with other experts at every token, {every}."
    )
    contest = (
        f"FLARE: theta = {settings.theta}, {settings.k} passages in the prompt, the first "
        "retrieval included; RAG is FLARE that never triggers. The others read the question alone."
    )
    return [
        "# Decoding with experts: milliseconds a token",
        *("", shape, "", equal, ""),
        *_tokens_table(result).splitlines(),
        *("", summary, "", "# Whole answers, to their natural stop", "", contest, ""),
        *_answers_table(result).splitlines(),
    ]


def _tokens_table(result: dict[str, Any]) -> str:
    rows = [
        [name, f"{statistics.median(values):.2f}", with_range(result["over_plain"][name], 3)]
        for name, values in result["milliseconds_per_token"].items()
    ]
    columns = ["", "ms a token", "times the backbone alone (range)"]
    return markdown_table(rows, columns, compact=True)


def _answers_table(result: dict[str, Any]) -> str:
    tokens = result["milliseconds_per_answer_token"]
    rows = [
        [
            name,
            f"{statistics.median(values):.0f}",
            with_range(result["over_dmoe"][name], 3),
            f"{result['tokens_per_answer'][name]:.1f}",
            f"{result['triggers_per_answer'][name]:.1f}",
            f"{tokens[name]:.1f}",
            f"{tokens[name] / tokens[_DMOE]:.2f}",
        ]
        for name, values in result["milliseconds_per_answer"].items()
    ]
    columns = ["", "ms an answer", "times DMoE's (range)", "tokens", "triggers", "ms a token"]
    return markdown_table(rows, [*columns, "times DMoE's"], compact=True)
