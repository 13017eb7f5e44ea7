"""Which passages a method may use: the key ``passages`` of an evaluation."""

from __future__ import annotations

from qa.data.dataset import QADataset
from qa.passages.gold import GoldPassages, ShuffledPassages
from qa.passages.source import PassageSource
from retrieval.pipeline import Pipeline

RETRIEVED_KINDS = ("retrieved", "oracle_negative")
KINDS = ("gold", "shuffled", *RETRIEVED_KINDS)


def make_passage_source(
    kind: str, dataset: QADataset, seed: int = 0, pipeline: Pipeline | None = None
) -> PassageSource:
    """The source that the key ``passages`` names.

    Args:
        kind: "gold", "shuffled", "retrieved" or "oracle_negative".
        dataset: The data set of the questions.
        seed: Of what is drawn at random.
        pipeline: What retrieves passages; only "retrieved" and "oracle_negative" need it.

    Raises:
        ValueError: If the kind is unknown, or needs a pipeline and there is none.
    """
    from qa.passages.retrieved import OracleNegatives, RetrievedPassages

    if kind == "gold":
        return GoldPassages(dataset)
    if kind == "shuffled":
        return ShuffledPassages(dataset, seed)
    if kind not in KINDS:
        raise ValueError(
            f"passages must be one of {', '.join(KINDS)}, got {kind!r}; set passages=…"
        )
    if pipeline is None:
        raise ValueError(
            f"passages={kind} needs a retrieval index, and none is configured; give retriever=bm25 "
            "(or dense, hybrid), retriever.index_dir=DIR and corpus.path=FILE, or use "
            "passages=gold or passages=shuffled"
        )
    return RetrievedPassages(pipeline) if kind == "retrieved" else OracleNegatives(pipeline)
