"""MEND (Mitchell et al. 2022): the gradient of an edit, transformed by a trained network.

    D = -eta sum_t delta~_t u~_t^T

The rank of D is at most the number of tokens.

Deviation: the released code adds this update; we subtract it, as in the paper. EasyEdit trains on
the edit's own prompt; we train on a rephrasing, as the authors do. eta is parametrised by its
logarithm, so that its sign stays.

Shapes: n tokens, i inputs and o outputs of a map.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from genpoe.editors.parts.facts import EncodedFact
from genpoe.editors.parts.places import Place
from genpoe.editors.trained.editor import TrainedEditor
from genpoe.editors.trained.networks import EditNetworks


class MENDNetworks(EditNetworks):
    """The networks of MEND."""

    NAME: ClassVar[str] = "mend"
    _OUTSIDE: ClassVar[bool] = False

    def update(self, place: Place, inputs: Tensor, gradients: Tensor) -> Tensor:
        """``-eta sum_t delta~_t u~_t^T``, ``[o, i]``."""
        new_inputs, new_gradients = self.transformed(place, inputs, gradients)
        return -self.eta(place) * new_gradients.T @ new_inputs


class MEND(TrainedEditor):
    """Edits as many facts by one update as it was trained to, one group after the other.

    The gradients of a group are those of the model with the groups before it.
    """

    NETWORKS: ClassVar[type[EditNetworks]] = MENDNetworks

    def _groups(self, facts: Sequence[EncodedFact]) -> list[Sequence[EncodedFact]]:
        size = self.networks.settings.edits
        return [facts[first : first + size] for first in range(0, len(facts), size)]
