"""The steps of a group's training: which labels each active expert learns in each of them.

Experts are ordered by falling number of steps, so that those still active in a step are the first n
of the group.

Shapes: n active experts, A labels of a step, P labels of the expert that has most, D d_model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dmoe.training.label_states import InstanceStates, LabelStates


@dataclass(frozen=True)
class Step:
    """What one step of the active experts reads; the same in every epoch.

    Attributes:
        active: n, the first experts of the group.
        residual_AD: Residual streams, expert by expert.
        targets_A: Labels.
        weights_A: One over the number of the expert's labels in this step.
        experts_A: Whose label it is.
        padded_nP: Of each expert, its tokens, padded with its first.
        slots_A: Where in the flattened ``padded_nP`` a token stands.
    """

    active: int
    residual_AD: Tensor
    targets_A: Tensor
    weights_A: Tensor
    experts_A: Tensor
    padded_nP: Tensor
    slots_A: Tensor

    def mean_of_each(self, nll_A: Tensor) -> Tensor:
        """Each active expert's mean over its labels, ``[n]``."""
        total = torch.zeros(self.active, device=nll_A.device)
        return total.index_add_(0, self.experts_A, nll_A * self.weights_A)


def make_steps(states: LabelStates, batch_size: int) -> list[Step]:
    """The steps of one epoch.

    Args:
        states: Of the experts' instances; no expert has more of them than the one before it.
        batch_size: Instances of an expert in each step, in their order.
    """
    most = max(len(each) for each in states.instances)
    batches = [
        [each[first : first + batch_size] for each in states.instances if len(each) > first]
        for first in range(0, most, batch_size)
    ]
    return [make_step(states.residual_AD, batch) for batch in batches]


def make_step(residual_AD: Tensor, batch: Sequence[Sequence[InstanceStates]]) -> Step:
    """One step: of each expert, the instances that it learns; at least one."""
    rows = torch.cat([part.rows for each in batch for part in each])
    targets = torch.cat([part.targets for each in batch for part in each])
    counts = torch.tensor([sum(len(part.rows) for part in each) for each in batch])
    experts = torch.arange(len(batch)).repeat_interleave(counts)
    first = counts.cumsum(0) - counts
    slots = experts * int(counts.max()) + torch.arange(len(rows)) - first[experts]
    # Padding repeats the expert's own first token: another's may be a NaN, if that one diverges.
    padded = first.repeat_interleave(int(counts.max()))
    padded[slots] = torch.arange(len(rows))
    device = residual_AD.device
    return Step(
        len(batch),
        residual_AD[rows.to(device)],
        targets.to(device),
        (1 / counts.float())[experts].to(device),
        experts.to(device),
        padded.view(len(batch), -1).to(device),
        slots.to(device),
    )
