"""What building experts takes of a device's memory (`plumbing.plan`).

A group of experts is trained on the meta device, where nothing is computed, and everything that is
made is counted: the experts, their gradients and their optimiser's state, the states of the labels,
and the activations of the largest step. The pass through the layers below is counted by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch

from backbone.final_ffn import FinalFFN
from backbone.model import Backbone
from dmoe.experts.expert import ExpertSpec
from dmoe.experts.recipe import Recipe
from dmoe.training.grouped import GroupedTrainer, Limits
from dmoe.training.groups import Group
from dmoe.training.label_states import InstanceStates, LabelStates
from dmoe.training.steps import make_steps
from plumbing.plan import Memory, PeakMemory, bytes_of

_NUMBER = 4  # bytes; experts are trained in float32


@dataclass(frozen=True)
class GroupSize:
    """The size of a group.

    Attributes:
        labels: For each expert, the labels of each of its instances.
    """

    labels: tuple[tuple[int, ...], ...]

    @property
    def total(self) -> int:
        """All labels."""
        return sum(map(sum, self.labels))

    @classmethod
    def of(cls, group: Group) -> GroupSize:
        """The size of a group of passages, in order of falling numbers of instances."""
        labels = [
            tuple(len(each.ids) - each.first_label for each in instances)
            for instances in group.instances
        ]
        return cls(tuple(sorted(labels, key=len, reverse=True)))

    @classmethod
    def most(cls, limits: Limits) -> GroupSize:
        """The largest group that the limits allow, each expert with one instance."""
        each = max(1, limits.group_tokens // limits.group_size)
        return cls(((each,),) * limits.group_size)


@dataclass(frozen=True)
class LessonsSize:
    """The size of all groups that are to be trained.

    Attributes:
        groups: How many there are.
        experts: How many experts they have.
        labels: How many labels.
        largest: The group with the most labels; None if there is none.
    """

    groups: int
    experts: int
    labels: int
    largest: Group | None


def lessons_size(groups: Iterable[Group]) -> LessonsSize:
    """Measure groups; only one of them is in memory at a time."""
    count = experts = labels = most = 0
    largest = None
    for group in groups:
        total = GroupSize.of(group).total
        count, experts, labels = count + 1, experts + len(group.passages), labels + total
        if largest is None or total > most:
            largest, most = group, total
    return LessonsSize(count, experts, labels, largest)


def group_memory(
    backbone: Backbone, size: GroupSize, spec: ExpertSpec, recipe: Recipe, limits: Limits
) -> Memory:
    """The memory of a device that trains groups of this size, without the process itself.

    Args:
        backbone: The backbone on the meta device.
        size: The largest group.
        spec: The experts' settings.
        recipe: The training's settings.
        limits: The limits on memory.

    Raises:
        UnsupportedBackboneError: If experts cannot stand beside the backbone's final FFN.
        ExpertError: If the FFN lacks one of the projections that experts change.
    """
    ffn = FinalFFN(backbone)
    each = sum(rows * columns for rows, columns in spec.shapes(ffn.sizes).values())
    experts = len(size.labels) * each * _NUMBER
    once = replace(recipe, epochs=1)  # an epoch takes what the one before it took
    training = _training(GroupedTrainer(ffn, spec, once, limits), size)
    below = experts + size.total * backbone.d_model * backbone.dtype.itemsize
    working = max(training, below + _pass(backbone, limits.trunk_tokens))
    return Memory(
        frozen=bytes_of([*backbone.model.parameters(), *backbone.model.buffers()]),
        trained=experts,
        gradients=experts,
        optimiser=2 * experts,
        working=max(0, working - 4 * experts),
    )


def _training(trainer: GroupedTrainer, size: GroupSize) -> int:
    """The most bytes that a group's training makes, with the experts themselves."""
    backbone = trainer.ffn.backbone
    with PeakMemory() as memory:
        states, row = [], 0
        for labels in size.labels:
            starts = [row := row + count for count in labels]
            states.append(
                [_instance(start - n, n) for start, n in zip(starts, labels, strict=True)]
            )
        shape = (size.total, backbone.d_model)
        residual_AD = torch.empty(shape, dtype=backbone.dtype, device="meta")
        experts = trainer.initial([str(index) for index in range(len(states))])
        steps = make_steps(LabelStates(residual_AD, states), trainer.recipe.batch_size)
        trainer.epochs(experts, [max(steps, key=lambda step: len(step.targets_A))])
    return memory.peak


def _instance(start: int, labels: int) -> InstanceStates:
    return InstanceStates(torch.arange(start, start + labels), torch.zeros(labels).long())


@torch.no_grad()
def _pass(backbone: Backbone, tokens: int) -> int:
    """The most bytes that a pass of so many tokens through all layers makes; each is a row."""
    with PeakMemory() as memory:
        ids = torch.zeros(tokens, 1, dtype=torch.long, device="meta")
        backbone.hidden_states(ids, ids)
    return memory.peak


def part_of(group: Group, experts: int) -> Group:
    """A group's first experts, to measure the time that they take."""
    return Group(group.passages[:experts], group.instances[:experts])


def labels_of(groups: Sequence[Group]) -> int:
    """All labels of some groups."""
    return sum(GroupSize.of(group).total for group in groups)
