"""AlphaEdit (Fang et al. 2025): MEMIT in the directions that other texts hardly use.

With C = Q L Q^T, let Q_0 be the eigenvectors of the small eigenvalues, P = Q_0 Q_0^T, and S the sum
of K K^T over all earlier batches. Then, with K~ = Q_0^T K,

    D = R K^T P ((S + K K^T) P + mu I)^-1 = R K~^T (Q_0^T S Q_0 + K~ K~^T + mu I)^-1 Q_0^T.

Shapes: K ``[i, n]``, R ``[o, n]``, C ``[i, i]``, Q_0 ``[i, q]``, D ``[o, i]``.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from backbone.model import Backbone
from genpoe.editors.memit import SpreadEditor
from genpoe.editors.parts.covariance import Covariances
from genpoe.editors.parts.places import Place
from genpoe.editors.parts.ridge import solve_positive
from genpoe.editors.parts.values import ValueSettings
from plumbing.mounts import SettingValueError
from plumbing.settings import check_positive, check_seed, check_types

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class AlphaEditSettings:
    """The settings of AlphaEdit.

    Attributes:
        layers: The layers whose down projections are edited.
        share: The share of all directions that may change, between 0 and 1: those of the smallest
            eigenvalues. None: ``threshold`` says it.
        threshold: The eigenvalue below which a direction may change. None: ``share`` says it.
        mu: The factor of the ridge.
        value: How a fact's value is optimised.
        seed: The seed of the contexts.
    """

    layers: Sequence[int]
    share: float | None = 0.8
    threshold: float | None = None
    mu: float = 10.0
    value: ValueSettings = field(default_factory=ValueSettings)
    seed: int = 0

    def __post_init__(self) -> None:
        check_types(self)
        check_positive(self, "mu")
        check_seed(self.seed)
        if (self.share is None) == (self.threshold is None):
            raise SettingValueError(
                "share",
                f"expected one of share and threshold, got share={self.share} and "
                f"threshold={self.threshold}",
                "set {} or threshold to null",
            )
        if self.share is not None and not 0 < self.share < 1:
            raise SettingValueError(
                "share", f"share must lie between 0 and 1, neither of them, got {self.share}"
            )


def small_directions(covariance: Tensor, share: float | None, threshold: float | None) -> Tensor:
    """Q_0, the eigenvectors of a covariance's small eigenvalues ``[i, q]``, float64.

    Raises:
        SettingValueError: If no direction or every direction is small.
    """
    values, vectors = torch.linalg.eigh(covariance.double())
    count = round(share * len(values)) if share is not None else int((values < threshold).sum())
    if not 0 < count < len(values):
        raise SettingValueError(
            "share" if threshold is None else "threshold",
            f"some of the {len(values)} directions must be free to change, and not all, got "
            f"{count}",
        )
    return vectors[:, :count]


def alphaedit_update(
    basis: Tensor, keys: Tensor, residuals: Tensor, earlier: Tensor, mu: float
) -> Tensor:
    """The update ``[o, i]``, float64.

    Args:
        basis: Q_0.
        keys: K.
        residuals: R.
        earlier: The keys of all earlier batches ``[i, m]``, whose K K^T is S.
        mu: The factor of the ridge.
    """
    inner, before = basis.T @ keys.double(), basis.T @ earlier.double()
    matrix = before @ before.T + inner @ inner.T + mu * torch.eye(len(inner)).to(inner)
    return (basis @ solve_positive(matrix, inner @ residuals.double().T, "the keys' moment")).T


class AlphaEdit(SpreadEditor):
    """Edits batches of facts that name their subjects, and spares what other texts use.

    Args:
        backbone: The model.
        settings: The settings.
        statistics: The covariances of its layers, computed on the same, untouched model.

    Attributes:
        shares: The share of the directions that may change, by layer.

    Raises:
        SettingValueError: If a layer is out of range, or if no direction or every one may change.
        StatisticsError: If the covariances are those of another model, or lack a layer.
        UnsupportedBackboneError: If a layer changes what its FFN writes before it is added.
    """

    def __init__(
        self, backbone: Backbone, settings: AlphaEditSettings, statistics: Covariances
    ) -> None:
        super().__init__(backbone, settings.layers, settings.value, settings.seed)
        self.settings = settings
        statistics.check(backbone)
        self._basis: dict[Place, Tensor] = {}
        for place in self.places:
            covariance = statistics.of(place.layer)
            basis = small_directions(covariance, settings.share, settings.threshold)
            self._basis[place] = basis.to(backbone.device)
        self.shares = {p.layer: b.shape[1] / b.shape[0] for p, b in self._basis.items()}
        self._keys: Mapping[Place, tuple[Tensor, ...]] = dict.fromkeys(self.places, ())
        said = ", ".join(f"{layer}: {share:.1%}" for layer, share in self.shares.items())
        log.info("directions that AlphaEdit may change, by layer: %s", said)

    def _state(self) -> Any:
        return super()._state(), self._keys

    def _set_state(self, state: Any) -> None:
        super()._set_state(state[0])
        self._keys = state[1]

    def _update(self, place: Place, keys: Tensor, residuals: Tensor) -> Tensor:
        earlier = torch.cat([keys[:, :0], *self._keys[place]], 1)
        self._keys = {**self._keys, place: (*self._keys[place], keys)}
        return alphaedit_update(self._basis[place], keys, residuals, earlier, self.settings.mu)
