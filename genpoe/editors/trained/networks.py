"""The networks of MEND and MALMEN: from the gradient factors of an edit to better ones.

For each token of an edit, u is what a map reads and delta the gradient of what it writes. All maps
of one shape share a network, and each has a scale s and a shift t of its own. With z = [norm(u);
norm(delta)], one block is

    MEND:    z <- z + ReLU(s * (A B z + b) + t)
    MALMEN:  z <- z + s * ReLU(A B z + b) + t

and the result is split into u~ and delta~. As A, b and t begin at zero, so does what a block adds.
ReLU has the derivative 1 at zero here; with 0, nothing would ever be learnt.

norm(x) is (x - mean) / (std + 1e-7), with statistics of training edits, float64, which are then
kept. Deviation: the authors update them while they train.

Shapes: n tokens, i inputs and o outputs of a map, z = i + o, r rank.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from backbone.model import Backbone
from genpoe.editors.parts.moments import Moments
from genpoe.editors.parts.places import Place, find_places
from plumbing.mounts import SettingValueError
from plumbing.settings import check_choice, check_positive, check_types


@dataclass(frozen=True)
class TrainedSettings:
    """The settings of an editor that is trained.

    Attributes:
        layers: The layers whose FFNs are edited.
        projections: Which of their maps: gate, up, down.
        tokens: The tokens whose factors count: answer (those that predict the target) or all but
            the first.
        rank: r.
        blocks: The blocks of a network.
        normalise: Whether the factors are normalised.
        eta: The step of every map before training.
        edits: The edits of one training step. MEND makes one update of as many facts, also later.
        accumulate: The training steps that share one step of the optimiser.
        clip: The largest norm of the gradient.
        lr: Adam's learning rate.
        eta_lr: Adam's learning rate of the logarithms of eta and lambda.
        edit_weight: The factor of the negative log-likelihood of the target behind a rephrasing.
        locality_weight: The factor of the divergence behind a locality prompt.
    """

    layers: Sequence[int]
    projections: Sequence[str] = ("down",)
    tokens: str = "answer"
    rank: int = 256
    blocks: int = 2
    normalise: bool = True
    eta: float = 1e-4
    edits: int = 8
    accumulate: int = 1
    clip: float = 1.0
    lr: float = 1e-4
    eta_lr: float = 1e-3
    edit_weight: float = 1.0
    locality_weight: float = 1.0

    TRAINING_ONLY: ClassVar[frozenset[str]] = frozenset(
        ("eta", "accumulate", "clip", "lr", "eta_lr", "edit_weight", "locality_weight")
    )

    def __post_init__(self) -> None:
        check_types(self)
        check_positive(self, "rank", "eta", "edits", "accumulate", "clip", "lr", "eta_lr")
        check_choice("tokens", self.tokens, ("answer", "all"))
        for name in ("blocks", "edit_weight", "locality_weight"):
            if getattr(self, name) < 0:
                raise SettingValueError(
                    name, f"{name} must not be negative, got {getattr(self, name)}"
                )

    def saved(self) -> dict[str, Any]:
        """The settings as plain values."""
        values = asdict(self)
        return {k: list(v) if isinstance(v, list | tuple) else v for k, v in values.items()}


class _Block(nn.Module):
    """One block of a network; ``outside`` is MALMEN's form."""

    def __init__(self, width: int, rank: int, places: int, outside: bool, chance: Any) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.zeros(width, rank))
        self.b = nn.Parameter(torch.randn(rank, width, generator=chance) / math.sqrt(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.scale = nn.Parameter(torch.ones(places, width))
        self.shift = nn.Parameter(torch.zeros(places, width))
        self._outside = outside

    def forward(self, z: Tensor, place: int) -> Tensor:
        added = z @ self.b.T @ self.a.T + self.bias
        scale, shift = self.scale[place], self.shift[place]
        if self._outside:
            return z + scale * added.clamp(min=0) + shift
        return z + (scale * added + shift).clamp(min=0)  # its derivative at zero is 1


class EditNetworks(nn.Module, ABC):
    """The networks of an editor, one for each shape of the maps that it edits.

    Args:
        backbone: The model, which is no submodule.
        settings: The settings.
        seed: The seed of the initial weights.

    Attributes:
        places: The maps.

    Raises:
        SettingValueError: If a layer is out of range.
        UnsupportedBackboneError: If an FFN has no such map.
    """

    NAME: ClassVar[str]
    _OUTSIDE: ClassVar[bool]

    counts: Tensor

    def __init__(self, backbone: Backbone, settings: TrainedSettings, seed: int = 0) -> None:
        super().__init__()
        self.settings = settings
        self.places = find_places(backbone, settings.layers, settings.projections)
        chance = torch.Generator().manual_seed(seed)
        shapes = [tuple(place.weight.shape) for place in self.places]
        self._network = [f"{o}x{i}" for o, i in shapes]
        self._row = [self._network[:n].count(name) for n, name in enumerate(self._network)]
        self.networks = nn.ModuleDict()
        for name, (o, i) in dict(zip(self._network, shapes, strict=True)).items():
            count = self._network.count(name)
            self.networks[name] = nn.ModuleList(
                _Block(o + i, settings.rank, count, self._OUTSIDE, chance)
                for _ in range(settings.blocks)
            )
        self.log_eta = nn.Parameter(torch.full((len(self.places),), math.log(settings.eta)))
        # Whole numbers, because in floats of half precision 256 + 1 = 256.
        self.register_buffer("counts", torch.zeros(len(self.places), dtype=torch.long))
        for number, (o, i) in enumerate(shapes):
            self.register_buffer(f"mean_{number}", torch.zeros(o + i).double())
            self.register_buffer(f"squares_{number}", torch.zeros(o + i).double())

    @property
    def started(self) -> bool:
        """Whether the statistics are there."""
        return not self.settings.normalise or bool(self.counts.all())

    @property
    def step_parameters(self) -> list[nn.Parameter]:
        """What is no weight of a network: the logarithms of eta, one for each map."""
        return [self.log_eta]

    def moments(self, place: Place) -> Moments:
        """The statistics of [u; delta] of a map."""
        number = self.places.index(place)
        mean, squares = (getattr(self, f"{name}_{number}") for name in ("mean", "squares"))
        return Moments(int(self.counts[number]), mean, squares)

    def set_moments(self, moments: Mapping[Place, Moments]) -> None:
        """Set the statistics of maps, which stay from then on."""
        for place, each in moments.items():
            number = self.places.index(place)
            self.counts[number] = each.count
            getattr(self, f"mean_{number}").copy_(each.mean)
            getattr(self, f"squares_{number}").copy_(each.squares)

    def transformed(self, place: Place, inputs: Tensor, gradients: Tensor) -> tuple[Tensor, Tensor]:
        """The transformed factors, ``[n, i]`` and ``[n, o]``, in the networks' dtype."""
        number = self.places.index(place)
        z = torch.cat([inputs, gradients], 1)
        if self.settings.normalise:
            z = self.moments(place).normalised(z)
        z = z.to(self.log_eta.dtype)
        blocks: Any = self.networks[self._network[number]]
        for block in blocks:
            z = block(z, self._row[number])
        return z[:, : inputs.shape[1]], z[:, inputs.shape[1] :]

    def eta(self, place: Place) -> Tensor:
        """The step of a map, positive."""
        return self.log_eta[self.places.index(place)].exp()

    @abstractmethod
    def update(self, place: Place, inputs: Tensor, gradients: Tensor) -> Tensor:
        """The update ``[o, i]`` of a map; gradients reach every parameter.

        Args:
            place: The map.
            inputs: u of each token, ``[n, i]``.
            gradients: delta of each token, ``[n, o]``.
        """
