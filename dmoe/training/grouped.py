"""Trains many experts at the same time, with the same result as training each one alone.

The products with the frozen weights run over the tokens of all experts together. The products with
the experts' own matrices are grouped (batched). Each expert has its own optimiser state, its own
steps, and its own loss, which is the mean over its own labels. No other expert's loss depends on
its matrices, so the gradient of the sum of all losses gives each expert the gradient of its own
loss. Therefore the result does not depend on the other experts of the group.

Shapes: N experts in a group, n of them active in a step, A labels in a step, P labels of the expert
that has the most, D d_model, I inputs and O outputs of a projection, R rank, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from backbone.final_ffn import FinalFFN
from backbone.model import Backbone
from backbone.split import Trunk
from dmoe.experts.expert import Expert, ExpertSpec, delta_norm, initial_expert, stack_experts
from dmoe.experts.recipe import Recipe
from dmoe.training.adamw import GroupedAdamW
from dmoe.training.instances import Encoded
from dmoe.training.label_states import label_states
from dmoe.training.silence import ForeignStep, Others, change
from dmoe.training.steps import TrainingStep, make_step, make_steps
from plumbing.mounts import mounted
from plumbing.settings import check_positive, check_types


@dataclass(frozen=True)
class Limits:
    """Limits on the memory that training takes. They do not change the results.

    Attributes:
        group_size: The most experts that are trained at the same time.
        group_tokens: The most labels of a group; a single expert that has more is a group by
            itself. Each label costs one residual stream, and about a dozen vectors of the FFN's
            width while its step is computed.
        trunk_tokens: The most tokens that the layers below the final FFN compute at a time.
        head_tokens: The most labels whose logits exist at a time.

    Raises:
        ValueError: If a limit is not positive.
    """

    group_size: int = 64
    group_tokens: int = 8192
    trunk_tokens: int = 2048
    head_tokens: int = 512

    def __post_init__(self) -> None:
        check_types(self)
        check_positive(self, *vars(self))


@dataclass(frozen=True)
class TrainedGroup:
    """The experts of a group, and how their training went.

    Attributes:
        ids: The ids of the experts' passages.
        experts: N experts, in float32, on the CPU.
        first_loss: ``[N]``, the mean of the first epoch's losses (nats per label).
        last_loss: ``[N]``, the mean of the last epoch's losses (nats per label).
        norm: ``[N]``, ``‖ΔW‖`` from `dmoe.experts.expert.delta_norm`.
    """

    ids: list[str]
    experts: Expert
    first_loss: Tensor
    last_loss: Tensor
    norm: Tensor


class GroupedTrainer:
    """Trains groups of experts on one device.

    Args:
        ffn: The final FFN of the frozen backbone.
        spec: The experts' settings.
        recipe: The training's settings.
        limits: The limits on memory.
        others: The instances of passages at which experts of other passages are to be silent, by
            passage; they are read only if the recipe has a weight for that.

    Raises:
        ExpertError: If the FFN lacks one of the projections that the experts change.
        RecipeError: If the recipe wants silent experts, and no passage is given.
    """

    def __init__(
        self,
        ffn: FinalFFN,
        spec: ExpertSpec,
        recipe: Recipe,
        limits: Limits | None = None,
        others: Mapping[str, Sequence[Encoded]] | None = None,
    ) -> None:
        self.ffn, self.spec, self.recipe = ffn, spec, recipe
        self.limits = limits or Limits()
        self._trunk = Trunk(ffn)
        spec.shapes(ffn.sizes)  # raises an error if the FFN lacks a target
        self._others: Others | None = None
        if not others:
            recipe.check_loud("experts without others beside them")
        elif recipe.silence:
            self._others = Others.of(ffn, self._trunk, others, self.limits.trunk_tokens)

    def train(self, ids: Sequence[str], instances: Sequence[Sequence[Encoded]]) -> TrainedGroup:
        """Train one group, beginning with the initial experts of its passages.

        Args:
            ids: The passages' ids.
            instances: The instances of each passage, at least one for each.

        Returns:
            The trained experts, in the order of ``ids``.

        Raises:
            ValueError: If a passage has no instances.
        """
        if empty := [id for id, each in zip(ids, instances, strict=True) if not each]:
            raise ValueError(f"passage {empty[0]!r} has no instances to train on; leave it out")
        # In order of falling numbers of steps, the experts still active in a step are the first n.
        order = sorted(range(len(ids)), key=lambda i: -len(instances[i]))
        experts = self.initial([ids[i] for i in order])
        states = label_states(self._trunk, [instances[i] for i in order], self.limits.trunk_tokens)
        steps = make_steps(states, self.recipe.batch_size)
        foreign = self._foreign([ids[i] for i in order], len(steps))
        losses = self.epochs(experts, steps, foreign)
        back = torch.tensor(order).argsort()
        experts = {name: tensor.cpu()[back] for name, tensor in experts.items()}
        return TrainedGroup(
            list(ids),
            experts,
            losses[0].cpu()[back],
            losses[-1].cpu()[back],
            delta_norm(experts, self.spec.scaling),
        )

    def initial(self, ids: Sequence[str]) -> Expert:
        """Draw the untrained experts of some passages, on the backbone's device."""
        each = (initial_expert(self.spec, self.ffn.sizes, id, self.recipe.seed) for id in ids)
        device = self.ffn.backbone.device
        return {name: tensor.to(device) for name, tensor in stack_experts(each).items()}

    @torch.no_grad()
    def losses(self, experts: Expert, instances: Sequence[Sequence[Encoded]]) -> Tensor:
        """Measure the loss of each expert on its own instances, to see what it knows.

        Args:
            experts: N experts.
            instances: The instances of each expert, at least one for each.

        Returns:
            ``[N]``, the mean over all labels of an expert's instances (nats per label).
        """
        states = label_states(self._trunk, instances, self.limits.trunk_tokens)
        step = make_step(states.residual_AD, states.instances)
        there = {name: t.to(states.residual_AD.device) for name, t in experts.items()}
        hidden_AD = self._hidden(there, step.residual_AD, step.padded_nP, step.slots_A)
        logits = (self.ffn.backbone.logits(h) for h in hidden_AD.split(self.limits.head_tokens))
        targets = step.targets_A.split(self.limits.head_tokens)
        nll = [
            functional.cross_entropy(each.float(), target, reduction="none")
            for each, target in zip(logits, targets, strict=True)
        ]
        return step.mean_of_each(torch.cat(nll)).cpu()

    def _foreign(self, ids: Sequence[str], steps: int) -> list[ForeignStep]:
        """Draw the foreign positions of each step; there are none without a penalty."""
        with mounted("recipe"):
            return [] if self._others is None else self._others.draw(ids, steps)

    def epochs(
        self, experts: Expert, steps: Sequence[TrainingStep], foreign: Sequence[ForeignStep] = ()
    ) -> list[Tensor]:
        """Train the experts in place; returns their mean losses ``[N]``, one tensor per epoch.

        Args:
            experts: The experts in order of falling numbers of steps.
            steps: The steps of one epoch.
            foreign: The foreign positions of each step; none without a penalty.
        """
        optimizer = GroupedAdamW(experts, self.recipe)
        losses = []
        for _ in range(self.recipe.epochs):
            total = torch.zeros(len(next(iter(experts.values()))), device=self.ffn.backbone.device)
            taken = torch.zeros_like(total)
            for number, step in enumerate(steps):
                active = {
                    name: tensor[: step.active].detach().requires_grad_()
                    for name, tensor in experts.items()
                }
                loss_n, gradients = self._gradients(active, step)
                if foreign:
                    own, other = gradients, self._silence_gradients(active, foreign[number])
                    gradients = {name: own[name] + other[name] for name in own}
                optimizer.step(gradients)
                total[: step.active] += loss_n
                taken[: step.active] += 1
            losses.append(total / taken)
        return losses

    def _gradients(self, active: Expert, step: TrainingStep) -> tuple[Tensor, Expert]:
        """Compute each active expert's loss ``[n]``, and the gradient of it."""
        hidden_AD = self._hidden(active, step.residual_AD, step.padded_nP, step.slots_A)
        nll_A, slope_AD = head_gradient(
            self.ffn.backbone, hidden_AD, step.targets_A, step.weights_A, self.limits.head_tokens
        )
        gradients = torch.autograd.grad(hidden_AD, list(active.values()), slope_AD)
        return step.mean_of_each(nll_A), dict(zip(active, gradients, strict=True))

    def _silence_gradients(self, active: Expert, foreign: ForeignStep) -> Expert:
        """Compute the gradient of each active expert's penalty (`dmoe.training.silence`)."""
        count = len(next(iter(active.values())))
        residual_nSD, plain_nSD = foreign.states(count)
        slots_K = torch.arange(residual_nSD.shape[:2].numel(), device=residual_nSD.device)
        hidden_KD = self._hidden(
            active, residual_nSD.flatten(0, 1), slots_K.view(count, -1), slots_K
        )
        penalty_nS = change(hidden_KD.view_as(plain_nSD), plain_nSD)
        total = self.recipe.silence * penalty_nS.mean(1).sum()
        return dict(zip(active, torch.autograd.grad(total, list(active.values())), strict=True))

    def _hidden(
        self, active: Expert, residual_AD: Tensor, padded_nP: Tensor, slots_A: Tensor
    ) -> Tensor:
        """Compute the final hidden states ``[A, D]``, each token with its own expert.

        Args:
            active: The experts.
            residual_AD: The residual streams.
            padded_nP: For each expert, its rows of ``residual_AD``, as in `TrainingStep`.
            slots_A: For each row, its place in the flattened ``padded_nP``.
        """

        def grouped(name: str, x_AI: Tensor) -> Tensor:
            """Compute each token's own ``alpha / rank · B A x``, in float32 as in PEFT."""
            a_nRI, b_nOR = active[f"{name}.lora_A"], active[f"{name}.lora_B"]
            x_nPI = x_AI.to(a_nRI.dtype)[padded_nP]
            out_nPO = x_nPI @ a_nRI.mT @ b_nOR.mT * self.spec.scaling
            return out_nPO.flatten(0, 1)[slots_A]

        with self.ffn.adding(grouped, self.spec.targets):
            return self.ffn.hidden(residual_AD)


def head_gradient(
    backbone: Backbone, hidden_AD: Tensor, targets_A: Tensor, weights_A: Tensor, tokens: int
) -> tuple[Tensor, Tensor]:
    """Compute negative log-likelihoods, and the gradient of their weighted sum.

    The gradient is taken with respect to the hidden states. Both are computed for some tokens at a
    time, so the logits ``[A, V]`` never exist as a whole.

    Args:
        backbone: The model whose head reads the hidden states.
        hidden_AD: Final hidden states.
        targets_A: The labels.
        weights_A: The weight of each label in the sum.
        tokens: How many tokens have logits at a time.

    Returns:
        The negative log-likelihoods ``[A]`` in float32, and the gradient ``[A, D]``.
    """
    nll, slopes = [], []
    parts = (hidden_AD.detach().split(tokens), targets_A.split(tokens), weights_A.split(tokens))
    for hidden, targets, weights in zip(*parts, strict=True):
        hidden.requires_grad_()
        each = functional.cross_entropy(backbone.logits(hidden).float(), targets, reduction="none")
        slopes.append(torch.autograd.grad(each @ weights, hidden)[0])
        nll.append(each.detach())
    return torch.cat(nll), torch.cat(slopes)
