"""MEMIT (Meng et al. 2023): many facts at once, spread over several layers.

For every fact a value z of the last edited layer is optimised. Then, layer by layer on the partly
edited model, with the subjects' keys K and R = (z - h now) / (layers left),

    D = R K^T (lambda C + K K^T)^-1,

which minimises ``lambda tr(D C D^T) + |D K - R|^2``.

Shapes: K ``[i, n]``, R ``[o, n]``, C ``[i, i]``, D ``[o, i]``.
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
from genpoe.editors.parts.places import Place, check_adds, find_places
from genpoe.editors.parts.ridge import solve_positive
from genpoe.editors.parts.subjects import (
    SubjectPrompts,
    sample_contexts,
    subject_keys,
    subject_prompts,
    subject_states,
)
from genpoe.editors.parts.values import ValueProblem, ValueSettings, part_above
from plumbing.settings import check_positive, check_seed, check_types


@dataclass(frozen=True)
class MEMITSettings:
    """The settings of MEMIT.

    Attributes:
        layers: The layers whose down projections are edited.
        weight: lambda, how much the covariance counts (``mom2_update_weight``).
        value: How a fact's value is optimised.
        seed: The seed of the contexts.
    """

    layers: Sequence[int]
    weight: float = 2000.0
    value: ValueSettings = field(default_factory=ValueSettings)
    seed: int = 0

    def __post_init__(self) -> None:
        check_types(self)
        check_positive(self, "weight")
        check_seed(self.seed)


def memit_update(covariance: Tensor, keys: Tensor, residuals: Tensor, weight: float) -> Tensor:
    """``R K^T (lambda C + K K^T)^-1``, ``[o, i]``, float64; zero if there is no key."""
    keys, residuals = keys.double(), residuals.double()
    matrix = weight * covariance.to(keys) + keys @ keys.T
    return solve_positive(matrix, keys @ residuals.T, "lambda C + K K^T").T


def half_plain(keys: Tensor) -> Tensor:
    """The mean of the plain prompt's key and of the contexts' mean key: ``[J, i]`` to ``[i]``."""
    return keys[0] if len(keys) == 1 else (keys[0] + keys[1:].mean(0)) / 2


class SpreadEditor(Editor):
    """What MEMIT and AlphaEdit share: values at the last layer, and updates layer by layer.

    Args:
        backbone: The model.
        layers: The edited layers.
        value: How values are optimised.
        seed: The seed of the contexts.

    Attributes:
        places: The down projections, from below.

    Raises:
        SettingValueError: If a layer is out of range.
        UnsupportedBackboneError: If a layer changes what its FFN writes before it is added.
    """

    needs_subject: ClassVar[bool] = True

    def __init__(
        self, backbone: Backbone, layers: Sequence[int], value: ValueSettings, seed: int
    ) -> None:
        super().__init__(backbone)
        self.places = find_places(backbone, layers)
        for place in self.places:
            check_adds(backbone, place)
        self._value = value
        self._above = part_above(backbone, self.places[-1])
        # From the untouched backbone, once: later edits do not change them.
        self.contexts = sample_contexts(backbone, value.context_tokens, value.contexts, seed)

    def _places(self) -> Sequence[str]:
        return [place.parameter for place in self.places]

    def _apply(self, facts: Sequence[EncodedFact]) -> None:
        prompts = [subject_prompts(self.backbone, fact, self.contexts) for fact in facts]
        wanted = torch.stack([self._wanted(each) for each in prompts])
        for number, place in enumerate(self.places):
            each = subject_keys(self.backbone, place, prompts)
            keys = torch.stack([half_plain(keys) for keys in each], 1)
            now = subject_states(self.backbone, self.places[-1].layer, prompts)
            residuals = (wanted - now).T / (len(self.places) - number)
            self._write({place: self._weight(place) + self._update(place, keys, residuals)})

    def _wanted(self, prompts: SubjectPrompts) -> Tensor:
        """z, the state that the last edited layer is to write at the subject ``[D]``."""
        layer = self.backbone.layers[self.places[-1].layer]
        problem = ValueProblem(self.backbone, prompts, layer, self._value, self._above)
        value = problem.optimise(self._check_loss, prompts.encoded)
        if value.is_stuck and value.losses[0] > self._value.stop:
            self._stuck.append(prompts.encoded.fact.id)
        return (value.base + value.delta).double()

    def _update(self, place: Place, keys: Tensor, residuals: Tensor) -> Tensor:
        """The update of one layer ``[o, i]``."""
        raise NotImplementedError


class MEMIT(SpreadEditor):
    """Edits batches of facts that name their subjects.

    Args:
        backbone: The model.
        settings: The settings.
        statistics: The covariances of its layers, computed on the same, untouched model.

    Raises:
        SettingValueError: If a layer is out of range.
        StatisticsError: If the covariances are those of another model, or lack a layer.
        UnsupportedBackboneError: If a layer changes what its FFN writes before it is added.
    """

    def __init__(
        self, backbone: Backbone, settings: MEMITSettings, statistics: Covariances
    ) -> None:
        super().__init__(backbone, settings.layers, settings.value, settings.seed)
        self.settings = settings
        statistics.check(backbone)
        self._covariance = {
            place: statistics.of(place.layer).to(backbone.device) for place in self.places
        }

    def _update(self, place: Place, keys: Tensor, residuals: Tensor) -> Tensor:
        return memit_update(self._covariance[place], keys, residuals, self.settings.weight)
