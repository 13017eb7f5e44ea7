"""UltraEdit (Gu et al. 2025): one gradient and one solve, without training and without a subject.

For each map and each token, u is what the map reads and delta the gradient of what it writes. With
u^ and delta^ normalised by the mean and standard deviation over all edits so far,

    v_t = -eta |u^_t|^2 delta^_t,    dW = V U^T (U U^T + I)^-1.

Deviation: the authors share the statistics among all maps of one shape; here each map has its own.
Deviation: EasyEdit starts the statistics anew at every batch; here they are kept, as in the paper.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from backbone.model import Backbone
from genpoe.editors.by_factors import FactorEditor
from genpoe.editors.parts.facts import EncodedFact
from genpoe.editors.parts.moments import Moments
from genpoe.editors.parts.places import Place, find_places
from genpoe.editors.parts.ridge import ridge_update
from plumbing.settings import check_choice, check_positive, check_types

_RIDGE = 1.0


@dataclass(frozen=True)
class UltraEditSettings:
    """The settings of UltraEdit.

    Attributes:
        layers: The layers whose FFNs are edited.
        projections: Which of their maps: gate, up, down.
        eta: The step.
        tokens: The tokens whose factors count: answer (those that predict the target) or all.
        batch_size: Rows of one forward and backward pass; it changes only the speed.
    """

    layers: Sequence[int]
    projections: Sequence[str] = ("down",)
    eta: float = 1e-3
    tokens: str = "answer"
    batch_size: int = 16

    def __post_init__(self) -> None:
        check_types(self)
        check_positive(self, "eta", "batch_size")
        check_choice("tokens", self.tokens, ("answer", "all"))


class UltraEdit(FactorEditor):
    """Edits by the normalised gradient of a batch.

    Args:
        backbone: The model.
        settings: The settings.

    Attributes:
        places: The maps that it edits.
        moments: The statistics of [u; delta] of each map, over all edits that stand.

    Raises:
        SettingValueError: If a layer is out of range.
        UnsupportedBackboneError: If an FFN has no such map.
    """

    def __init__(self, backbone: Backbone, settings: UltraEditSettings) -> None:
        places = find_places(backbone, settings.layers, settings.projections)
        super().__init__(backbone, places, settings.tokens, settings.batch_size)
        self.settings = settings
        self.moments: Mapping[Place, Moments] = {place: Moments() for place in self.places}

    def _state(self) -> Any:
        return super()._state(), dict(self.moments)

    def _set_state(self, state: Any) -> None:
        super()._set_state(state[0])
        self.moments = state[1]

    def _apply(self, facts: Sequence[EncodedFact]) -> None:
        weights = {}
        for place, (inputs, gradients) in self._factors(facts).items():
            update = self.update(place, inputs, gradients)
            weights[place] = self._weight(place) + update
        self._write(weights)

    def update(self, place: Place, inputs: Tensor, gradients: Tensor) -> Tensor:
        """Add the factors of a batch to the statistics, and compute the update ``[o, i]``.

        Args:
            place: The map.
            inputs: U^T, ``[n, i]``.
            gradients: The gradients of what the map writes, ``[n, o]``.
        """
        joint = torch.cat([inputs, gradients], 1)
        moments = self.moments[place].updated(joint)
        self.moments = {**self.moments, place: moments}
        normal = moments.normalised(joint)
        normal_u, normal_delta = normal[:, : inputs.shape[1]], normal[:, inputs.shape[1] :]
        values = -self.settings.eta * normal_u.square().sum(1, keepdim=True) * normal_delta
        return ridge_update(inputs.T, values.T, _RIDGE)
