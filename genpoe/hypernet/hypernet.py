"""The interface of hypernetworks, which make an expert from each passage (GenPoE sec. 3.2).

A hypernetwork is two classes in one file: its settings and the network itself. Hydra builds the
settings from ``conf/hypernet/NAME.yaml``, and a checkpoint keeps them. Training, checkpoints,
injection and evaluation know nothing else about it.

Shapes: P passages, S passage tokens, N questions, T tokens, M positions, D d_model.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from backbone.model import Backbone
from genpoe.experts import Experts, GeneratedExperts, Looked, Looks
from plumbing.mounts import SettingValueError
from plumbing.settings import check_types


@dataclass(frozen=True)
class PassageTokens:
    """The token ids of some passages, padded on the right.

    Attributes:
        input_ids_PS: Token ids; those at padding have no meaning.
        attention_mask_PS: 1 at tokens, 0 at padding.
        states_PSD: The frozen states that `Hypernet.reads_layer` names, where they are known.
    """

    input_ids_PS: Tensor
    attention_mask_PS: Tensor
    states_PSD: Tensor | None = None


class StartSample(Protocol):
    """Data that a hypernetwork may look at once, before its training begins.

    Each part is computed only when it is asked for.
    """

    def passages(self) -> Iterator[PassageTokens]:
        """Batches of a sample of the training passages, on the hypernetwork's device."""
        ...

    def ffn(self) -> tuple[Tensor, Tensor]:
        """Inputs and outputs ``[M, D]`` of the expert layer's FFN where answers are predicted."""
        ...

    def seen(self, looks: Looks) -> list[Tensor]:
        """What experts would see there, each ``[M, D]``: the FFN's input and the earlier states."""
        ...


@dataclass(frozen=True, kw_only=True)
class HypernetSettings(ABC):
    """Typed settings of a hypernetwork. A subclass adds its own fields.

    A new setting is one field of the subclass and one line of YAML.

    Attributes:
        layer: Index of the decoder layer that gets the experts, from 0.

    Raises:
        ValueError: If a setting has another type; the message names the setting.
    """

    layer: int

    # These settings may differ when a training goes on, because no weight depends on their values.
    TRAINING_ONLY: ClassVar[frozenset[str]] = frozenset()
    # Settings that earlier versions had, with the values at which they changed nothing.
    GONE: ClassVar[Mapping[str, Any]] = {}

    def __post_init__(self) -> None:
        check_types(self)

    @abstractmethod
    def build(self, backbone: Backbone) -> Hypernet:
        """Make an untrained hypernetwork with these settings, for one backbone."""

    def saved(self) -> dict[str, Any]:
        """Plain values for a checkpoint, from which `read_settings` makes the settings again."""
        return {"class": f"{type(self).__module__}.{type(self).__qualname__}", **asdict(self)}


class Hypernet(nn.Module, ABC):
    """A network that reads passages and makes one expert from each.

    Args:
        backbone: The frozen model for which the experts are made. It is no submodule, so that its
            weights are in no checkpoint and in no optimiser.
        settings: The hypernetwork's settings.
    """

    started: Tensor

    # The layer whose frozen input states `encode` reads; a training computes them only once.
    reads_layer: int | None = None
    # What the experts look at besides the FFN's input.
    looks: Looks | None = None

    def __init__(self, backbone: Backbone, settings: HypernetSettings) -> None:
        super().__init__()
        self.backbone = backbone
        self.settings = settings
        self.register_buffer("started", torch.tensor(False))  # true once `start` was called

    @abstractmethod
    def encode(self, passages: PassageTokens) -> Any:
        """Encode P passages into what `experts` needs to know of them; no gradients flow here."""

    def code(self, encoded: Any, noise: torch.Generator | None = None) -> Any:
        """What must be kept of passages in order to make their experts again.

        By default it is all that `encode` returned.

        Args:
            encoded: What `encode` returned for P passages.
            noise: Draws the noise of training; None outside training.
        """
        return encoded

    @abstractmethod
    def experts(self, code: Any, noise: torch.Generator | None = None) -> GeneratedExperts:
        """Generate one expert for each passage.

        Args:
            code: What `encode` or `code` returned for P passages.
            noise: Draws the noise of training; None outside training.

        Returns:
            P sets of K = 1 expert.
        """

    @torch.no_grad()
    def start(self, sample: StartSample) -> None:
        """Set initial values from data, once at the beginning of a training.

        By default no value comes from data.
        """
        self.started.fill_(True)

    def common_parameters(self) -> list[nn.Parameter]:
        """The parameters of the expert that is common to all passages; by default there are none.

        Their learning rate is multiplied by ``optim.common_lr_scale``.
        """
        return []

    def fast_parameters(self) -> list[tuple[list[nn.Parameter], float]]:
        """Other parameters that need larger steps, and the factor on their learning rate.

        They have no weight decay. By default there are none.
        """
        return []

    def extra_loss(
        self,
        experts: GeneratedExperts,
        looked: Looked | None,
        rows_N: Tensor | None,
        targets_NT: Tensor,
        wrong_N: Tensor | None = None,
    ) -> Tensor | None:
        """What is added in training to the answer nll of each question; by default nothing.

        Args:
            experts: The experts that were injected.
            looked: Where they looked.
            rows_N: The index of each question's set; None: each has its own.
            targets_NT: The token that each position predicts, -100 where none is scored.
            wrong_N: True for questions that have only passages of others; None: there are none.

        Returns:
            ``[N]``, or None.
        """
        return None

    def common_expert(self) -> Experts:
        """The expert that is common to all passages, as one set of K = 1: a control.

        It knows what all answers have in common, such as their form, and nothing of a passage.

        Raises:
            ValueError: If this hypernetwork has no such expert, as by default.
        """
        raise SettingValueError(
            "experts",
            f"{type(self).__name__} has no expert that is common to all passages, got "
            "experts=common",
            "set {} to another control",
        )

    def cast(self, dtype: torch.dtype) -> Hypernet:
        """For inference, compute in another dtype as far as possible; returns itself.

        By default everything is computed in that dtype.
        """
        return self.to(dtype)

    def ready(self, experts: GeneratedExperts) -> GeneratedExperts:
        """Prepare experts for answering one batch of questions, outside training.

        By default they are ready.
        """
        return experts

    def forward(
        self, passages: PassageTokens, noise: torch.Generator | None = None
    ) -> GeneratedExperts:
        """One expert for each passage: `encode`, then `experts`."""
        with torch.no_grad():
            code = self.encode(passages)
        return self.experts(code, noise)
