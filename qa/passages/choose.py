"""The choice of the passages that a method may use: the setting ``passages`` of an evaluation."""

from __future__ import annotations

from plumbing.mounts import SettingValueError
from qa.data.dataset import QADataset
from qa.passages.gold import GoldPassages, ShuffledPassages
from qa.passages.retrieved import OracleNegatives, RetrievedPassages
from qa.passages.source import PassageSource
from retrieval.pipeline import Pipeline

RETRIEVED_KINDS = ("retrieved", "oracle_negative")
KINDS = ("gold", "shuffled", *RETRIEVED_KINDS)


def check_passages(kind: str, setting: str = "passages") -> None:
    """Check that there is a source of passages of this name.

    Args:
        kind: The name.
        setting: The setting that has it.

    Raises:
        SettingValueError: If there is none.
    """
    if kind not in KINDS:
        raise SettingValueError(
            setting, f"passages must be one of {', '.join(KINDS)}, got {kind!r}"
        )


def make_passage_source(
    kind: str, dataset: QADataset, seed: int = 0, pipeline: Pipeline | None = None, k: int = 1
) -> PassageSource:
    """Make the source that the setting ``passages`` names.

    Args:
        kind: "gold", "shuffled", "retrieved" or "oracle_negative".
        dataset: The data set of the questions.
        seed: The seed of what is drawn at random.
        pipeline: Retrieves the passages; only "retrieved" and "oracle_negative" need it.
        k: How many passages each question gets, at most.

    Raises:
        ValueError: If the kind is unknown, if it needs a pipeline and there is none, or if ``k`` is
            out of range.
    """
    if kind == "gold":
        return GoldPassages(dataset, k)
    if kind == "shuffled":
        return ShuffledPassages(dataset, seed, k)
    check_passages(kind)
    if pipeline is None:
        raise ValueError(
            f"passages={kind} needs a retrieval index, and none is configured; give retriever=bm25 "
            "(or dense, hybrid), retriever.index_dir=DIR and corpus.path=FILE, or use "
            "passages=gold or passages=shuffled"
        )
    source = RetrievedPassages if kind == "retrieved" else OracleNegatives
    return source(pipeline, k)
