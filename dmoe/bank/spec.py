"""What all experts of a bank have in common, as its manifest says it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Self

from dmoe.bank.card import expert_card
from dmoe.bank.layout import ExpertLayout
from qa.bank.errors import BankError
from qa.bank.spec import Spec, json_values
from qa.prompts import PROMPT_OF_0_1


@dataclass(frozen=True)
class BankSpec(Spec):
    """What all experts of a bank have in common.

    Attributes:
        backbone: The name of the model that the experts belong to.
        backbone_sha256: The hash of that model, `backbone.model.Backbone.fingerprint`.
        layout: The tensors of an expert, and the dtype that they are stored in.
        alpha: The numerator of LoRA's scale: an expert adds ``alpha / rank * B A x``.
        recipe: Everything about the training that decides the result, as plain JSON values.

    Raises:
        BankError: If alpha is not positive, or if the recipe holds other than JSON values.
    """

    backbone: str
    backbone_sha256: str
    layout: ExpertLayout
    alpha: float
    recipe: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not (self.alpha > 0 and math.isfinite(self.alpha)):
            raise BankError(f"alpha must be positive, got {self.alpha}")
        object.__setattr__(self, "recipe", json_values(self.recipe, "a recipe"))
        object.__setattr__(self, "alpha", float(self.alpha))

    @property
    def prompt(self) -> str | None:
        """The `qa.prompts.prompt_template` of the training; None if no question was asked in it."""
        prompt: str | None = self.told().get("recipe.prompt")
        return prompt

    def to_json(self) -> dict[str, Any]:
        """Return the spec as plain JSON values."""
        return {
            "backbone": self.backbone,
            "backbone_sha256": self.backbone_sha256,
            **self.layout.to_json(),
            "alpha": self.alpha,
            "recipe": self.recipe,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Make a spec of what ``to_json`` returned.

        Raises:
            BankError: If a value cannot be used.
            KeyError: If a value is missing.
        """
        layout = ExpertLayout(dict(value["shapes"]), value["dtype"])
        names = ("backbone", "backbone_sha256", "alpha", "recipe")
        return cls(layout=layout, **{name: value[name] for name in names})

    def card(self, rows: int, shards: int) -> str:
        """The card of a bank of experts, in Markdown."""
        return expert_card(self, rows, shards)

    def told(self) -> dict[str, Any]:
        """The values under dotted keys.

        A bank of version 0.1 does not say its prompt, and counts as made with the prompt of that
        version.
        """
        formats = self.recipe.get("formats")
        asks = isinstance(formats, list) and any(str(form).startswith("qa") for form in formats)
        return {**({"recipe.prompt": PROMPT_OF_0_1} if asks else {}), **super().told()}
