"""Triggers, which decide when the router is asked: token uncertainty (DMoE eq. 1, 4) and others.

Shapes: b rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from torch import Tensor

from plumbing.mounts import SettingValueError
from plumbing.settings import check_types
from plumbing.storage.hashing import short_hash

_LOWEST = -80.0  # e^-80 counts nothing; below are denormal numbers, which are slow, and -inf


def token_uncertainty(logits_bV: Tensor) -> Tensor:
    """Compute the entropy of the next token, ``-sum_v p(v) log p(v)`` (DMoE eq. 1).

    If x are the logits minus their maximum, it equals ``log sum_v e^x_v - sum_v e^x_v x_v / sum_v
    e^x_v``. This takes one exponential for each word of the vocabulary, and no logarithm.

    Args:
        logits_bV: The logits of the current effective model, in any dtype. The entropy is computed
            in float32.

    Returns:
        ``[b]``, in nats.
    """
    x_bV = logits_bV.float()
    x_bV = (x_bV - x_bV.amax(-1, keepdim=True)).clamp_(min=_LOWEST)
    weight_bV = x_bV.exp()
    total_b = weight_bV.sum(-1)
    return total_b.log() - (weight_bV * x_bV).sum(-1) / total_b


class NewToken(NamedTuple):
    """What names a token without regard to the batch in which it is decoded.

    Attributes:
        position: How many new tokens stand before it.
        task_input: The text that was asked, such as the question.
    """

    position: int
    task_input: str


class Trigger(Protocol):
    """Decides at which tokens routing takes place."""

    def fires(self, uncertainty: Sequence[float], tokens: Sequence[NewToken]) -> list[bool]:
        """Decide for each row whether it triggers at its current token.

        Args:
            uncertainty: b token uncertainties, in nats.
            tokens: b tokens that are about to be chosen.
        """
        ...


@dataclass(frozen=True)
class UncertaintyTrigger:
    """Fires where the token uncertainty exceeds a threshold (DMoE eq. 4).

    Attributes:
        threshold: The threshold tau, in nats (2.0 in the paper).

    Raises:
        SettingValueError: If it is negative or not a number.
    """

    threshold: float = 2.0

    def __post_init__(self) -> None:
        check_types(self)
        if not self.threshold >= 0:
            raise SettingValueError(
                "threshold",
                f"threshold must not be negative, got {self.threshold}",
                "set {} (nats), or choose trigger=always",
            )

    def fires(self, uncertainty: Sequence[float], tokens: Sequence[NewToken]) -> list[bool]:
        """Fire in the rows with ``TU > tau``."""
        return [value > self.threshold for value in uncertainty]


@dataclass(frozen=True)
class RandomTrigger:
    """Fires at random at a given rate (DMoE Table 6), at the same tokens for equal text and seed.

    Attributes:
        rate: The share of tokens; take it from the ``trigger_rate`` of a run with token
            uncertainty.
        seed: The seed of the draw.

    Raises:
        SettingValueError: If the rate is not in 0..1.
    """

    rate: float
    seed: int = 0

    def __post_init__(self) -> None:
        check_types(self)
        if not 0 <= self.rate <= 1:
            raise SettingValueError("rate", f"rate must be in 0..1, got {self.rate}")

    def fires(self, uncertainty: Sequence[float], tokens: Sequence[NewToken]) -> list[bool]:
        """Draw from a hash of each token's name, so that no row depends on another."""
        return [self._draw(token) < self.rate for token in tokens]

    def _draw(self, token: NewToken) -> float:
        """Draw a number in [0, 1) of 52 bits, which a float holds exactly."""
        hashed = short_hash(f"{self.seed} {token.position} {token.task_input}")
        return (int.from_bytes(hashed, "big") >> 12) / 2**52


class FirstTrigger:
    """Fires at the first new token alone, and leaves the experts in place to the end.

    It is the control of token uncertainty: the experts that a trigger has brought act until the
    next one, so a trigger is worth something only if it does better than this.
    """

    def fires(self, uncertainty: Sequence[float], tokens: Sequence[NewToken]) -> list[bool]:
        """Fire in the rows in which nothing has been decoded yet."""
        return [token.position == 0 for token in tokens]


@dataclass(frozen=True)
class ConstantTrigger:
    """Fires at every token or at none, which are the ends of the ablation (DMoE Table 6).

    Attributes:
        active: Whether it fires. If it never does, the frozen backbone decodes alone.
    """

    active: bool

    def __post_init__(self) -> None:
        check_types(self)

    def fires(self, uncertainty: Sequence[float], tokens: Sequence[NewToken]) -> list[bool]:
        """Fire in every row, or in none."""
        return [self.active] * len(tokens)
