"""The steps of a group's training: the labels that each active expert learns in each step.

The experts of a group are ordered by falling number of steps. So the experts that are still active
in a step are the first n of the group.

Shapes: n active experts, A labels in a step, P labels of the expert that has the most, D d_model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dmoe.training.label_states import InstanceStates, LabelStates


@dataclass(frozen=True)
class TrainingStep:
    """What the active experts read in one step; it is the same in every epoch.

    Attributes:
        active: n, the number of active experts, which are the first ones of the group.
        residual_AD: The residual stream that predicts each label, expert by expert.
        targets_A: The labels.
        weights_A: For each label, one over the number of its expert's labels in this step.
        experts_A: For each label, the index of its expert.
        padded_nP: For each expert, the rows of ``residual_AD`` that are its own, padded with the
            first of them.
        slots_A: For each row of ``residual_AD``, its place in the flattened ``padded_nP``.
    """

    active: int
    residual_AD: Tensor
    targets_A: Tensor
    weights_A: Tensor
    experts_A: Tensor
    padded_nP: Tensor
    slots_A: Tensor

    def mean_of_each(self, nll_A: Tensor) -> Tensor:
        """Average ``[A]`` losses over each active expert's labels; returns ``[n]``."""
        total = torch.zeros(self.active, device=nll_A.device)
        return total.index_add_(0, self.experts_A, nll_A * self.weights_A)


def make_steps(states: LabelStates, batch_size: int) -> list[TrainingStep]:
    """Make the steps of one epoch.

    Args:
        states: The states of the experts' instances. No expert may have more instances than the
            one before it.
        batch_size: How many instances of each expert a step takes, in their order.
    """
    most = max(len(each) for each in states.instances)
    batches = [
        [each[first : first + batch_size] for each in states.instances if len(each) > first]
        for first in range(0, most, batch_size)
    ]
    return [make_step(states.residual_AD, batch) for batch in batches]


def make_step(residual_AD: Tensor, batch: Sequence[Sequence[InstanceStates]]) -> TrainingStep:
    """Make one step.

    Args:
        residual_AD: All residual streams, as `LabelStates.residual_AD`.
        batch: The instances that each active expert learns, at least one for each.
    """
    rows = torch.cat([part.rows for each in batch for part in each])
    targets = torch.cat([part.targets for each in batch for part in each])
    counts = torch.tensor([sum(len(part.rows) for part in each) for each in batch])
    experts = torch.arange(len(batch)).repeat_interleave(counts)
    first = counts.cumsum(0) - counts
    slots = experts * int(counts.max()) + torch.arange(len(rows)) - first[experts]
    # The padding repeats the expert's own first token. A token of an expert that has diverged
    # could be a NaN.
    padded = first.repeat_interleave(int(counts.max()))
    padded[slots] = torch.arange(len(rows))
    device = residual_AD.device
    return TrainingStep(
        len(batch),
        residual_AD[rows.to(device)],
        targets.to(device),
        (1 / counts.float())[experts].to(device),
        experts.to(device),
        padded.view(len(batch), -1).to(device),
        slots.to(device),
    )
