"""ROME (Meng et al. 2022): one fact as a change of rank one of one down projection.

With the subject's key k and the value v* that is wanted for it,

    W' = W + (v* - W k) (C^-1 k)^T / (k^T C^-1 k),

the minimiser of ``tr(D C D^T)`` under ``W' k = v*``.

The key is the mean over all contexts, and v* = W k_plain + delta. With ``keys=released``, C^-1 k
has the mean key and everything else the plain prompt's, as in the released code; then W' k = v*
holds for the plain key alone.

Deviation: the authors' key is the mean in one place and the plain one in two; the default is the
mean throughout.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from backbone.model import Backbone
from genpoe.editors.editor import Editor
from genpoe.editors.parts.covariance import Covariances
from genpoe.editors.parts.facts import EncodedFact
from genpoe.editors.parts.places import find_places
from genpoe.editors.parts.ridge import solve_positive
from genpoe.editors.parts.subjects import sample_contexts, subject_keys, subject_prompts
from genpoe.editors.parts.values import ValueProblem, ValueSettings, part_above
from plumbing.settings import check_choice, check_seed, check_types


@dataclass(frozen=True)
class ROMESettings:
    """The settings of ROME.

    Attributes:
        layer: The layer whose down projection is edited.
        keys: Which keys the update has: mean (one key throughout) or released.
        adjust: Whether the covariance counts (``mom2_adjustment``); otherwise C = I.
        value: How the value is optimised.
        seed: The seed of the contexts.
    """

    layer: int
    keys: str = "mean"
    adjust: bool = False
    value: ValueSettings = field(
        default_factory=lambda: ValueSettings(context_tokens=(5, 10), contexts=10)
    )
    seed: int = 0

    def __post_init__(self) -> None:
        check_types(self)
        check_choice("keys", self.keys, ("mean", "released"))
        check_seed(self.seed)


def rome_update(gap: Tensor, key: Tensor, direction: Tensor) -> Tensor:
    """``(v* - W k) d^T / (k^T d)``, ``[o, i]``, with d = C^-1 k.

    Args:
        gap: v* - W k, ``[o]``.
        key: k, ``[i]``.
        direction: d, ``[i]``.
    """
    return torch.outer(gap, direction) / (key @ direction)


class ROME(Editor):
    """Edits facts that name their subjects, one after the other.

    Args:
        backbone: The model.
        settings: The settings.
        statistics: The covariance of its layer, computed on the same, untouched model; needed only
            with ``adjust``.

    Attributes:
        place: The down projection.

    Raises:
        SettingValueError: If the layer is out of range.
        ValueError: If ``adjust`` is set without statistics.
        StatisticsError: If the covariance is that of another model, or of another layer.
    """

    needs_subject: ClassVar[bool] = True

    def __init__(
        self, backbone: Backbone, settings: ROMESettings, statistics: Covariances | None = None
    ) -> None:
        super().__init__(backbone)
        self.settings = settings
        backbone.ffn(settings.layer)  # the error names the setting `layer`
        (self.place,) = find_places(backbone, [settings.layer])
        self._covariance: Tensor | None = None
        if settings.adjust:
            if statistics is None:
                raise ValueError("adjust=true needs the layer's covariance; give statistics")
            statistics.check(backbone)
            self._covariance = statistics.of(settings.layer).to(backbone.device)
        self._above = part_above(backbone, self.place)
        value = settings.value
        self.contexts = sample_contexts(
            backbone, value.context_tokens, value.contexts, settings.seed
        )

    def _places(self) -> Sequence[str]:
        return [self.place.parameter]

    def _apply(self, facts: Sequence[EncodedFact]) -> None:
        for fact in facts:
            self._apply_one(fact)

    def _apply_one(self, fact: EncodedFact) -> None:
        prompts = subject_prompts(self.backbone, fact, self.contexts)
        module = self.place.block.module
        problem = ValueProblem(self.backbone, prompts, module, self.settings.value, self._above)
        value = problem.optimise(self._check_loss, fact)
        if value.is_stuck and value.losses[0] > self.settings.value.stop:
            self._stuck.append(fact.fact.id)
        (keys,) = subject_keys(self.backbone, self.place, [prompts])
        mean, plain = keys.mean(0), keys[0]
        weight = self._weight(self.place)
        key = mean if self.settings.keys == "mean" else plain
        direction = mean
        if self._covariance is not None:
            direction = solve_positive(self._covariance, mean[:, None], "the covariance")[:, 0]
        gap = weight @ plain + value.delta.double() - weight @ key
        self._write({self.place: weight + rome_update(gap, key, direction)})
