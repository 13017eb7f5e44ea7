"""Several named data sets as one, for a training on all of them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from plumbing.mounts import SettingValueError
from plumbing.storage.jsonl import DataError
from qa.data.dataset import SPLITS, QADataset, Question
from qa.data.hub import load_named
from retrieval.passage import Passage

log = logging.getLogger(__name__)


def load_mixed(sets: Mapping[str, int | None], dir: str | Path | None = None) -> QADataset:
    """Load several named sets and mix them.

    Args:
        sets: The names of the sets, each with the largest number of its training questions. These
            are its first ones; None takes all.
        dir: A folder with one folder for each set; None: the Hugging Face hub.

    Returns:
        The data set `mix` makes of them.

    Raises:
        DataError: If a set cannot be loaded, or if no two sets are named.
        ValueError: If a number is not positive.
    """
    for name, limit in sets.items():
        if limit is not None and (not isinstance(limit, int) or limit < 1):
            raise SettingValueError(
                "sets",
                f"a set's largest number of training questions must be positive or null, got "
                f"{name}: {limit!r}",
            )
    if len(sets) < 2:
        raise DataError(
            f"a mixed data set needs two sets at least, got {', '.join(sets) or 'none'}; name more "
            "in data.sets, or choose the set itself"
        )
    loaded: list[QADataset] = []
    for name, limit in sets.items():
        one = load_named(name, None if dir is None else Path(dir, name))
        if "train" in one.splits and limit is not None:
            one = replace(one, splits=one.splits | {"train": one.splits["train"][:limit]})
        loaded.append(one)
    return mix(loaded)


def mix(datasets: Iterable[QADataset]) -> QADataset:
    """One data set whose splits hold the questions of all that have such a split.

    The question ids get the name of their set in front. A passage that several sets have is one
    passage. If two sets give the same id to different texts, the id of the later one gets the name
    of its set in front, too. The log says the shares of each split.
    """
    passages: dict[str, Passage] = {}
    splits: dict[str, list[Question]] = {}
    names: list[str] = []
    for dataset in datasets:
        names.append(dataset.name)
        renamed: dict[str, str] = {}
        for id, passage in dataset.passages.items():
            if passages.setdefault(id, passage).text != passage.text:
                renamed[id] = f"{dataset.name}/{id}"
                passages[renamed[id]] = replace(passage, id=renamed[id])
        for split, questions in dataset.splits.items():
            splits.setdefault(split, []).extend(
                replace(
                    question,
                    id=f"{dataset.name}/{question.id}",
                    passage_ids=tuple(renamed.get(id, id) for id in question.passage_ids),
                )
                for question in questions
            )
    for split, questions in splits.items():
        log.info("%s: %s", split, shares(questions))
    ordered = {split: splits[split] for split in SPLITS if split in splits}
    return QADataset("+".join(names), passages, ordered)


def shares(questions: Iterable[Question]) -> str:
    """How many of a mixed split's questions have a gold passage, for each set and in percent.

    Questions without one are not trained on, and are said apart.
    """
    with_gold: dict[str, int] = {}
    without: dict[str, int] = {}
    for question in questions:
        name = question.id.partition("/")[0]
        counts = with_gold if question.passage_ids else without
        counts[name] = counts.get(name, 0) + 1
    total = sum(with_gold.values()) or 1
    said = [f"{n} {count} ({100 * count / total:.1f} %)" for n, count in with_gold.items()]
    said += [f"{n} {count} without a gold passage" for n, count in without.items()]
    return ", ".join(said)
