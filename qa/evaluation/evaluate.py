"""Evaluation of a method: it answers every question, and its answers are scored and written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

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
from qa.metrics import bootstrap_interval, exact_match, f1_score, yes_no_accuracy
from qa.passages.containment import is_yes_no
from qa.passages.source import NoPassages, PassageSource, Selection

# The scores of a question, and what one unit of each is worth in metrics.json.
SCALE = {"em": 100.0, "f1": 100.0, "acc": 100.0, "nll": 1.0}


def evaluate(
    method: AnsweringMethod,
    questions: Sequence[Question],
    source: PassageSource,
    run_dir: str | Path,
    batch_size: int = 16,
    limit: int | None = None,
    seed: int = 0,
    prompt_source: PassageSource | None = None,
) -> dict[str, float]:
    """Evaluate a method and write ``metrics.json`` and ``predictions.jsonl``.

    Args:
        method: The method that answers.
        questions: The questions.
        source: Chooses the passages of each question. A method that uses no passages is given none.
        run_dir: The folder of the two files, which is made if it does not exist. Both are written
            at the end and atomically, so a folder that holds ``metrics.json`` holds a whole
            evaluation.
        batch_size: How many questions are answered at once; it changes the speed only.
        limit: Ask a random sample of this many questions. None asks all of them.
        seed: The seed of that sample and of the bootstrap.
        prompt_source: Chooses the passages that stand in the prompt with RAG, if they are others,
            as a control. None: those of ``source``.

    Returns:
        The metrics as they were written:

        * ``em`` and ``f1`` in percent.
        * ``nll`` in nats for each answer token. It is the mean over questions of the mean over the
          tokens of the first answer, so that long answers weigh no more than short ones.
        * ``acc`` in percent, if all questions want yes or no (`qa.metrics.yes_no_accuracy`).
        * ``<name>_low`` and ``<name>_high``, the ends of the 95 % bootstrap interval over
          questions of each of these.
        * ``n``, the number of questions.
        * ``seconds_per_question``, the time of answering and scoring. It includes what the method
          itself retrieves, but no loading.
        * ``retrieval_seconds_per_question``, the time in which the source chose the passages
          beforehand. What is in its cache takes next to no time, and its first use loads encoders.
        * ``peak_memory`` of this process, in bytes.
        * what the source says about its passages (`PassageSource.audit`), and the method about its
          predictions (`AnsweringMethod.measure`).

    Raises:
        ValueError: If there is no question, a setting is out of range, or a source selected
            passages that it must not. Also if the method retrieves what stands in its prompt, and
            ``prompt_source`` is given.
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
    watch = Stopwatch()
    predictions = answer_all(method, inputs, batch_size)
    seconds = watch.seconds
    rows = [_row(*pair) for pair in zip(inputs, predictions, strict=True)]
    metrics = {
        **summarize(rows, seed),
        "n": len(rows),
        "seconds_per_question": seconds / len(inputs),
        "retrieval_seconds_per_question": retrieval / len(inputs),
        "peak_memory": float(peak_memory()),
        **audit,
        **method.measure(predictions),
    }
    write_jsonl(Path(run_dir) / "predictions.jsonl", rows)
    write_json(Path(run_dir) / "metrics.json", metrics)
    return metrics


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
    """Answer questions in batches of near-equal prompt length, with a progress bar.

    Returns:
        One prediction for each input, in the order of the inputs.
    """
    # The longest come first: what does not fit into memory fails at once, and the bar speeds up.
    lengths = [len(method.prompt(input)) for input in inputs]
    predictions: dict[int, Prediction] = {}
    batches = by_length(lengths, max_rows=batch_size, longest_first=True)
    for batch in progress(batches, "Answering", len(inputs), lambda: len(predictions)):
        answers = method.answer([inputs[j] for j in batch])
        predictions.update(zip(batch, answers, strict=True))
    return [predictions[i] for i in range(len(inputs))]


def summarize(rows: Sequence[dict[str, object]], seed: int = 0) -> dict[str, float]:
    """Average the scores of ``predictions.jsonl``, with 95 % bootstrap intervals."""
    metrics: dict[str, float] = {}
    for name, scale in SCALE.items():
        if not all(name in row for row in rows):
            continue  # not all questions want yes or no, so there is no accuracy
        values = scale * np.array([row[name] for row in rows], dtype=np.float64)
        low, high = bootstrap_interval(values, seed)
        metrics |= {name: float(values.mean()), f"{name}_low": low, f"{name}_high": high}
    return metrics


def _row(input: QuestionInput, prediction: Prediction) -> dict[str, object]:
    question, selection = input.question, input.selection
    answers = list(question.answers)
    shown = [passage.id for passage in input.prompt_passages]
    return {
        "id": question.id,
        "question": question.question,
        "answers": answers,
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
