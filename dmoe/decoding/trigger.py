"""When the router is asked: token uncertainty (DMoE eq. 1 and 4), and the other triggers.

Shapes: b rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Protocol

from torch import Tensor

from plumbing.mounts import SettingValueError
from plumbing.settings import check_types

_LOWEST = -80.0  # e to it counts nothing; further down are slow denormal numbers, and -inf


def token_uncertainty(logits_bV: Tensor) -> Tensor:
    """Entropy of the next token's distribution, ``-sum_v p(v) log p(v)`` (DMoE eq. 1).

    With x the logits less their maximum it is ``log sum_v e^x_v - sum_v e^x_v x_v / sum_v e^x_v``:
    one exponential a word, and no logarithm.

    Args:
        logits_bV: Logits of the current effective model, in any dtype; computed in float32.

    Returns:
        ``[b]``, nats.
    """
    x_bV = logits_bV.float()
    x_bV = (x_bV - x_bV.amax(-1, keepdim=True)).clamp_(min=_LOWEST)
    weight_bV = x_bV.exp()
    total_b = weight_bV.sum(-1)
    return total_b.log() - (weight_bV * x_bV).sum(-1) / total_b


class Trigger(Protocol):
    """Decides at which tokens routing takes place."""

    def fires(self, uncertainty: Sequence[float], tokens: Sequence[str]) -> list[bool]:
        """Whether each row triggers at its current token.

        Args:
            uncertainty: b token uncertainties, nats.
            tokens: What names each of the tokens, whatever the batch: its task input and position.
        """
        ...


@dataclass(frozen=True)
class UncertaintyTrigger:
    """Fires where the token uncertainty exceeds a threshold (DMoE eq. 4).

    Attributes:
        threshold: tau, nats (the paper's is 2.0).

    Raises:
        ValueError: If it is negative or no number.
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

    def fires(self, uncertainty: Sequence[float], tokens: Sequence[str]) -> list[bool]:
        """``TU > tau``, row by row."""
        return [value > self.threshold for value in uncertainty]


@dataclass(frozen=True)
class RandomTrigger:
    """Fires at random at a given rate (DMoE Table 6): the same tokens for the same text and seed.

    Attributes:
        rate: Share of tokens; take it from the ``trigger_rate`` of a run with token uncertainty.
        seed: Other seeds, other tokens.

    Raises:
        ValueError: If the rate is not in 0..1.
    """

    rate: float
    seed: int = 0

    def __post_init__(self) -> None:
        check_types(self)
        if not 0 <= self.rate <= 1:
            raise SettingValueError("rate", f"rate must be in 0..1, got {self.rate}")

    def fires(self, uncertainty: Sequence[float], tokens: Sequence[str]) -> list[bool]:
        """Drawn from a hash of the token's name, so that no row depends on another."""
        return [self._draw(token) < self.rate for token in tokens]

    def _draw(self, token: str) -> float:
        """A number in [0, 1), to the 52 bits that a float holds exactly."""
        digest = blake2b(f"{self.seed} {token}".encode(), digest_size=8).digest()
        return (int.from_bytes(digest, "big") >> 12) / 2**52


@dataclass(frozen=True)
class ConstantTrigger:
    """Fires at every token or at none: the ends of the ablation (DMoE Table 6).

    Attributes:
        active: True: at every token. False: never, which is the frozen backbone alone.
    """

    active: bool

    def __post_init__(self) -> None:
        check_types(self)

    def fires(self, uncertainty: Sequence[float], tokens: Sequence[str]) -> list[bool]:
        """The same for every row."""
        return [self.active] * len(tokens)
