"""Evaluation of a method: it answers every question, and its answers are scored and written."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from plumbing.batches import by_length
from plumbing.devices import peak_memory
from plumbing.mounts import SettingValueError
from plumbing.progress import progress
from plumbing.settings import check_limit
from plumbing.stopwatch import Stopwatch
from plumbing.storage.files import write_json
from plumbing.storage.jsonl import write_jsonl
from qa.data.dataset import Question
from qa.method import AnsweringMethod, Prediction, QuestionInput
from qa.metrics import exact_match, f1_score, yes_no_accuracy
from qa.passages.containment import is_yes_no
from qa.passages.source import NoPassages, PassageSource, Selection
from qa.prompts import prompt_template
from qa.statistics import clusters_of, estimate

MADE_WITH = "made_with.json"  # in a run folder

# The scores of a question, and what one unit of each is worth in metrics.json.
SCALE = {"em": 100.0, "f1": 100.0, "acc": 100.0, "nll": 1.0}
# The largest value of each in metrics.json, where the smallest is 0; the nll has none.
LARGEST = {name: scale if name != "nll" else None for name, scale in SCALE.items()}


def evaluate(
    method: AnsweringMethod,
    questions: Sequence[Question],
    source: PassageSource,
    run_dir: str | Path,
    batch_size: int = 16,
    limit: int | None = None,
    seed: int = 0,
    prompt_source: PassageSource | None = None,
    answer_of: Callable[[str], str] | None = None,
) -> dict[str, float]:
    """Evaluate a method and write ``metrics.json``, ``predictions.jsonl`` and ``made_with.json``.

    The last one holds the prompt, and the name and the fingerprint of the backbone.

    Args:
        method: The method that answers.
        questions: The questions.
        source: Chooses the passages of each question. A method that uses no passages is given none.
        run_dir: The folder of the files, which is made if it does not exist. They are written
            at the end and atomically, so a folder that holds ``metrics.json`` holds a whole
            evaluation.
        batch_size: How many questions are answered at once; it changes the speed only.
        limit: Ask a random sample of this many questions. None asks all of them.
        seed: The seed of that sample and of the bootstrap.
        prompt_source: Chooses the passages that stand in the prompt with RAG, if they are others,
            as a control. None: those of ``source``.
        answer_of: Takes the answer that is scored out of what the method wrote, which may have
            thought aloud before. None: all of it.

    Returns:
        The metrics as they were written:

        * ``em`` and ``f1`` in percent.
        * ``nll`` in nats for each answer token. It is the mean over questions of the mean over the
          tokens of the first answer, so that long answers weigh no more than short ones.
        * ``acc`` in percent, if all questions want yes or no (`qa.metrics.yes_no_accuracy`).
        * ``<name>_low`` and ``<name>_high``, the ends of the 95 % interval of each of these
          (`qa.statistics`). Questions that share a gold passage count as one cluster. The nll has
          no interval if all questions do.
        * ``n``, the number of questions, and ``clusters``, the number of their clusters.
        * ``seconds_per_question``, the time of answering and scoring. It includes what the method
          itself retrieves, but no loading.
        * ``retrieval_seconds_per_question``, the time in which the source chose the passages
          beforehand. What is in its cache takes next to no time, and its first use loads encoders.
        * ``peak_memory`` of this process, in bytes.
        * what the source says about its passages (`PassageSource.audit`), and the method about its
          predictions (`AnsweringMethod.measure`). A metric of the method has an interval as well if
          it is the share of the questions for which the detail of the same name is true.

    Raises:
        ValueError: If there is no question, a setting is out of range, a prompt is too long, a
            score is not finite, or a source selected passages that it must not. Also if the method
            retrieves what stands in its prompt, and ``prompt_source`` is given.
    """
    if batch_size < 1:
        raise SettingValueError("batch_size", f"batch_size must be positive, got {batch_size}")
    if method.retrieves and prompt_source is not None:
        raise SettingValueError(
            "prompt_passages",
            f"{type(method).__name__} itself retrieves the passages in its prompt, so "
            "prompt_passages has no effect",
            "leave {} out",
        )
    questions = sample(questions, limit, seed)
    if method.retrieves:
        method.retrieve_from(source)
    if not method.uses_passages:
        source = NoPassages()
    watch = Stopwatch()
    selections = source.select(questions)
    shown: Sequence[Selection | None] = [None] * len(questions)
    if prompt_source is not None:
        in_prompt = prompt_source.select(questions)
        prompt_source.audit(questions, in_prompt)
        shown = in_prompt
    retrieval = watch.seconds
    audit = source.audit(questions, selections)
    inputs = [QuestionInput(*each) for each in zip(questions, selections, shown, strict=True)]
    method.check_prompts(inputs)
    watch = Stopwatch()
    predictions = answer_all(method, inputs, batch_size)
    if answer_of is not None:
        predictions = [replace(each, text=answer_of(each.text)) for each in predictions]
    seconds = watch.seconds
    rows = [_row(*pair) for pair in zip(inputs, predictions, strict=True)]
    measured = method.measure(predictions)
    folder = Path(run_dir)
    (folder / "metrics.json").unlink(missing_ok=True)
    write_jsonl(folder / "predictions.jsonl", rows)
    write_json(folder / MADE_WITH, _made_with(method))
    _check_finite(method, rows)
    metrics = {
        **summarize(rows, seed),
        "n": len(rows),
        "seconds_per_question": seconds / len(inputs),
        "retrieval_seconds_per_question": retrieval / len(inputs),
        "peak_memory": float(peak_memory()),
        **audit,
        **_intervals(rows, measured),
        **measured,
    }
    write_json(folder / "metrics.json", metrics)
    return metrics


def _check_finite(method: AnsweringMethod, rows: Sequence[Mapping[str, Any]]) -> None:
    broken = [row["id"] for row in rows if not math.isfinite(row["nll"])]
    if broken:
        dtype = str(method.backbone.dtype).removeprefix("torch.")
        raise ValueError(
            f"the likelihood of {len(broken)} of {len(rows)} right answers is not finite, such as "
            f"that of question {broken[0]!r}: numbers overflow in {dtype}, or what the method puts "
            "into the model is damaged; evaluate with backbone.dtype=float32, or with method=base "
            "to see what the backbone says alone"
        )


def _made_with(method: AnsweringMethod) -> dict[str, str]:
    backbone = method.backbone
    return {
        "prompt": f"{method.before}{prompt_template()}",
        "backbone": backbone.name,
        "fingerprint": backbone.fingerprint,
    }


def sample(questions: Sequence[Question], limit: int | None, seed: int = 0) -> list[Question]:
    """Draw a random sample of questions, and keep their order; take all if there are no more.

    The first questions of a file are not a sample, because files tend to be sorted by article.

    Raises:
        ValueError: If there is no question, or the limit is not a positive whole number.
    """
    check_limit(limit)
    if not questions:
        raise ValueError("there is no question to evaluate; choose another data set or split")
    if limit is None:
        return list(questions)
    chosen = np.random.default_rng(seed).permutation(len(questions))[:limit]
    return [questions[i] for i in sorted(chosen.tolist())]


def answer_all(
    method: AnsweringMethod, inputs: Sequence[QuestionInput], batch_size: int
) -> list[Prediction]:
    """Answer questions in batches, with a progress bar.

    A batch has prompts of near-equal length, unless the method wants the questions in their order.

    Returns:
        One prediction for each input, in the order of the inputs.
    """
    # The longest come first: what does not fit into memory fails at once, and the bar speeds up.
    lengths = [len(method.prompt(input)) for input in inputs]
    predictions: dict[int, Prediction] = {}
    if method.in_order:
        places = range(len(inputs))
        batches = [list(places[at : at + batch_size]) for at in places[::batch_size]]
    else:
        batches = by_length(lengths, max_rows=batch_size, longest_first=True)
    for batch in progress(batches, "Answering", len(inputs), lambda: len(predictions)):
        answers = method.answer([inputs[j] for j in batch])
        predictions.update(zip(batch, answers, strict=True))
    return [predictions[i] for i in range(len(inputs))]


def summarize(rows: Sequence[Mapping[str, Any]], seed: int = 0) -> dict[str, float]:
    """Average the scores of ``predictions.jsonl``, with 95 % intervals over clusters.

    Args:
        rows: The lines of the file. A line without ``gold_ids`` is a cluster of its own.
        seed: The seed of the bootstrap.

    Returns:
        ``em``, ``f1``, ``nll`` and, if every line has it, ``acc``, each with ``_low`` and
        ``_high``; and ``clusters``, their number.

    Raises:
        ValueError: If there is no line, or a score is not finite.
    """
    clusters = clusters_of([row.get("gold_ids") for row in rows])
    metrics: dict[str, float] = {}
    for name, scale in SCALE.items():
        if all(name in row for row in rows):  # else not all questions want yes or no
            values = scale * np.array([row[name] for row in rows], dtype=np.float64)
            metrics |= estimate(values, clusters, LARGEST[name], seed).metrics(name)
    return metrics | {"clusters": len(set(clusters))}


def _intervals(
    rows: Sequence[Mapping[str, Any]], measured: Mapping[str, float]
) -> dict[str, float]:
    """The intervals of those metrics of a method that are shares of its questions, in percent.

    Such a metric is the share of the lines whose value of this name is True, among those where it
    is True or False.
    """
    found: dict[str, float] = {}
    for name in measured:
        judged = [row for row in rows if row.get(name) is not None]
        if judged and all(isinstance(row[name], bool) for row in judged):
            clusters = clusters_of([row["gold_ids"] for row in judged])
            share = estimate([100.0 * row[name] for row in judged], clusters, 100.0)
            found |= share.metrics(name)
    return found


def _row(input: QuestionInput, prediction: Prediction) -> dict[str, object]:
    question, selection = input.question, input.selection
    answers = list(question.answers)
    shown = [passage.id for passage in input.prompt_passages]
    return {
        "id": question.id,
        "question": question.question,
        "answers": answers,
        "gold_ids": list(question.passage_ids),
        "prediction": prediction.text,
        "passage_ids": [passage.id for passage in selection.passages],
        "weights": list(selection.weights),
        **({"prompt_passage_ids": shown} if input.prompt_selection else {}),
        "em": exact_match(prediction.text, answers),
        "f1": f1_score(prediction.text, answers),
        **({"acc": yes_no_accuracy(prediction.text, answers)} if is_yes_no(question) else {}),
        "nll": prediction.nll,
        **prediction.details,
    }
