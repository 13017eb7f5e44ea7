"""How an expert is trained: what a bank's manifest says of it (DMoE sec. 4.3)."""

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
    """The settings that one expert's training depends on; the same for all experts of a bank.

    Attributes:
        lr: AdamW's learning rate, constant (sec. 4.3: 1e-5).
        epochs: Passes over an expert's instances (sec. 4.3: 1).
        batch_size: Instances a step, in their order; the loss is the mean over their labels.
        loss: "answer", or "all": prompts are learnt as well, as PRAG does.
        max_tokens: Of an instance; longer prompts lose their beginning.
        weight_decay: AdamW's.
        betas: AdamW's.
        eps: AdamW's.
        seed: Of the initial experts.
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

    def __post_init__(self) -> None:
        check_types(self)
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise RecipeError(name, f"{name} must be positive, got {getattr(self, name)}")
        if self.max_tokens < 2:
            raise RecipeError("max_tokens", f"max_tokens must be at least 2, got {self.max_tokens}")
        for name in ("lr", "weight_decay", "eps"):
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
        """Plain values, for a manifest."""
        return asdict(self) | {"betas": list(self.betas)}
