"""Questions, the passages that answer them, and the folder on disk that holds both.

Every message about a malformed line names its file and its line number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from plumbing.storage.jsonl import (
    DataError,
    check_new_id,
    describe,
    find_jsonl,
    read_jsonl,
    require_key,
    text_field,
    write_jsonl,
)
from qa.prompts import build_prompt, build_start
from retrieval.corpus.formats import read_passages
from retrieval.passage import Passage

SPLITS = (
    *("train", "train_reworded", "dev", "dev_rephrased", "test", "test_rephrased", "test_reworded"),
    *("test_unseen", "test_unseen_rephrased", "test_pronouns", "known"),
)


@dataclass(frozen=True, slots=True)
class Question:
    """A question and what is known about its answer.

    Attributes:
        id: The question's id, unique in its split.
        question: The question as the model reads it.
        answers: Acceptable answers, at least one; the first one is trained on.
        passage_ids: The ids of the gold passages; there may be none.
    """

    id: str
    question: str
    answers: tuple[str, ...]
    passage_ids: tuple[str, ...] = ()

    def prompt(self, passages: Sequence[Passage] = ()) -> str:
        """What a model reads; with RAG, its passages stand before it, the best one first."""
        return build_prompt(self.question, passages)


class SentenceStart(Question):
    """The start of a sentence, in the place of a question; the answer completes it."""

    __slots__ = ()

    def prompt(self, passages: Sequence[Passage] = ()) -> str:
        """What a model reads: the start stands last, behind a line that says what to do."""
        return build_start(self.question, passages)


@dataclass(frozen=True)
class QADataset:
    """A named data set: its passages by id, and its questions by split.

    Attributes:
        name: The data set's name in tables and run folders.
        passages: Every passage, by id.
        splits: The questions of each split.
    """

    name: str
    passages: Mapping[str, Passage]
    splits: dict[str, list[Question]]

    def split(self, name: str) -> list[Question]:
        """The questions of a split.

        Raises:
            DataError: If there is no such split; the message names those that exist.
        """
        if name not in self.splits:
            there = ", ".join(self.splits) or "none"
            raise DataError(
                f"data set {self.name!r} has no split {name!r}; it has: {there}. Choose one of "
                f"these, or add the file {name}.jsonl"
            )
        return self.splits[name]

    def gold(self, question: Question) -> list[Passage]:
        """The gold passages of a question, in the order of its ``passage_ids``.

        Raises:
            DataError: If the question names a passage that the data set lacks.
        """
        missing = [id for id in question.passage_ids if id not in self.passages]
        if missing:
            raise DataError(
                f"data set {self.name!r}: question {question.id!r} names the passage "
                f"{missing[0]!r}, which is not among its {len(self.passages)} passages; add it, or "
                f"take it out of passage_ids"
            )
        return [self.passages[id] for id in question.passage_ids]


def load_folder(
    dir: str | Path, name: str = "local", passages_path: str | Path | None = None
) -> QADataset:
    """Load a data set in the project's format, plain or gzipped JSON lines.

    Args:
        dir: A folder with ``passages.jsonl`` and the file of at least one of the `SPLITS`, such as
            ``dev.jsonl``; each may end in ``.gz``.
        name: The name of the data set in tables.
        passages_path: A file of passages that is read instead of the folder's own.

    Returns:
        The data set, checked as a whole. Without a file of passages it holds none, which is allowed
        only if no question names one.

    Raises:
        DataError: If something is missing, malformed or inconsistent, as in `read_questions` and
            `retrieval.corpus.formats.read_passages`.
    """
    folder = Path(dir)
    paths = {split: find_jsonl(folder, split) for split in SPLITS if _has(folder, split)}
    if not paths:
        if not folder.is_dir():
            find_jsonl(folder, "passages")  # raises: the folder is missing
        files = ", ".join(f"{split}.jsonl[.gz]" for split in SPLITS)
        raise DataError(f"{folder}: expected at least one of {files}, found none; add one")
    source = Path(passages_path) if passages_path is not None else None
    if source is None and _has(folder, "passages"):
        source = find_jsonl(folder, "passages")
    passages = {} if source is None else {passage.id: passage for passage in read_passages(source)}
    splits = {
        split: read_questions(path, passages, passages_source=source)
        for split, path in paths.items()
    }
    return QADataset(name, passages, splits)


def save_folder(dataset: QADataset, dir: str | Path) -> None:
    """Write a data set as a folder from which `load_folder` reads the same data set.

    Args:
        dataset: The data set.
        dir: The folder; it is made if it does not exist. Files of the same names are replaced.

    Raises:
        DataError: If a split has a name that ``load_folder`` would not look for.
    """
    unknown = [split for split in dataset.splits if split not in SPLITS]
    if unknown:
        raise DataError(
            f"a folder can hold the splits {', '.join(SPLITS)}, got {unknown[0]!r}; rename it"
        )
    folder = Path(dir)
    write_jsonl(folder / "passages.jsonl.gz", map(asdict, dataset.passages.values()))
    for split, questions in dataset.splits.items():
        write_jsonl(folder / f"{split}.jsonl.gz", map(asdict, questions))


def read_questions(
    path: str | Path,
    passages: Mapping[str, Passage],
    passages_source: str | Path | None = None,
) -> list[Question]:
    """Read one split.

    Args:
        path: A JSON-lines file of ``{"id": str, "question": str, "answers": [str, ...],
            "passage_ids": [str, ...]}``; further keys are ignored.
        passages: The passages that ``passage_ids`` may name.
        passages_source: The file of these passages, for messages; ``None`` if there was none.

    Returns:
        The questions, in the order of the file.

    Raises:
        DataError: If a key is missing or has another type, if an id, question or answer is blank,
            if there is no answer, if an id repeats, or if a passage is unknown or named twice.
    """
    questions: list[Question] = []
    lines: dict[str, int] = {}
    for number, row in read_jsonl(path):
        where = f"{path}:{number}"
        question = _parse_question(row, where)
        check_new_id(lines, question.id, "question", path, number)
        for id in question.passage_ids:
            if id not in passages:
                raise _unknown_passage(id, where, len(passages), passages_source)
        questions.append(question)
    if not questions:
        raise DataError(
            f"{path}: expected at least one question, got an empty file; fill or remove it"
        )
    return questions


def check_disjoint(dataset: QADataset, train: str = "train", held_out: str = "dev") -> None:
    """Check that no gold passage of a held-out split was seen in training.

    A passage counts as seen if training has its id, or a passage with the same text up to white
    space.

    Raises:
        DataError: If a passage was seen; the message names one and says how many there are.
    """
    overlap = _overlap(dataset, train, held_out)
    if overlap:
        id, twin = next(iter(overlap.items()))
        how = "" if id == twin else f", whose text is that of {twin!r}"
        questions = sum(bool(overlap.keys() & set(q.passage_ids)) for q in dataset.split(held_out))
        raise DataError(
            f"data set {dataset.name!r}: gold passages of {train!r} and {held_out!r} must not "
            f"overlap, but {len(overlap)} of {held_out!r} ({questions} questions) also occur in "
            f"{train!r}, such as {id!r}{how}; remove the questions about them from one of the two"
        )


def drop_overlap(
    dataset: QADataset, train: str = "train", held_out: str = "dev"
) -> tuple[QADataset, int]:
    """Leave out the training questions to which `check_disjoint` objects.

    The held-out split stays whole, so that its figures can be compared with those of others.

    Returns:
        The data set without these questions, and their number.
    """
    twins = set(_overlap(dataset, train, held_out).values())
    questions = dataset.split(train)
    # The same text may have several ids in training; all of them are left out.
    texts = {squeeze(dataset.passages[id].text) for id in twins}
    kept = [
        question
        for question in questions
        if not any(squeeze(passage.text) in texts for passage in dataset.gold(question))
    ]
    return replace(dataset, splits=dataset.splits | {train: kept}), len(questions) - len(kept)


def _overlap(dataset: QADataset, train: str, held_out: str) -> dict[str, str]:
    """Ids of held-out gold passages whose text occurs in training, each with its id there."""
    seen = _gold_ids(dataset, train)
    texts = {squeeze(dataset.passages[id].text): id for id in seen}
    twins = {
        id: texts.get(squeeze(dataset.passages[id].text)) for id in _gold_ids(dataset, held_out)
    }
    return {id: twin for id, twin in twins.items() if twin is not None}


def _parse_question(row: Mapping[str, Any], where: str) -> Question:
    answers = _text_list(row, "answers", where)
    if not answers:
        raise DataError(
            f"{where}: 'answers' must hold at least one answer, got an empty list; add one or "
            f"remove the line"
        )
    passage_ids = _text_list(row, "passage_ids", where)
    twice = [id for index, id in enumerate(passage_ids) if id in passage_ids[:index]]
    if twice:
        raise DataError(f"{where}: 'passage_ids' names {twice[0]!r} twice; name each passage once")
    return Question(
        text_field(row, "id", where), text_field(row, "question", where), answers, passage_ids
    )


def _text_list(row: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    values = require_key(row, key, where)
    if not isinstance(values, list):
        raise DataError(f'{where}: {key!r} must be a list, got {describe(values)}; write ["..."]')
    for index, value in enumerate(values):
        if not isinstance(value, str) or not value.strip():
            raise DataError(
                f"{where}: {key!r}[{index}] must be a string with some text, got "
                f"{describe(value)}; correct or remove it"
            )
    return tuple(values)


def _unknown_passage(id: str, where: str, count: int, source: str | Path | None) -> DataError:
    if source is None:
        return DataError(
            f"{where}: 'passage_ids' names {id!r}, but the folder has no passages.jsonl[.gz]; add "
            "it, or give another file as passages_path"
        )
    return DataError(
        f"{where}: 'passage_ids' names {id!r}, which is not among the {count} passages of "
        f"{source}; add it there, or take it out of passage_ids"
    )


def _has(folder: Path, stem: str) -> bool:
    return any((folder / f"{stem}{end}").is_file() for end in (".jsonl", ".jsonl.gz"))


def _gold_ids(dataset: QADataset, split: str) -> dict[str, None]:
    """The ids of a split's gold passages, in the order of their first appearance."""
    return {
        passage.id: None for question in dataset.split(split) for passage in dataset.gold(question)
    }


def squeeze(text: str) -> str:
    """The text with each stretch of white space as one space; passages are compared by it."""
    return " ".join(text.split())
