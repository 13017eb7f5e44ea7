"""What every hypernetwork is: it reads passages and makes an expert of each (GenPoE sec. 3.2).

A hypernetwork is two classes in one file: its settings, which Hydra builds from
``conf/hypernet/NAME.yaml`` and which a checkpoint keeps, and the network itself. Training,
checkpoints, injection and evaluation know nothing else about it.

Shapes: P passages, S passage tokens, M positions, D d_model.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from backbone.model import Backbone
from genpoe.experts import Experts
from plumbing.settings import check_types


@dataclass(frozen=True)
class PassageTokens:
    """The token ids of some passages, padded on the right.

    Attributes:
        input_ids_PS: Token ids; at padding they mean nothing.
        attention_mask_PS: 1 at tokens, 0 at padding.
    """

    input_ids_PS: Tensor
    attention_mask_PS: Tensor


class StartSample(Protocol):
    """What a hypernetwork may look at, once, before its training begins.

    Each part is computed when it is asked for, so a hypernetwork that needs none costs nothing.
    """

    def passages(self) -> Iterator[PassageTokens]:
        """Batches of (a sample of) the training passages, on the hypernetwork's device."""
        ...

    def ffn(self) -> tuple[Tensor, Tensor]:
        """Inputs and outputs ``[M, D]`` of the expert layer's FFN where answers are predicted."""
        ...


@dataclass(frozen=True, kw_only=True)
class HypernetSettings(ABC):
    """Typed settings of a hypernetwork: a value of another type is an error that names it.

    A subclass adds its own fields. A new setting is one field here and one line of YAML.

    Attributes:
        layer: Index of the decoder layer that gets the experts, from 0.

    Raises:
        ValueError: If a setting has another type.
    """

    layer: int

    # Settings that may differ when a training goes on: the weights mean the same under all values.
    TRAINING_ONLY: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        check_types(self)

    @abstractmethod
    def build(self, backbone: Backbone) -> Hypernet:
        """An untrained hypernetwork with these settings, for one backbone."""

    def saved(self) -> dict[str, Any]:
        """Plain values for a checkpoint; `genpoe.hypernet.saved` makes the settings of them."""
        return {"class": f"{type(self).__module__}.{type(self).__qualname__}", **asdict(self)}


class Hypernet(nn.Module, ABC):
    """Reads passages and makes one expert of each.

    Args:
        backbone: The frozen model that the experts are for. It is no submodule: none of its
            weights is in a checkpoint or in an optimiser.
        settings: Its settings.
    """

    started: Tensor

    def __init__(self, backbone: Backbone, settings: HypernetSettings) -> None:
        super().__init__()
        self.backbone = backbone
        self.settings = settings
        self.register_buffer("started", torch.tensor(False))  # whether `start` was called

    @abstractmethod
    def encode(self, passages: PassageTokens) -> Any:
        """The code of P passages: what `experts` needs to know of them, without gradients."""

    @abstractmethod
    def experts(self, code: Any, noise: torch.Generator | None = None) -> Experts:
        """Generate one expert for each passage.

        Args:
            code: What `encode` returned for P passages.
            noise: Draws the noise of training, if there is any; None outside training.

        Returns:
            P sets of K = 1 expert.
        """

    @torch.no_grad()
    def start(self, sample: StartSample) -> None:
        """Fit what starts from data, once in a training. By default nothing does."""
        self.started.fill_(True)

    def common_parameters(self) -> list[nn.Parameter]:
        """Those of the expert common to all passages, whose rate is ``optim.common_lr_scale``.

        By default there are none.
        """
        return []

    def cast(self, dtype: torch.dtype) -> Hypernet:
        """Let what can be computed in another dtype be so, for inference; returns itself.

        By default that is everything.
        """
        return self.to(dtype)

    def forward(self, passages: PassageTokens, noise: torch.Generator | None = None) -> Experts:
        """One expert for each passage: `encode`, then `experts`."""
        with torch.no_grad():
            code = self.encode(passages)
        return self.experts(code, noise)
