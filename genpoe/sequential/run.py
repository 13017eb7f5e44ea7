"""One method and one stream: edit, ask, and go on where a killed run was.

The run folder holds, for each state, a file with everything that was scored there; beside them the
journal of the edits and every answer. Each is written whole, so a run that was killed goes on.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from torch import Tensor

from genpoe.sequential import health
from genpoe.sequential.answers import Answers
from genpoe.sequential.bank import GrowingIndex
from genpoe.sequential.journal import START, Journal
from genpoe.sequential.learners import Learner
from genpoe.sequential.scoring import Scorer, ScoreSettings
from genpoe.sequential.stream import Stream, write_rows
from plumbing.mounts import SettingValueError
from plumbing.settings import check_positive, check_types
from plumbing.stopwatch import Stopwatch
from plumbing.storage.files import write_json
from plumbing.storage.folders import only_writer
from plumbing.storage.jsonl import write_jsonl
from plumbing.storage.tensors import read_tensors, write_tensors
from qa.method import BaseMethod, QuestionInput

log = logging.getLogger(__name__)

MADE_WITH, STREAM, BASE, STATES = "made_with.json", "stream.jsonl", "base.json", "states"
RESTORED = "restored.json"
_RESTORING = "restoring.json"  # where the journal was when all edits began to be taken back
_FIRST_TOKENS = "first_tokens.safetensors"


@dataclass(frozen=True)
class RunSettings:
    """How a stream is run.

    Attributes:
        scores: How many questions are asked.
        k: How many passages a question is given of those that are found.
        temperature: The retriever's scores are divided by it before the softmax over them.
        batch_size: How many questions are answered at once.
        health: How many passages that are not edited the perplexity is measured on.
    """

    scores: ScoreSettings
    k: int = 3
    temperature: float = 1.0
    batch_size: int = 16
    health: int = 50

    def __post_init__(self) -> None:
        check_types(self)
        check_positive(self, "k", "batch_size", "health", "temperature")


def run_stream(
    stream: Stream,
    learner: Learner,
    folder: Path,
    settings: RunSettings,
    made_with: Mapping[str, Any],
) -> None:
    """Run a stream from where the folder is to its end.

    Args:
        stream: The edits.
        learner: The method, without any edits yet.
        folder: The run folder.
        settings: The settings.
        made_with: What else decides the numbers, as plain values; another run is refused.

    Raises:
        ValueError: If the folder holds another run, or an edit cannot be made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with only_writer(folder / "journal", "journal"):
        _check_same(folder, {**made_with, "stream": stream.fingerprint, **asdict(settings)})
        write_jsonl(folder / STREAM, write_rows(stream))
        _Run(stream, learner, folder, settings).go()


def _check_same(folder: Path, wanted: Mapping[str, Any]) -> None:
    path = folder / MADE_WITH
    plain = json.loads(json.dumps(dict(wanted), default=str))
    if not path.is_file():
        write_json(path, plain)
        return
    there = json.loads(path.read_text(encoding="utf-8"))
    differing = sorted(k for k in {*plain, *there} if plain.get(k) != there.get(k))
    if differing:
        raise SettingValueError(
            "hydra.run.dir",
            f"{folder} holds a run that was made with another {', '.join(differing)}",
            "give another folder as {}, or repeat that run's settings to go on with it",
        )


class _Run:
    def __init__(
        self, stream: Stream, learner: Learner, folder: Path, settings: RunSettings
    ) -> None:
        self.stream, self.learner, self.folder = stream, learner, folder
        self.settings = settings
        self.answers = Answers(folder / "answers.log", settings.batch_size)
        self._index: GrowingIndex | None = None

    def go(self) -> None:
        """Run all states that are not in the folder."""
        base = self._base()
        journal = Journal(self.folder / "journal", self.learner.keeps)
        count = len(self.stream.batches)
        for state in range(count + 1):
            path = self._path(state)
            if path.is_file():
                continue
            seconds = self._reach(journal, state)
            hashed = journal.log()[-1].state if state else journal.start["state"]
            log.info("state %d of %d", state, count)
            write_json(path, {**self._score(state, hashed, base), **seconds})
        self._restore(journal)
        shutil.rmtree(self.folder / "index", ignore_errors=True)

    def _path(self, state: int) -> Path:
        return self.folder / STATES / f"{state}.json"

    def _reach(self, journal: Journal, state: int) -> dict[str, Any]:
        """Bring the learner to a state, and say what the edits of it took."""
        done = journal.log()
        if len(done) > state:
            journal.rollback(done[state - 1].id if state else START)
        elif len(done) < state:
            items, not_applicable = self.learner.items(self.stream.batches[state - 1])
            if not items:
                log.warning("no edit of batch %d can be made by this method", state)
            journal.commit(items)
            log.info(
                "batch %d: %d edits%s",
                *(state, len(items)),
                f", {not_applicable} not applicable" if not_applicable else "",
            )
        report = journal.log()[-1].report if state else {}
        nlls = [known_mean(report.get(name)) for name in ("nll_before", "nll_after")]
        if None not in nlls:
            log.info(
                "their nll went from %.2f to %.2f nats a token; the weights moved by %.4f of their "
                "norm; the value of %d hardly got better",
                *(*nlls, max(report["moved"].values(), default=0.0), len(report["stuck"])),
            )
        edits = self.stream.batches[state - 1] if state else ()
        return {
            "edit": report,
            "not_applicable": self.learner.items(edits)[1],
            "left_out": sum(edit.left_out for edit in edits),
        }

    def _base(self) -> Mapping[str, Tensor]:
        """What the untouched backbone says to the questions of locality, and begins with."""
        plain = BaseMethod(self.learner.method.backbone, False, self.learner.method.max_new_tokens)
        inputs = [QuestionInput(question) for question in self.stream.locality]
        path = self.folder / _FIRST_TOKENS
        if (self.folder / BASE).is_file():
            return read_tensors(path)
        found = self.answers.ask(plain, inputs, "untouched")
        first = health.first_tokens(plain, inputs)
        tensors = {} if first is None or not inputs else {"log_probabilities": first}
        write_tensors(path, tensors)
        write_json(
            self.folder / BASE,
            {
                input.question.id: answer["prediction"]
                for input, answer in zip(inputs, found, strict=True)
            },
        )
        return tensors

    def _score(self, state: int, hashed: str, base: Mapping[str, Tensor]) -> dict[str, Any]:
        scorer = Scorer(
            self.stream, self.learner, self.answers, self.settings.scores, self._at(state)
        )
        rows = scorer.score(state, hashed)
        measured: dict[str, Any] = {"moved": health.moved(self.learner.keeps)}
        inputs = scorer.locality_inputs()
        method = self.learner.method
        now = health.first_tokens(method, inputs) if inputs and base else None
        if now is not None:
            measured["kl"] = health.divergence(base["log_probabilities"], now)
        measured["perplexity"] = self._perplexity(state)
        index = self._index
        measured["index_seconds"] = index.seconds if index is not None else None
        return {"state": state, "state_hash": hashed, "rows": rows, "health": measured}

    def _perplexity(self, state: int) -> float | None:
        """The perplexity; that of frozen weights is the one of state 0."""
        if state and not self.learner.keeps.changed(0):
            before = json.loads(self._path(0).read_text(encoding="utf-8"))
            found: float | None = before["health"]["perplexity"]
            return found
        some = self.stream.distractors[: self.settings.health]
        return health.perplexity(self.learner.method.backbone, some) if some else None

    def _at(self, state: int) -> GrowingIndex | None:
        """The index, with the passages of the batches so far."""
        if not (self.settings.scores.rag or self.learner.method.rag or self.learner.finds_passages):
            return None
        if self._index is None:
            settings = self.settings
            self._index = GrowingIndex(
                self.folder / "index", self.stream.distractors, settings.k, settings.temperature
            )
        edits = [edit for batch in self.stream.batches[:state] for edit in batch]
        self._index.hold({edit.passage.id: edit.passage for edit in edits})
        return self._index

    def _restore(self, journal: Journal) -> None:
        """Take all edits back, look at the weights, and bring the edits back."""
        path = self.folder / RESTORED
        if path.is_file():
            return
        begun = self.folder / _RESTORING
        if begun.is_file():  # a kill came between the two rollbacks
            journal.rollback(json.loads(begun.read_text(encoding="utf-8"))["head"])
        head, final = journal.head, journal.log()[-1].weights if journal.log() else None
        write_json(begun, {"head": head})
        watch = Stopwatch()
        journal.rollback(START)
        restored = journal.hashes()
        seconds = watch.seconds
        journal.rollback(head)
        write_json(
            path,
            {
                "state_hash/before": journal.start["weights"],
                "state_hash/final": final,
                "state_hash/restored": restored["weights"],
                "restored": restored == journal.start,
                "restore_seconds": seconds,
            },
        )
        begun.unlink()


def known_mean(values: Sequence[float | None] | None) -> float | None:
    """The mean of those values that are known; a file has none in the place of infinity."""
    known = [value for value in values or () if value is not None]
    return fmean(known) if known else None


def read_states(folder: Path) -> list[dict[str, Any]]:
    """What was scored at each state of a run, in their order."""
    paths = sorted((folder / STATES).glob("*.json"), key=lambda path: int(path.stem))
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths]


def all_rows(states: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows of all states."""
    return [row for state in states for row in state["rows"]]
