"""Exact match and F1 as SQuAD defines them; `qa.statistics` has the intervals of their means.

Answers are compared after SQuAD's normalisation: they are put into lower case, punctuation and
articles are removed, and runs of white space become one space.

Deviation: in scripts without spaces, such as Chinese, Japanese and Thai, each character is a token,
the punctuation of these scripts is removed, and full-width forms become the usual ones
(`retrieval.unspaced`). All other texts have SQuAD's values exactly.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from retrieval.unspaced import fold_width, spaced, without_punctuation

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)  # ASCII only, as SQuAD has it


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
