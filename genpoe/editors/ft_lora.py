"""FT-LoRA: a low-rank adapter is trained on the targets, and its product is added to the weights.

    LoRA:     W' = W + alpha / r B A            (B = 0 at first)
    AdaLoRA:  W' = W + alpha / r B diag(E) A    (E = 0 at first)

AdaLoRA's rank stays what it is at first, because nothing lowers it, and half of a penalty for
factors that are not orthogonal is added to its loss. Both follow PEFT. Over several batches of
edits one adapter trains on, with a new optimiser for each batch.

Shapes: r rank, i inputs and o outputs of a map; A ``[r, i]``, B ``[o, r]``, E ``[r, 1]``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from backbone.model import Backbone, UnsupportedBackboneError
from genpoe.editors.editor import Editor
from genpoe.editors.parts.facts import EncodedFact
from genpoe.editors.parts.rows import rows_of
from plumbing.mounts import SettingValueError
from plumbing.settings import check_choice, check_positive, check_seed, check_types


@dataclass(frozen=True)
class FTLoRASettings:
    """The settings of FT-LoRA.

    Attributes:
        kind: lora or adalora.
        targets: The linear maps that are adapted in every layer, by their names in the model.
        rank: r.
        alpha: The outputs are scaled by ``alpha / r``.
        dropout: The share of the adapter's inputs that are zero in a step of training.
        lr: Adam's learning rate.
        passes: Passes over a batch of edits.
        batch_size: Facts in one step.
        stop: Training ends after a pass whose mean loss is below this; 0: it never does.
        orthogonal: The factor of AdaLoRA's penalty.
        seed: The seed of the initial factors and of the dropout.
    """

    kind: str = "lora"
    targets: Sequence[str] = ("q_proj", "v_proj")
    rank: int = 8
    alpha: float = 32.0
    dropout: float = 0.0
    lr: float = 5e-3
    passes: int = 20
    batch_size: int = 16
    stop: float = 0.01
    orthogonal: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        check_types(self)
        check_choice("kind", self.kind, ("lora", "adalora"))
        check_positive(self, "rank", "alpha", "lr", "passes", "batch_size")
        check_seed(self.seed)
        if not 0 <= self.dropout < 1:
            raise SettingValueError("dropout", f"dropout must be in [0, 1), got {self.dropout}")


Factors = Mapping[str, Tensor]  # A, B and, with AdaLoRA, E


class FTLoRA(Editor):
    """Edits by training an adapter, whose product stands in the weights.

    Args:
        backbone: The model.
        settings: The settings.

    Raises:
        UnsupportedBackboneError: If a layer has none of the targets.
    """

    def __init__(self, backbone: Backbone, settings: FTLoRASettings) -> None:
        super().__init__(backbone)
        self.settings = settings
        self.modules = _targets(backbone, settings.targets)
        self._base: Mapping[str, Tensor] = {}
        self._factors: Mapping[str, Factors] = {}
        self._draw = torch.Generator().manual_seed(settings.seed)

    @property
    def factors(self) -> Mapping[str, Factors]:
        """The factors of each map, by the name of its weight; empty before the first edit."""
        return self._factors

    def _places(self) -> Sequence[str]:
        return list(self.modules)

    def _state(self) -> Any:
        return super()._state(), self._base, self._factors, self._draw.get_state()

    def _set_state(self, state: Any) -> None:
        super()._set_state(state[0])
        self._base, self._factors = state[1], state[2]
        self._draw.set_state(state[3])

    def _apply(self, facts: Sequence[EncodedFact]) -> None:
        if self._base:
            self._write_parameters(self._base)  # the adapter stands beside the original weights
        base = self._base or {name: w.clone() for name, w in self._written().items()}
        start = self._factors or self.initial()
        trained = {
            name: {key: each.clone().requires_grad_() for key, each in factors.items()}
            for name, factors in start.items()
        }
        self._train(facts, trained)
        merged = {}
        for name, factors in trained.items():
            change = self._product({key: each.detach().double() for key, each in factors.items()})
            turned = change.T if isinstance(self.modules[name], Conv1D) else change
            merged[name] = base[name].double() + turned
        self._write_parameters(merged)
        self._base = base
        self._factors = {
            name: {key: each.detach() for key, each in factors.items()}
            for name, factors in trained.items()
        }

    def initial(self) -> Mapping[str, Factors]:
        """Factors whose product is zero, drawn as PEFT draws them but by a generator of our own."""
        rank, found = self.settings.rank, {}
        for name, module in self.modules.items():
            inputs, outputs = _sizes(module)
            ada = self.settings.kind == "adalora"
            a, b = torch.empty(rank, inputs), torch.zeros(outputs, rank)
            if ada:
                a.normal_(std=0.02, generator=self._draw)
                b.normal_(std=0.02, generator=self._draw)
            else:
                bound = 1 / math.sqrt(inputs)  # kaiming_uniform_ with a = sqrt(5)
                a.uniform_(-bound, bound, generator=self._draw)
            factors = {"A": a, "B": b} | ({"E": torch.zeros(rank, 1)} if ada else {})
            dtype = torch.float64 if self.backbone.dtype == torch.float64 else torch.float32
            found[name] = {
                key: each.to(self.backbone.device, dtype) for key, each in factors.items()
            }
        return found

    def _product(self, factors: Factors) -> Tensor:
        return factors["B"] @ _scaled_a(factors) * self._scale

    @property
    def _scale(self) -> float:
        rank = self.settings.rank + (1e-5 if self.settings.kind == "adalora" else 0)  # as in PEFT
        return self.settings.alpha / rank

    def _train(self, facts: Sequence[EncodedFact], factors: Mapping[str, Factors]) -> None:
        settings = self.settings
        parameters = [each for some in factors.values() for each in some.values()]
        optimizer = torch.optim.Adam(parameters, lr=settings.lr)
        with self._beside(factors):
            for number in range(1, settings.passes + 1):
                losses: list[float] = []
                for first in range(0, len(facts), settings.batch_size):
                    some = facts[first : first + settings.batch_size]
                    loss = rows_of(self.backbone, some).nll(self.backbone).mean()
                    losses += [self._check_loss(loss, some[0], number)] * len(some)
                    loss = loss + self._penalty(factors)
                    gradients = torch.autograd.grad(loss, parameters)
                    for parameter, gradient in zip(parameters, gradients, strict=True):
                        parameter.grad = gradient
                    optimizer.step()
                if sum(losses) / len(losses) < settings.stop:
                    break

    def _penalty(self, factors: Mapping[str, Factors]) -> Tensor | float:
        """AdaLoRA's penalty: how far the factors are from having orthogonal rows and columns."""
        if self.settings.kind != "adalora":
            return 0.0
        squares = [m for f in factors.values() for m in (f["A"] @ f["A"].T, f["B"].T @ f["B"])]
        far = [torch.linalg.matrix_norm(m - torch.eye(len(m)).to(m)) for m in squares]
        return self.settings.orthogonal * torch.stack(far).mean()

    @contextmanager
    def _beside(self, factors: Mapping[str, Factors]) -> Iterator[None]:
        """Let factors act beside the weights inside the block, with dropout."""

        def hook(own: Factors) -> Any:
            def add(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
                inputs = self._dropped(args[0].to(own["A"].dtype))
                term = inputs @ _scaled_a(own).T @ own["B"].T * self._scale
                return (output + term).to(output.dtype)

            return add

        with ExitStack() as stack:
            for name, own in factors.items():
                stack.callback(self.modules[name].register_forward_hook(hook(own)).remove)
            yield

    def _dropped(self, inputs: Tensor) -> Tensor:
        share = self.settings.dropout
        if not share:
            return inputs
        kept = torch.rand(inputs.shape, generator=self._draw) >= share
        return inputs * kept.to(inputs) / (1 - share)


def _scaled_a(factors: Factors) -> Tensor:
    return factors["A"] * factors["E"] if "E" in factors else factors["A"]


def _sizes(module: Any) -> tuple[int, int]:
    """The numbers of inputs and of outputs of a linear map."""
    if isinstance(module, Conv1D):
        return module.weight.shape[0], module.weight.shape[1]
    return module.in_features, module.out_features


def _targets(backbone: Backbone, targets: Sequence[str]) -> dict[str, nn.Module]:
    """The linear maps of all layers that have one of the names, by the names of their weights."""
    if not targets:
        raise SettingValueError("targets", "targets must name at least one linear map, got none")
    names = {id(parameter): name for name, parameter in backbone.model.named_parameters()}
    found: dict[str, nn.Module] = {}
    for number, layer in enumerate(backbone.layers):
        linear = {
            name.rpartition(".")[2]: module
            for name, module in layer.named_modules()
            if isinstance(module, nn.Linear | Conv1D)
        }
        for target in targets:
            if target not in linear:
                raise UnsupportedBackboneError(
                    f"{backbone.name}: layer {number} has no linear map {target!r}; choose targets "
                    f"of {', '.join(linear) or 'another model'}"
                )
            found[names[id(linear[target].weight)]] = linear[target]
    return found
