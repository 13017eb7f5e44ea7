"""What editors share that need nothing but gradients: the factors of a batch, token by token.

Shapes: n tokens, i inputs and o outputs of a map.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from backbone.model import Backbone
from genpoe.editors.editor import Editor
from genpoe.editors.parts.factors import gradient_factors, positions
from genpoe.editors.parts.facts import EncodedFact
from genpoe.editors.parts.places import Place
from genpoe.editors.parts.rows import rows_of


class FactorEditor(Editor):
    """An editor that makes its updates of the gradient factors of a batch.

    Args:
        backbone: The model.
        places: The maps that it edits.
        tokens: The tokens whose factors count: answer (those that predict the target) or all.
        batch_size: Rows of one forward and backward pass; it changes only the speed.
        sinks: Whether the very first token may count.

    Attributes:
        places: The maps that it edits.
    """

    def __init__(
        self,
        backbone: Backbone,
        places: Sequence[Place],
        tokens: str,
        batch_size: int = 16,
        sinks: bool = True,
    ) -> None:
        super().__init__(backbone)
        self.places = places
        self._batch_size = batch_size
        self._tokens = tokens
        self._sinks = sinks

    def _places(self) -> Sequence[str]:
        return [place.parameter for place in self.places]

    def _factors(self, facts: Sequence[EncodedFact]) -> dict[Place, tuple[Tensor, Tensor]]:
        """What each map reads ``[n, i]``, and the gradients of what it writes ``[n, o]``, float64.

        The model is read as it is now.

        Raises:
            EditError: If the loss of a fact is not finite.
        """
        found: dict[Place, list[tuple[Tensor, Tensor]]] = {place: [] for place in self.places}
        for first in range(0, len(facts), self._batch_size):
            some = facts[first : first + self._batch_size]
            rows = rows_of(self.backbone, some)
            factors, nll = gradient_factors(self.backbone, self.places, rows)
            for loss, fact in zip(nll, some, strict=True):
                self._check_loss(loss, fact, 1)
            where = positions(rows, self._tokens, self._sinks)
            for place, factor in factors.items():
                found[place].append(factor.at(*where))
        joined = {}
        for place, each in found.items():
            inputs, gradients = zip(*each, strict=True)
            joined[place] = torch.cat(inputs).double(), torch.cat(gradients).double()
        return joined
