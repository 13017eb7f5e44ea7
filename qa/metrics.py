"""Exact match and F1 as SQuAD defines them, and confidence intervals of their means.

Answers are compared after SQuAD's normalisation: they are put into lower case, punctuation and
articles are removed, and runs of white space become one space.

Deviation: in scripts without spaces, such as Chinese, Japanese and Thai, each character is a token,
the punctuation of these scripts is removed, and full-width forms become the usual ones
(`retrieval.unspaced`). All other texts have SQuAD's values exactly.

Shapes: Q questions, R resamples.
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

from retrieval.unspaced import fold_width, spaced, without_punctuation

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)  # ASCII only, as SQuAD has it
_CHUNK = 4_000_000  # The most resampled indices in memory at a time; they take 32 MB.


def normalize_answer(text: str) -> str:
    """SQuAD's normalisation: ``"The U.S. Navy"`` becomes ``"us navy"``."""
    plain = without_punctuation(fold_width(text).lower().translate(_NO_PUNCTUATION))
    return " ".join(_ARTICLES.sub(" ", plain).split())


def answer_words(text: str) -> list[str]:
    """The words of an answer after normalisation, and the characters of scripts without spaces.

    >>> answer_words("The U.S. Navy"), answer_words("北京。")
    (['us', 'navy'], ['北', '京'])
    """
    return spaced(normalize_answer(text)).split()


def exact_match(prediction: str, answers: Sequence[str]) -> float:
    """1.0 if the prediction is one of the answers, word by word after normalisation, else 0.0.

    Raises:
        ValueError: If there is no answer.
    """
    return _best(_exact, prediction, answers)


def f1_score(prediction: str, answers: Sequence[str]) -> float:
    """The harmonic mean of the tokens' precision and recall, between 0 and 1.

    If there are several answers, the one that gives the highest value counts. If the prediction or
    the answer is empty after normalisation, the value is 1 if both are empty and else 0, as in
    SQuAD 2.0.

    Raises:
        ValueError: If there is no answer.
    """
    return _best(_f1, prediction, answers)


def yes_no_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """1.0 if the first word of the prediction is the right one of "yes" and "no", else 0.0."""
    words = normalize_answer(prediction).split()
    return float(bool(words) and words[0] in {normalize_answer(answer) for answer in answers})


def bootstrap_interval(
    values: ArrayLike, seed: int = 0, resamples: int = 2000, level: float = 0.95
) -> tuple[float, float]:
    """The percentile bootstrap interval of the mean of independent values.

    Args:
        values: ``[Q]``, one value for each question.
        seed: The seed of the resampling. Equal seeds give equal intervals.
        resamples: How many samples of Q values are drawn with replacement.
        level: The share of the resampled means that lie in the interval.

    Returns:
        The ends of the interval, in the unit of the values.

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
    """The mean of ``a - b`` over questions, with its bootstrap interval.

    Both methods have answered the same questions. Therefore the questions are resampled, and not
    the values of each method separately: what makes a question hard for both methods cancels out.

    Args:
        a: ``[Q]``, one value for each question.
        b: ``[Q]``, the values of the same questions in the same order.
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
    """EM and F1 in percent over all batches so far and, with DDP, over all ranks.

    This is for Lightning loops of your own, which update it in ``validation_step``. Our own
    evaluation does without, because it keeps the score of every question, for intervals and paired
    differences.

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
        """Add a batch of predictions, and the acceptable answers of each.

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
        """``em`` and ``f1`` over all questions so far, each between 0 and 100."""
        return {"em": 100 * self.em_sum / self.count, "f1": 100 * self.f1_sum / self.count}


def _best(
    score: Callable[[list[str], list[str]], float], prediction: str, answers: Sequence[str]
) -> float:
    if isinstance(answers, str) or not answers:
        raise ValueError(f"expected a list of at least one answer, got {answers!r}")
    predicted = answer_words(prediction)
    return max(score(predicted, answer_words(answer)) for answer in answers)


def _exact(predicted: list[str], expected: list[str]) -> float:
    return float(predicted == expected)


def _f1(predicted: list[str], expected: list[str]) -> float:
    if not predicted or not expected:
        return float(predicted == expected)
    common = sum((Counter(predicted) & Counter(expected)).values())
    return (
        2 * common / (len(predicted) + len(expected))
    )  # This is 2PR / (P + R) without a division by 0.


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
