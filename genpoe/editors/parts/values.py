"""The value that makes a fact true: a vector delta that is added at the subject's last token.

    L(delta) = mean_j mean_t -log p(y_t | ctx_j, prompt, y_<t)
               + kl KL(p_delta || p_0 behind "{subject} is a") + decay |delta| / |h_0|^2

As in the released code of ROME and MEMIT, the divergence is that at the subject's token, and a norm
is divided by a squared norm.

Deviation: the prompt "{subject} is a" stands behind a fixed line, because many models keep a state
at the very first token that has nothing to do with it.

Shapes: J prompts, D d_model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from backbone.model import Backbone, UnsupportedBackboneError
from backbone.tokens import encode_prompt
from genpoe.editors.parts.facts import EncodedFact, last_token_of, subject_of
from genpoe.editors.parts.places import Place, check_adds, output_of
from genpoe.editors.parts.rows import at_least_float32, make_rows
from genpoe.editors.parts.subjects import SubjectPrompts
from genpoe.editors.parts.tails import PartAbove, Tails
from plumbing.mounts import SettingValueError
from plumbing.settings import check_positive, check_types

_ESSENCE = "The following is well known.\n{} is a"


@dataclass(frozen=True)
class ValueSettings:
    """How a value is optimised.

    Attributes:
        steps: Evaluations of the loss; there is one update fewer.
        lr: Adam's learning rate.
        clamp: c: after each update, the norm of delta is at most ``c |h_0|``.
        decay: The factor of ``|delta| / |h_0|^2``.
        kl: The factor of the divergence.
        stop: The loss at which the optimisation ends.
        context_tokens: The lengths of the sampled contexts, in tokens.
        contexts: How many contexts there are of each length.
    """

    steps: int = 25
    lr: float = 0.5
    clamp: float = 4.0
    decay: float = 1e-3
    kl: float = 0.0625
    stop: float = 0.05
    context_tokens: Sequence[int] = (10,)
    contexts: int = 5

    def __post_init__(self) -> None:
        check_types(self)
        check_positive(self, "steps", "lr", "clamp")
        for name in ("decay", "kl", "stop", "contexts"):
            if getattr(self, name) < 0:
                raise SettingValueError(
                    name, f"{name} must not be negative, got {getattr(self, name)}"
                )


@dataclass(frozen=True)
class Value:
    """An optimised value.

    Attributes:
        delta: What is added ``[D]``.
        base: h_0, the state of the plain prompt without it ``[D]``.
        losses: The loss at each step.
    """

    delta: Tensor
    base: Tensor
    losses: tuple[float, ...]

    @property
    def is_stuck(self) -> bool:
        """Whether the loss fell by less than 5 %."""
        return self.losses[-1] > 0.95 * self.losses[0]


class ValueProblem:
    """The loss of one fact as a function of delta.

    What lies at or below the layer, or before the subject's last token, does not depend on delta.
    So it is computed once.

    Args:
        backbone: The model as it is now.
        prompts: The fact with its prompts.
        module: The module whose output delta is added to: a layer, or its down projection.
        settings: The settings.
        above: The part of the model above the layer, if it can be computed alone. None: each step
            is a whole forward pass.
        left: Whether rows are padded before their tokens; only without ``above``.
    """

    def __init__(
        self,
        backbone: Backbone,
        prompts: SubjectPrompts,
        module: nn.Module,
        settings: ValueSettings,
        above: PartAbove | None = None,
        left: bool = False,
    ) -> None:
        self.settings = settings
        self._backbone, self._module = backbone, module
        fact = prompts.encoded
        essence = _ESSENCE.format(subject_of(fact.fact))
        positions = [*prompts.positions, last_token_of(backbone, essence, subject_of(fact.fact))]
        self._rows = make_rows(
            backbone,
            [*prompts.prompts, encode_prompt(backbone.tokenizer, essence)],
            [*[fact.target_ids] * len(prompts.prompts), []],
            left,
        )
        columns = torch.tensor(positions, device=backbone.device) + self._rows.starts
        self._at = torch.arange(len(positions), device=backbone.device), columns
        self._tails: Tails | None = None
        with torch.no_grad():
            found: list[Tensor] = []

            def keep(_: nn.Module, __: Any, output: Any) -> None:
                found.append(output_of(output)[self._at[0][0], self._at[1][0]])

            with ExitStack() as stack:
                stack.callback(module.register_forward_hook(keep).remove)
                if above is not None:
                    self._tails = above.tails(self._rows, columns)
                    self._rows, self._at = self._tails.rows, (self._at[0], 0 * columns)
                    hidden = self._tails.hidden()
                else:
                    hidden = self._rows.hidden(backbone)
            self.base = at_least_float32(found[0])
            self._known = self._essence(hidden)

    def hidden(self, delta: Tensor) -> Tensor:
        """Final hidden states ``[J + 1, T, D]`` with delta at each subject.

        Where the part above is computed alone, T counts from the subject's last token.
        """
        if self._tails is not None:
            return self._tails.hidden(delta)

        def add(_: nn.Module, __: Any, output: Any) -> Any:
            states = _plus(output_of(output), self._at, delta)
            return (states, *output[1:]) if isinstance(output, tuple) else states

        with ExitStack() as stack:
            stack.callback(self._module.register_forward_hook(add).remove)
            return self._rows.hidden(self._backbone)

    def _essence(self, hidden: Tensor) -> Tensor:
        row, column = self._at[0][-1], self._at[1][-1]
        return at_least_float32(self._backbone.logits(hidden[row, column][None])).log_softmax(-1)[0]

    def loss(self, delta: Tensor) -> Tensor:
        """L(delta)."""
        hidden = self.hidden(delta)
        nll = self._rows.nll(self._backbone, hidden)[:-1].mean()
        now = self._essence(hidden)
        divergence = (now.exp() * (now - self._known)).sum()
        size = torch.linalg.vector_norm(delta) / self.base.square().sum()
        return nll + self.settings.kl * divergence + self.settings.decay * size

    def optimise(
        self, check: Callable[[Tensor, EncodedFact, int], float], fact: EncodedFact
    ) -> Value:
        """Minimise the loss with Adam, from delta = 0.

        Args:
            check: Turns a loss into a number, or raises an error if it is not finite.
            fact: The fact, for messages.
        """
        settings = self.settings
        delta = torch.zeros_like(self.base).requires_grad_()
        optimizer = torch.optim.Adam([delta], lr=settings.lr)
        most = settings.clamp * torch.linalg.vector_norm(self.base)
        losses: list[float] = []
        for step in range(1, settings.steps + 1):
            loss = self.loss(delta)
            losses.append(check(loss, fact, step))
            if losses[-1] < settings.stop or step == settings.steps:
                break
            (delta.grad,) = torch.autograd.grad(loss, [delta])
            optimizer.step()
            with torch.no_grad():
                norm = torch.linalg.vector_norm(delta)
                if norm > most:
                    delta.mul_(most / norm)
        return Value(delta.detach(), self.base, tuple(losses))


def part_above(backbone: Backbone, place: Place) -> PartAbove | None:
    """The model above the layer of a down projection, or None if whole rows must be computed.

    These are needed above the last layer, for decoders that cannot be cut, and for layers that
    change what the projection writes before they add it.
    """
    if place.layer + 1 >= backbone.num_layers:
        return None
    try:
        check_adds(backbone, place)
        return PartAbove(backbone, place.layer)
    except UnsupportedBackboneError:
        return None


def _plus(states: Tensor, at: tuple[Tensor, Tensor], delta: Tensor) -> Tensor:
    return states.index_put(at, states[at] + delta.to(states.dtype))
