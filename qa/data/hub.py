"""Named question sets: their places on the Hugging Face hub, and the conversion of their rows.

No code of a hub repository is run. Where a repository has a loading script, its Parquet export is
read instead; this is a branch that the hub makes by itself.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from plumbing.storage.jsonl import DataError
from qa.data.dataset import QADataset, Question, load_folder
from retrieval.corpus.formats import read_passages
from retrieval.passage import Passage

Row = Mapping[str, Any]
Converter = Callable[[Row], tuple[list[Passage], Question]]

PARQUET_EXPORT = "refs/convert/parquet"
WINDOW_WORDS = 100  # words of a passage from an article, as in DPR (Karpukhin et al. 2020)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class HubSource:
    """The place of a named set on the hub.

    Attributes:
        path: The repository.
        convert: Makes passages and a question from one row. The question's gold passages are among
            the passages. A question without text or answers is left out.
        splits: The hub's name of each of our splits.
        config: The configuration of the repository, if it has several.
        revision: A branch other than the main one. In the Parquet export the configurations are
            folders.
    """

    path: str
    convert: Converter
    splits: Mapping[str, str] = field(
        default_factory=lambda: {"train": "train", "dev": "validation"}
    )
    config: str | None = None
    revision: str | None = None

    def arguments(self) -> dict[str, Any]:
        """The keyword arguments for ``datasets.load_dataset``, without the split."""
        arguments: dict[str, Any] = {"path": self.path}
        if self.config is not None:
            exported = self.revision == PARQUET_EXPORT
            arguments["data_dir" if exported else "name"] = self.config
        if self.revision is not None:
            arguments["revision"] = self.revision
        return arguments


def load_named(
    name: str, dir: str | Path | None = None, passages_path: str | Path | None = None
) -> QADataset:
    """Load a named set, from a folder or from the hub.

    Args:
        name: A key of `NAMED`.
        dir: A folder in the project's format, which is read instead of the hub.
        passages_path: A file of passages. For a folder, it is read instead of the folder's own; for
            the hub, in addition to the hub's passages.

    Returns:
        The data set.

    Raises:
        DataError: If the name is unknown, if the extra ``hub`` is not installed, if the hub cannot
            be reached, if its rows are not as expected, or if a file is faulty.
    """
    if name not in NAMED:
        raise DataError(
            f"unknown data set {name!r}; named sets are {', '.join(NAMED)}. For a folder of your "
            f"own use data=local data.dir=DIR"
        )
    if dir is not None:
        return load_folder(dir, name, passages_path)
    source = NAMED[name]
    passages: dict[str, Passage] = {}
    splits: dict[str, list[Question]] = {}
    for split, hub_split in source.splits.items():
        found, splits[split] = convert_rows(name, source, _load_split(name, source, hub_split))
        passages |= found
    if passages_path is not None:
        passages |= {passage.id: passage for passage in read_passages(passages_path)}
    return QADataset(name, passages, splits)


def convert_rows(
    name: str, source: HubSource, rows: Iterable[Row]
) -> tuple[dict[str, Passage], list[Question]]:
    """Convert the rows of one split of a hub data set.

    A question that occurs several times is kept once. Rows without a question or an answer are left
    out, and their number is logged.

    Args:
        name: The name of the set, for messages.
        source: The place of the set on the hub.
        rows: The rows of the split.

    Returns:
        The passages by id, and the questions in the order of the rows.

    Raises:
        DataError: If a row does not have the columns that the converter expects.
    """
    passages: dict[str, Passage] = {}
    questions: dict[str, Question] = {}
    unusable = 0
    for index, row in enumerate(rows):
        try:
            found, question = source.convert(row)
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            raise DataError(
                f"{source.path} on the hub, row {index}: its columns are {', '.join(row)}, and "
                f"they do not have the form expected of {name!r} ({type(error).__name__}: "
                f"{error}). The set may have changed; give a local copy by data.dir=DIR"
            ) from error
        if not question.question.strip() or not question.answers:
            unusable += 1
            continue
        passages |= {passage.id: passage for passage in found}
        questions.setdefault(question.id, question)
    if unusable:
        log.warning("%s: left out %d rows without a question or an answer", name, unusable)
    if not questions:
        raise DataError(f"{source.path} on the hub: expected questions for {name!r}, got none")
    return passages, list(questions.values())


def _load_split(name: str, source: HubSource, split: str) -> Iterable[Row]:
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise DataError(
            f"data={name} comes from the Hugging Face hub, which needs the package datasets: "
            f"pip install 'genpoe-dmoe[hub]', or give a local copy by data.dir=DIR"
        ) from error
    try:
        rows: Iterable[Row] = load_dataset(split=split, **source.arguments())
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().split("\n")[0]
        raise DataError(
            f"data={name}: cannot load the split {split!r} of {source.path} from the Hugging Face "
            f"hub ({reason}); check the connection, or give a local copy by data.dir=DIR"
        ) from error
    return rows


def _convert_squad(row: Row) -> tuple[list[Passage], Question]:
    passage = _passage("squad", row["title"].replace("_", " "), row["context"])
    return [passage], _question("squad", row, row["answers"]["text"], [passage])


def _convert_nq(row: Row) -> tuple[list[Passage], Question]:
    return [], _question("nq", row, row["answer"])  # NQ-open has neither passages nor ids


def _convert_triviaqa(row: Row) -> tuple[list[Passage], Question]:
    """The articles are evidence; in each, the first passage with an answer counts as gold."""
    answer = row["answer"]
    answers = [answer["value"], *answer["aliases"]]
    needles = [f" {words} " for words in map(_words, answers) if words]
    pages = row["entity_pages"]
    passages = []
    for title, article in zip(pages["title"], pages["wiki_context"], strict=True):
        for window in _windows(article):
            if any(needle in f" {_words(window)} " for needle in needles):
                passages.append(_passage("triviaqa", title, window))
                break
    return passages, _question("triviaqa", row, answers, passages, id_column="question_id")


def _convert_hotpotqa(row: Row) -> tuple[list[Passage], Question]:
    """Each question has ten paragraphs; those that the supporting facts name are gold."""
    context, titles = row["context"], set(row["supporting_facts"]["title"])
    passages = [
        _passage("hotpotqa", title, "".join(sentences))
        for title, sentences in zip(context["title"], context["sentences"], strict=True)
    ]
    passages = [passage for passage in passages if passage.text]
    gold = [passage for passage in passages if passage.title in titles]
    return passages, _question("hotpotqa", row, [row["answer"]], gold)


def _convert_cwq(row: Row) -> tuple[list[Passage], Question]:
    answers = row["answers"]
    if isinstance(answers, Mapping):  # a sequence of structs arrives as a struct of sequences
        pairs = list(zip(answers["answer"], answers["aliases"], strict=True))
    else:
        pairs = [(answer["answer"], answer["aliases"]) for answer in answers]
    texts = [text for answer, aliases in pairs for text in (answer, *(aliases or ()))]
    return [], _question("cwq", row, texts, id_column="ID")


def _convert_quasart(row: Row) -> tuple[list[Passage], Question]:
    return [], _question("quasart", row, [row["answer"]], id_column="uid")


def _convert_strategyqa(row: Row) -> tuple[list[Passage], Question]:
    """The answers are yes or no. The annotated facts are the passage, and the term is its title."""
    facts = row["facts"]
    text = facts if isinstance(facts, str) else " ".join(facts)
    passages = [_passage("strategyqa", row["term"], text)] if text.strip() else []
    answer = "yes" if row["answer"] else "no"
    return passages, _question("strategyqa", row, [answer], passages, id_column="qid")


NAMED: dict[str, HubSource] = {
    "squad": HubSource("rajpurkar/squad", _convert_squad),
    "nq": HubSource("google-research-datasets/nq_open", _convert_nq),
    "triviaqa": HubSource("mandarjoshi/trivia_qa", _convert_triviaqa, config="rc.wikipedia"),
    "hotpotqa": HubSource("hotpotqa/hotpot_qa", _convert_hotpotqa, config="distractor"),
    "cwq": HubSource(
        "drt/complex_web_questions",
        _convert_cwq,
        config="complex_web_questions",
        revision=PARQUET_EXPORT,
    ),
    "quasart": HubSource(
        "sagnikrayc/quasar", _convert_quasart, config="quasar-t", revision=PARQUET_EXPORT
    ),
    "strategyqa": HubSource(
        "ChilleD/StrategyQA", _convert_strategyqa, {"train": "train", "dev": "test"}
    ),
}


def _passage(name: str, title: str, text: str) -> Passage:
    """A passage whose id comes from its content, so that a repeated paragraph is one passage."""
    text = text.strip()
    return Passage(f"{name}-{_digest(title, text)}", title, text)


def _question(
    name: str,
    row: Row,
    answers: Iterable[str | None],
    gold: Iterable[Passage] = (),
    id_column: str = "id",
) -> Question:
    kept = tuple(dict.fromkeys(answer for answer in answers if answer and answer.strip()))
    text = row["question"] or ""
    key = row.get(id_column) or _digest(text, *kept)
    gold_ids = tuple(dict.fromkeys(passage.id for passage in gold))
    return Question(f"{name}-{key}", text.strip(), kept, gold_ids)


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _windows(article: str) -> list[str]:
    words = article.split()
    return [
        " ".join(words[start : start + WINDOW_WORDS])
        for start in range(0, len(words), WINDOW_WORDS)
    ]


def _words(text: str) -> str:
    """The words of a text in lower case, with single spaces between them."""
    return " ".join(re.findall(r"\w+", text.lower()))
