"""How an expert is trained, as a bank's manifest records it (DMoE sec. 4.3)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from plumbing.mounts import SettingValueError
from plumbing.settings import check_types

LOSSES = ("answer", "all")


class RecipeError(SettingValueError):
    """A setting of the training that is out of range."""


@dataclass(frozen=True)
class Recipe:
    """The settings that an expert's training depends on. All experts of a bank share them.

    Attributes:
        lr: AdamW's learning rate, which stays constant (1e-5 in sec. 4.3).
        epochs: How often an expert sees each of its instances (once in sec. 4.3).
        batch_size: How many instances a step takes, in their order. The loss is the mean over the
            labels of all of them.
        loss: "answer" trains on the answers alone. "all" trains on the prompts as well, as PRAG
            does.
        max_tokens: The most tokens of an instance. A prompt that is too long loses its beginning.
        weight_decay: AdamW's weight decay.
        betas: AdamW's betas.
        eps: AdamW's epsilon.
        seed: The seed of the initial experts.
        silence: The weight of a penalty on what an expert changes at other passages' questions and
            answers (`dmoe.training.silence`); 0 is the paper's training, without any.

    Raises:
        RecipeError: If a setting is out of range.
    """

    lr: float = 1e-5
    epochs: int = 1
    batch_size: int = 1
    loss: str = "answer"
    max_tokens: int = 512
    weight_decay: float = 0.01
    betas: Sequence[float] = (0.9, 0.999)
    eps: float = 1e-8
    seed: int = 0
    silence: float = 0.0

    def __post_init__(self) -> None:
        check_types(self)
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise RecipeError(name, f"{name} must be positive, got {getattr(self, name)}")
        if self.max_tokens < 2:
            raise RecipeError("max_tokens", f"max_tokens must be at least 2, got {self.max_tokens}")
        for name in ("lr", "weight_decay", "eps", "silence"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise RecipeError(
                    name, f"{name} must be finite and not negative, got {getattr(self, name)}"
                )
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise RecipeError(
                "betas", f"betas must be two numbers in [0, 1), got {list(self.betas)}"
            )
        if self.loss not in LOSSES:
            raise RecipeError("loss", f"loss must be one of {', '.join(LOSSES)}, got {self.loss!r}")
        object.__setattr__(self, "betas", tuple(float(beta) for beta in self.betas))

    def as_dict(self) -> dict[str, Any]:
        """The settings as plain values, for a manifest.

        Without a penalty, they are those of the banks of before it.
        """
        values = asdict(self) | {"betas": list(self.betas)}
        return values if self.silence else {k: v for k, v in values.items() if k != "silence"}

    def check_loud(self, what: str) -> None:
        """Check that no penalty is asked for where nothing computes it.

        Args:
            what: What is trained, in the plural.

        Raises:
            RecipeError: If `silence` is not 0.
        """
        if self.silence:
            raise RecipeError(
                "silence",
                f"silence must be 0, got {self.silence}: only the experts of a bank are trained "
                f"beside other passages' questions, {what} are not",
            )
