"""Evaluation of retrieval: what the retriever finds, and how the reranker orders it.

It makes the paper's Table 5 (GenPoE, Appendix B): top-K accuracy before and after reranking.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from plumbing.mounts import SettingValueError
from plumbing.stopwatch import Stopwatch
from plumbing.storage.files import write_json
from plumbing.storage.jsonl import write_jsonl
from qa.data.dataset import Question
from qa.passages.containment import is_yes_no
from qa.passages.gold_ids import gold_ids, warn_of_missing_gold
from qa.statistics import clusters_of, difference, estimate
from qa.tables.retrieval import plot_accuracy, retrieval_table
from retrieval.answers import holds_answer
from retrieval.metrics import Judged, score_rankings
from retrieval.pipeline import Pipeline
from retrieval.retriever import Hit

Scores = dict[str, list[float]]


def evaluate_retrieval(
    pipeline: Pipeline,
    questions: Sequence[Question],
    ks: Sequence[int],
    run_dir: str | Path,
    title: str = "",
) -> dict[str, float]:
    """Retrieve and rerank for every question, score both rankings, and write down the results.

    Args:
        pipeline: The retriever and, possibly, the reranker.
        questions: The questions.
        ks: The cut-offs K.
        run_dir: The folder of ``metrics.json``, ``rankings.jsonl`` (a line for each question),
            ``table.md`` and ``accuracy.png``. It is made if it does not exist.
        title: The title of the plot.

    Returns:
        The metrics as they were written:

        * those of `retrieval.metrics.score_rankings` for the retriever, and with the prefix
          ``reranked/`` after reranking. Each has the ends of its 95 % interval, ``…_low`` and
          ``…_high`` (`qa.statistics`). Questions that share a gold passage are one cluster.
        * ``reranked/<name>_gain``, the gain by reranking, paired by question, with its interval.
        * ``n``, the number of questions; ``n_judged``, the number that accuracy is about (all but
          yes/no questions); and ``n_gold``, the number that recall and ``mrr`` are about.
        * ``seconds`` of retrieving and ``reranked/seconds`` of reranking in this run, in which
          what is in the cache costs nothing.

    Raises:
        ValueError: If there is no question, or a cut-off is not in 1 … N.
    """
    n = pipeline.settings.n
    if not questions:
        raise ValueError("there is no question to evaluate; choose another data set or split")
    if not ks or min(ks) < 1 or max(ks) > n:
        raise SettingValueError(
            "ks",
            f"ks must be in 1 … {n}, the number of passages retrieved, got {list(ks)}",
            "set {}=[1,5] or pipeline.n",
        )
    ks = sorted(set(ks))
    warn_of_missing_gold(
        gold_ids(questions),
        pipeline.corpus,
        "the corpus",
        "recall and mrr say little or nothing, while accuracy looks at the texts; give the corpus "
        "whose ids the data set's passage_ids name",
    )
    queries = [question.question for question in questions]
    watch = Stopwatch()
    retrieved = pipeline.retrieve(queries)
    seconds = {"seconds": watch.seconds}
    rankings = {"": retrieved}
    judged = {"": [judge(pipeline, *pair) for pair in zip(questions, retrieved, strict=True)]}
    if pipeline.reranker is not None:
        watch = Stopwatch()
        rankings["reranked/"] = pipeline.rerank(queries, retrieved)
        seconds["reranked/seconds"] = watch.seconds
        moves = zip(judged[""], retrieved, rankings["reranked/"], strict=True)
        judged["reranked/"] = [_reordered(*move) for move in moves]
    scores = {prefix: score_rankings(ranking, ks) for prefix, ranking in judged.items()}
    metrics = {
        **_summarize(scores, _covered(questions, judged[""])),
        **_counts(judged[""]),
        **seconds,
    }
    _write(Path(run_dir), questions, rankings, judged, metrics, ks, title)
    return metrics


def judge(pipeline: Pipeline, question: Question, hits: Sequence[Hit]) -> Judged:
    """Judge which of the passages found hold an answer in their text, as in DPR, and are gold.

    For yes/no questions it is left open which passages hold the answer, because their words do not
    tell.
    """
    holds = None
    if not is_yes_no(question):
        holds = [holds_answer(p.text, question.answers) for p in pipeline.passages(hits)]
    gold = [hit.passage_id in question.passage_ids for hit in hits]
    return Judged(holds, gold, len(question.passage_ids))


def _reordered(judged: Judged, before: Sequence[Hit], after: Sequence[Hit]) -> Judged:
    places = {hit.passage_id: place for place, hit in enumerate(before)}
    order = [places[hit.passage_id] for hit in after]
    holds = None if judged.holds is None else [judged.holds[place] for place in order]
    return Judged(holds, [judged.gold[place] for place in order], judged.n_gold)


def _covered(questions: Sequence[Question], judged: Sequence[Judged]) -> dict[str, list[int]]:
    """The clusters of the questions that each kind of metric covers, as `score_rankings` says."""
    pairs = list(zip(clusters_of([one.passage_ids for one in questions]), judged, strict=True))
    golden = [cluster for cluster, one in pairs if one.n_gold]
    answerable = [cluster for cluster, one in pairs if one.holds is not None]
    return {"accuracy": answerable, "recall": golden, "mrr": golden}


def _summarize(scores: dict[str, Scores], covered: dict[str, list[int]]) -> dict[str, float]:
    """Compute the means, the intervals and the gains of the scores of each ranking."""
    metrics: dict[str, float] = {}
    for prefix, values in scores.items():
        for name, each in values.items():
            key, kind = f"{prefix}{name}", name.partition("@")[0]
            largest = 1.0 if kind == "mrr" else 100.0
            metrics |= estimate(each, covered[kind], largest).metrics(key)
            if prefix:
                gain = difference(each, scores[""][name], covered[kind], largest)
                metrics |= gain.metrics(f"{key}_gain")
    return metrics


def _counts(judged: Sequence[Judged]) -> dict[str, float]:
    return {
        "n": len(judged),
        "n_judged": sum(one.holds is not None for one in judged),
        "n_gold": sum(one.n_gold > 0 for one in judged),
    }


def _write(
    run_dir: Path,
    questions: Sequence[Question],
    rankings: dict[str, list[list[Hit]]],
    judged: dict[str, list[Judged]],
    metrics: dict[str, float],
    ks: Sequence[int],
    title: str,
) -> None:
    """Write all files, the metrics last, so that a folder with metrics is a whole evaluation."""
    rows = [
        {
            "id": question.id,
            "question": question.question,
            "answers": list(question.answers),
            "gold_ids": list(question.passage_ids),
            **{
                f"{prefix}{name}": value
                for prefix in rankings
                for name, value in _row(rankings[prefix][i], judged[prefix][i], ks[-1]).items()
            },
        }
        for i, question in enumerate(questions)
    ]
    write_jsonl(run_dir / "rankings.jsonl", rows)
    (run_dir / "table.md").write_text(retrieval_table(metrics), encoding="utf-8")
    if metrics["n_judged"]:
        plot_accuracy(metrics, run_dir / "accuracy.png", title)
    write_json(run_dir / "metrics.json", metrics)


def _row(hits: Sequence[Hit], judged: Judged, depth: int) -> dict[str, object]:
    holds = judged.holds or []
    return {
        "passage_ids": [hit.passage_id for hit in hits[:depth]],
        "scores": [hit.score for hit in hits[:depth]],
        "answer_rank": next((rank for rank, held in enumerate(holds, start=1) if held), None),
    }
