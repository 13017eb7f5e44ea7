"""Exact match and F1 as SQuAD defines them, and how sure we may be of their means.

Answers are compared after SQuAD's normalisation and no other: lower case, without punctuation,
without articles, white space squeezed. Shapes: Q questions, R resamples.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torchmetrics import Metric

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)  # ASCII only, as SQuAD has it
_CHUNK = 4_000_000  # resampled indices held at a time, 32 MB of them


def normalize_answer(text: str) -> str:
    """SQuAD's normalisation: ``"The U.S. Navy"`` becomes ``"us navy"``."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def exact_match(prediction: str, answers: Sequence[str]) -> float:
    """1.0 if the prediction is one of the answers after normalisation, else 0.0.

    Raises:
        ValueError: If there is no answer.
    """
    return _best(_exact, prediction, answers)


def f1_score(prediction: str, answers: Sequence[str]) -> float:
    """Harmonic mean of the tokens' precision and recall, of the best answer; between 0 and 1.

    Where prediction or answer is empty after normalisation, it is 1 if both are and else 0, as in
    SQuAD 2.0.

    Raises:
        ValueError: If there is no answer.
    """
    return _best(_f1, prediction, answers)


def yes_no_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """1.0 if the prediction begins with the yes or no that is right, whatever follows it."""
    words = normalize_answer(prediction).split()
    return float(bool(words) and words[0] in {normalize_answer(answer) for answer in answers})


def bootstrap_interval(
    values: ArrayLike, seed: int = 0, resamples: int = 2000, level: float = 0.95
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of independent values.

    Args:
        values: ``[Q]``, one a question.
        seed: Of the resampling; equal seeds give equal intervals.
        resamples: How many samples of Q values are drawn with replacement.
        level: The share of the resampled means that the interval holds.

    Returns:
        Its ends, in the unit of the values.

    Raises:
        ValueError: If there is no value, or an argument is out of range.
    """
    values_Q = np.asarray(values, dtype=np.float64)
    if values_Q.ndim != 1 or not len(values_Q):
        raise ValueError(f"expected a list of at least one value, got the shape {values_Q.shape}")
    if resamples < 1 or not 0 < level < 1:
        raise ValueError(
            f"need resamples >= 1 and 0 < level < 1, got resamples={resamples}, level={level}"
        )
    means_R = _resampled_means(values_Q, np.random.default_rng(seed), resamples)
    tail = (1 - level) / 2
    low, high = np.quantile(means_R, [tail, 1 - tail])
    return float(low), float(high)


def paired_difference(
    a: ArrayLike, b: ArrayLike, seed: int = 0, resamples: int = 2000, level: float = 0.95
) -> tuple[float, float, float]:
    """Mean of ``a - b`` over questions, with its bootstrap interval.

    Both methods answered the same questions, so the questions are resampled, not each side by
    itself: what makes a question hard for both cancels out.

    Args:
        a: ``[Q]``, one value a question.
        b: ``[Q]``, the same questions in the same order.
        seed: See `bootstrap_interval`.
        resamples: See `bootstrap_interval`.
        level: See `bootstrap_interval`.

    Returns:
        The mean difference and the ends of its interval.

    Raises:
        ValueError: If the two differ in length, or are empty.
    """
    a_Q, b_Q = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if a_Q.shape != b_Q.shape:
        raise ValueError(
            f"a paired difference needs the same questions on both sides, got {a_Q.size} and "
            f"{b_Q.size} values; evaluate both with the same data, split, limit and seed"
        )
    low, high = bootstrap_interval(a_Q - b_Q, seed, resamples, level)
    return float(np.mean(a_Q - b_Q)), low, high


class QAMetrics(Metric):
    """Running EM and F1 in percent, summed over batches and over DDP ranks.

    >>> metrics = QAMetrics()
    >>> metrics.update(["the U.S. Navy"], [["US Navy", "Navy"]])
    >>> {name: value.item() for name, value in metrics.compute().items()}
    {'em': 100.0, 'f1': 100.0}
    """

    full_state_update = False
    em_sum: Tensor
    f1_sum: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("em_sum", "f1_sum", "count"):
            self.add_state(name, default=torch.tensor(0.0), dist_reduce_fx="sum")

    def update(self, predictions: Sequence[str], answers: Sequence[Sequence[str]]) -> None:
        """Add a batch of predictions and, for each, its acceptable answers.

        Raises:
            ValueError: If the two differ in length, or a question has no answer.
        """
        if len(predictions) != len(answers):
            raise ValueError(
                f"need a list of answers for each prediction, got {len(predictions)} predictions "
                f"and {len(answers)} lists"
            )
        pairs = list(zip(predictions, answers, strict=True))
        self.em_sum += sum(exact_match(*pair) for pair in pairs)
        self.f1_sum += sum(f1_score(*pair) for pair in pairs)
        self.count += len(pairs)

    def compute(self) -> dict[str, Tensor]:
        """``em`` and ``f1`` over all questions so far, each 0 to 100."""
        return {"em": 100 * self.em_sum / self.count, "f1": 100 * self.f1_sum / self.count}


def _best(score: Callable[[str, str], float], prediction: str, answers: Sequence[str]) -> float:
    if isinstance(answers, str) or not answers:
        raise ValueError(f"expected a list of at least one answer, got {answers!r}")
    normalized = normalize_answer(prediction)
    return max(score(normalized, normalize_answer(answer)) for answer in answers)


def _exact(prediction: str, answer: str) -> float:
    return float(prediction == answer)


def _f1(prediction: str, answer: str) -> float:
    predicted, expected = prediction.split(), answer.split()
    if not predicted or not expected:
        return float(predicted == expected)
    common = sum((Counter(predicted) & Counter(expected)).values())
    return 2 * common / (len(predicted) + len(expected))  # 2PR / (P + R), without the division by 0


def _resampled_means(
    values_Q: NDArray[np.float64], random: np.random.Generator, resamples: int
) -> NDArray[np.float64]:
    size = len(values_Q)
    rows = max(1, _CHUNK // size)
    return np.concatenate(
        [
            values_Q[random.integers(size, size=(min(rows, resamples - start), size))].mean(axis=1)
            for start in range(0, resamples, rows)
        ]
    )
