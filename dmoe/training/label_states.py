"""The residual stream that enters the final FFN, computed once for each predicted label.

Everything below the final FFN is frozen, and nothing above it mixes positions (DMoE sec. 3.2.1).
So these states are all that training needs of a passage's instances, in every epoch. The instances
of a passage are put into token trees, so that beginnings that they share are computed once.

Shapes: N trees, T nodes, A positions that predict a label, D d_model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from backbone.split import Trunk
from backbone.token_tree import TokenTree
from dmoe.training.instances import Encoded
from plumbing.batches import by_length


@dataclass(frozen=True)
class InstanceStates:
    """The labels of one instance, and the states that predict them.

    Attributes:
        rows: ``[A]``, the rows of `LabelStates.residual_AD` that predict the labels.
        targets: ``[A]``, the labels.
    """

    rows: Tensor
    targets: Tensor


@dataclass(frozen=True)
class LabelStates:
    """The residual streams of several passages' instances.

    Attributes:
        residual_AD: The states, in the backbone's dtype and on its device. A position that several
            instances of a passage share is stored once.
        instances: The instances of each passage, in their order.
    """

    residual_AD: Tensor
    instances: list[list[InstanceStates]]


def label_states(
    trunk: Trunk, passages: Sequence[Sequence[Encoded]], trunk_tokens: int = 2048
) -> LabelStates:
    """Compute the residual streams of several passages' instances.

    Args:
        trunk: The backbone below its final FFN.
        passages: The instances of each passage.
        trunk_tokens: The most tokens, with padding, that are computed at a time.

    Raises:
        ValueError: If one instance alone has more tokens than that.
    """
    forest = _Forest(trunk_tokens)
    places = [forest.plant(instances) for instances in passages]
    residual_AD, starts = forest.compute(trunk)
    return LabelStates(
        residual_AD,
        [
            [
                InstanceStates(
                    torch.tensor(place.order) + starts[place.tree], torch.tensor(place.targets)
                )
                for place in each
            ]
            for each in places
        ],
    )


@dataclass(frozen=True)
class _Place:
    """The tree and the wanted nodes of it at which an instance's labels are predicted."""

    tree: int
    order: list[int]
    targets: tuple[int, ...]


class _Forest:
    """The token trees of many passages.

    A passage has one tree, or several if a single one would be too large.
    """

    def __init__(self, trunk_tokens: int) -> None:
        self._limit = trunk_tokens
        self._trees: list[TokenTree] = []
        # For each tree: the nodes that predict a label, each with its number among them.
        self._wanted: list[dict[int, int]] = []

    def plant(self, instances: Sequence[Encoded]) -> list[_Place]:
        """Add one passage's instances; returns where the labels of each are predicted."""
        self._new_tree()
        return [self._add(instance) for instance in instances]

    def _new_tree(self) -> None:
        self._trees.append(TokenTree())
        self._wanted.append({})

    def _add(self, instance: Encoded) -> _Place:
        inputs = instance.ids[:-1]  # the last token is never read
        if len(inputs) > self._limit:
            raise ValueError(
                f"an instance has {len(inputs)} tokens, more than the {self._limit} that are "
                "computed at a time; set trunk_tokens of the limits higher, or max_tokens of the "
                "recipe lower"
            )
        if len(self._trees[-1]) + len(inputs) > self._limit:
            self._new_tree()
        wanted = self._wanted[-1]
        nodes = self._trees[-1].add(inputs)[instance.first_label - 1 :]
        order = [wanted.setdefault(node, len(wanted)) for node in nodes]
        return _Place(len(self._trees) - 1, order, instance.ids[instance.first_label :])

    def compute(self, trunk: Trunk) -> tuple[Tensor, list[int]]:
        """Compute the residual streams of all wanted nodes ``[A, D]``, tree by tree.

        Also returns the row at which each tree's part begins.
        """
        backbone = trunk.backbone
        nothing = torch.zeros(0, backbone.d_model, dtype=backbone.dtype, device=backbone.device)
        parts = [nothing for _ in self._trees]
        planted = [index for index, tree in enumerate(self._trees) if len(tree)]
        lengths = [len(self._trees[index]) for index in planted]
        for rows in by_length(lengths, max_tokens=self._limit):
            batch = [planted[row] for row in rows]
            states_NTD = trunk.residual([self._trees[index] for index in batch])
            for row, index in enumerate(batch):
                nodes = torch.tensor(list(self._wanted[index]), device=backbone.device)
                parts[index] = states_NTD[row, nodes]
        starts = torch.tensor([0, *(len(part) for part in parts)]).cumsum(0).tolist()
        return torch.cat([nothing, *parts]), starts
