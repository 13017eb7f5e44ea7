"""MALMEN (Tan et al. 2024): many transformed gradients, put together by least squares.

For each token t of all edits together, v_t = -eta (u_t^T u~_t) delta~_t is what u_t is to add to
the map's output. With U and V of all tokens,

    D = V U^T (U U^T + lambda I)^-1 = V (U^T U + lambda I)^-1 U^T,    lambda = exp(theta).

Deviation: eta is parametrised by its logarithm, so that its sign stays.

Shapes: n tokens, i inputs and o outputs of a map, U ``[i, n]``, V ``[o, n]``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from backbone.model import Backbone
from genpoe.editors.parts.facts import EncodedFact
from genpoe.editors.parts.places import Place
from genpoe.editors.parts.ridge import ridge_update
from genpoe.editors.trained.editor import TrainedEditor
from genpoe.editors.trained.networks import EditNetworks, TrainedSettings


class MALMENNetworks(EditNetworks):
    """The networks of MALMEN, with a lambda for each map.

    Attributes:
        theta: The logarithm of lambda of each map; 0 before training.
    """

    NAME: ClassVar[str] = "malmen"
    _OUTSIDE: ClassVar[bool] = True

    def __init__(self, backbone: Backbone, settings: TrainedSettings, seed: int = 0) -> None:
        super().__init__(backbone, settings, seed)
        self.theta = nn.Parameter(torch.zeros(len(self.places)))

    @property
    def step_parameters(self) -> list[nn.Parameter]:
        """The logarithms of eta and lambda, one for each map."""
        return [*super().step_parameters, self.theta]

    def values(self, place: Place, inputs: Tensor, gradients: Tensor) -> Tensor:
        """V^T, ``[n, o]``, in the networks' dtype."""
        new_inputs, new_gradients = self.transformed(place, inputs, gradients)
        shared = (inputs.to(new_inputs.dtype) * new_inputs).sum(1, keepdim=True)
        return -self.eta(place) * shared * new_gradients

    def update(self, place: Place, inputs: Tensor, gradients: Tensor) -> Tensor:
        """``V U^T (U U^T + lambda I)^-1``, ``[o, i]``, float64."""
        values = self.values(place, inputs, gradients)
        ridge = self.theta[self.places.index(place)].double().exp()
        return ridge_update(inputs.T, values.T, ridge)


class MALMEN(TrainedEditor):
    """Edits all facts of a batch by one update."""

    NETWORKS: ClassVar[type[EditNetworks]] = MALMENNetworks

    def _groups(self, facts: Sequence[EncodedFact]) -> list[Sequence[EncodedFact]]:
        return [facts]
