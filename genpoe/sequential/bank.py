"""A bank of passages that grows batch by batch, and the index in which they are found."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from backbone.model import Backbone
from genpoe.editors.editor import EditReport
from plumbing.stopwatch import Stopwatch
from plumbing.storage.jsonl import write_jsonl
from qa.passages.source import Selection
from retrieval.bm25 import BM25, BM25Settings
from retrieval.corpus.corpus import Corpus
from retrieval.passage import Passage
from retrieval.rerank.reranker import relevance


class PassageBank:
    """Passages by id: what an edit is for methods that find passages and change no weight.

    It is journaled as editors are. An edit is one entry of a dict, and revoking it takes the entry
    out. What the method makes of a passage, it makes when the passage is found.

    Args:
        backbone: The frozen model.

    Attributes:
        passages: The passages that stand now.
    """

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        self.passages: dict[str, Passage] = {}
        self._before: list[dict[str, Passage]] = []

    @property
    def batches(self) -> int:
        """How many batches of passages stand now."""
        return len(self._before)

    @property
    def state(self) -> Any:
        """All passages that stand now."""
        return tuple(self.passages.values())

    def edit(self, facts: Sequence[Passage]) -> EditReport:
        """Add passages; the one that has an id already is replaced."""
        watch = Stopwatch()
        before = {**self.passages}
        for passage in facts:
            self.passages[passage.id] = passage
        self._before.append(before)
        return EditReport(tuple(passage.id for passage in facts), seconds=watch.seconds)

    def undo(self, batches: int = 0) -> None:
        """Take back all batches but the first ones.

        Raises:
            ValueError: If fewer batches stand.
        """
        if not 0 <= batches <= self.batches:
            raise ValueError(f"batches must be in 0..{self.batches}, got {batches}")
        if batches < self.batches:
            self.passages = self._before[batches]
            del self._before[batches:]

    def redo(self, weights: Mapping[str, Tensor], state: Any) -> None:
        """Take up a batch by all passages that stood after it."""
        self._before.append(self.passages)
        self.passages = {passage.id: passage for passage in state}

    def changed(self, batches: int = 0) -> dict[str, Tensor]:
        """No weight changes."""
        return {}


class GrowingIndex:
    """A BM25 index over distractors and the passages so far; a question's passages are found in it.

    Args:
        folder: A folder of its own, which is made anew.
        distractors: The passages that are there from the beginning.
        k: How many passages a question gets, at most.
        temperature: Scores are divided by it before the softmax that gives the weights.

    Attributes:
        seconds: How long the last change of the index took.
    """

    def __init__(
        self, folder: Path, distractors: Sequence[Passage], k: int, temperature: float
    ) -> None:
        self._k, self._temperature = k, temperature
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self._folder = folder
        self._fixed = {passage.id: passage for passage in distractors}
        self._grown: dict[str, Passage] = {}
        self._index = self._build(distractors) if distractors else None
        self.seconds = 0.0

    def _build(self, passages: Sequence[Passage]) -> BM25:
        write_jsonl(self._folder / "corpus.jsonl", map(asdict, passages))
        corpus = Corpus.open(self._folder / "corpus.jsonl", self._folder / "store")
        settings = BM25Settings(self._folder / "index")
        settings.build(corpus)
        return settings.open(corpus)

    def hold(self, passages: Mapping[str, Passage]) -> None:
        """Let the index hold the distractors and exactly these passages."""
        gone = [id for id, each in self._grown.items() if passages.get(id) != each]
        new = [each for id, each in passages.items() if self._grown.get(id) != each]
        watch = Stopwatch()
        if self._index is None and new:
            self._index = self._build(new)
        elif self._index is not None and (gone or new):
            self._index.update(add=new, remove=gone)
            if gone:  # removed passages would still count among the terms
                self._index.compact()
        self.seconds = watch.seconds
        self._grown = {**passages}

    def select(self, queries: Sequence[str]) -> list[Selection]:
        """The best passages for each query, weighted by the softmax of their scores, rounded."""
        if self._index is None:
            return [Selection()] * len(queries)
        found = []
        for hits in self._index.search(list(queries), self._k):
            passages = [self._grown.get(h.passage_id) or self._fixed[h.passage_id] for h in hits]
            weights = relevance([hit.score for hit in hits], self._temperature)
            found.append(Selection(tuple(passages), _rounded(weights)))
        return found


def _rounded(weights: Sequence[float]) -> tuple[float, ...]:
    """Weights in hundredths, which still sum to 1.

    Every passage that is added moves all scores of BM25 a little. Answers that the scores of no
    other passage could change would be computed anew after each batch.
    """
    coarse = [round(weight, 2) for weight in weights]
    return tuple(weight / sum(coarse) for weight in coarse)
