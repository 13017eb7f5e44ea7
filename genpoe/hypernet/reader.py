"""The settings of the hypernetwork that reads; `genpoe.hypernet.reader_network` is the network.

Deviation: the paper's hypernetwork (GenPoE eq. 4) sees a passage as the mean of its word
embeddings. This one is ours; the paper's is `genpoe.hypernet.mean.MeanHypernet`.

Checkpoints and banks of codes name the settings by this module, so they stay in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from backbone.model import Backbone
from genpoe.hypernet.hypernet import HypernetSettings
from genpoe.hypernet.reader_experts import MIXINGS
from genpoe.hypernet.reader_network import ReaderHypernet
from plumbing.mounts import SettingValueError
from plumbing.settings import check_choice, check_positive

__all__ = ["ReaderHypernet", "ReaderSettings"]


@dataclass(frozen=True, kw_only=True)
class ReaderSettings(HypernetSettings):
    """Settings of the hypernetwork that reads.

    Attributes:
        read_layer: A passage is read as the states that enter this layer, counted from 0. They are
            the output of as many layers.
        query_layers: The query is made of the FFN's input and of the states that enter these
            layers.
        hidden_width: H, the width between the two linear layers of keys and of queries.
        key_width: U, the width of a key.
        lexical: Whether keys and queries also have the words around a place, and those of the
            question.
        follow: Whether keys and queries also have the word before a place, and the current word.
        follow_words: How many words before a place these are. More of them tell the place where a
            span goes on from others that follow the same word.
        common_rank: The rank of the expert that is common to all passages.
        mixing: How K passages are mixed. "softmax": one softmax over the units of all K, with the
            logarithm of the relevance (GenPoE eq. 9) added to a passage's units. "experts": one
            softmax for each passage, weighted by its relevance (eq. 6).
        copy_loss: The weight in training of the attention's own loss, which asks it to look at the
            word that is to be written, or at the null unit if no passage has it or if all passages
            are those of others.
        dropout: The share of the inputs of keys and queries that is set to 0 in training.
        scalar_lr_scale: Factor on the learning rate of the few scalars of lexical keys.

    Raises:
        ValueError: If a size is not positive, if a share is not between 0 and 1, or if a name is
            unknown.
    """

    read_layer: int
    query_layers: Sequence[int] = ()
    hidden_width: int = 256
    key_width: int = 64
    lexical: bool = True
    follow: bool = True
    follow_words: int = 1
    common_rank: int = 16
    mixing: str = "softmax"
    copy_loss: float = 0.5
    dropout: float = 0.1
    scalar_lr_scale: float = 30.0

    TRAINING_ONLY: ClassVar[frozenset[str]] = frozenset(
        {"mixing", "copy_loss", "dropout", "scalar_lr_scale"}
    )
    GONE: ClassVar[Mapping[str, Any]] = {"prior": False, "look_ahead": 0, "ahead": False}

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "query_layers", tuple(self.query_layers))
        check_positive(self, "hidden_width", "key_width", "common_rank", "scalar_lr_scale")
        check_positive(self, "follow_words")
        check_choice("mixing", self.mixing, MIXINGS)
        if self.copy_loss < 0:
            raise SettingValueError(
                "copy_loss", f"copy_loss must not be negative, got {self.copy_loss}"
            )
        if not 0 <= self.dropout < 1:
            raise SettingValueError(
                "dropout", f"dropout must be at least 0 and less than 1, got {self.dropout}"
            )

    def build(self, backbone: Backbone) -> ReaderHypernet:
        """Make an untrained hypernetwork with these settings, for one backbone.

        Raises:
            UnsupportedBackboneError: If words cannot be written through the backbone's last layer.
            ValueError: If the backbone lacks a layer that the settings name.
        """
        self._check_layers(backbone)
        return ReaderHypernet(backbone, self)

    def _check_layers(self, backbone: Backbone) -> None:
        last = backbone.num_layers - 1
        if self.layer != last:
            raise SettingValueError(
                "layer",
                "the reader writes through the final norm and the head, so layer must be the last "
                f"one of {backbone.name}, {last}, got {self.layer}",
            )
        for name, layers in (
            ("read_layer", [self.read_layer]),
            ("query_layers", self.query_layers),
        ):
            wrong = [layer for layer in layers if not 1 <= layer <= last]
            if wrong:
                raise SettingValueError(
                    name, f"{name} must be in 1..{last} for {backbone.name}, got {wrong[0]}"
                )
