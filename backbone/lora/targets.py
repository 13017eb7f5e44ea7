"""The places of a LoRA adapter in a backbone, dense or a coupled mixture of experts.

A dense FFN has linear maps. A sparse MoE block has experts instead. They are modules of their own
or, in today's transformers, parameters that hold all experts of a layer; PEFT adapts these expert
by expert. The block's router is not adapted.

Shapes: E experts, F their width, D d_model; ``gate_up_proj`` is ``[E, 2 F, D]``, ``down_proj``
``[E, D, F]``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import nn

from backbone.model import Backbone, UnsupportedBackboneError
from backbone.projections import TARGETS, Block, linear_maps

ATTENTION = "attention"
CHOICES = (*TARGETS, ATTENTION)

# Parameters that hold all experts of a layer, and the projections in each.
_FUSED = {"gate_up_proj": ("gate", "up"), "down_proj": ("down",)}
_ATTENTION = (
    *("q_proj", "k_proj", "v_proj", "o_proj"),
    *("query_key_value", "W_pack", "c_attn", "dense", "out_proj"),
)


@dataclass(frozen=True)
class LoraTargets:
    """The places of an adapter, by the full names that PEFT takes.

    Attributes:
        modules: Names of linear maps.
        parameters: Names of parameters that hold the weights of several experts.
    """

    modules: list[str]
    parameters: list[str]


def lora_targets(backbone: Backbone, targets: Sequence[str]) -> LoraTargets:
    """Find the places of a LoRA in every layer.

    Args:
        backbone: The frozen model.
        targets: Any of gate, up and down (the linear maps of the FFN or of its experts) and
            attention (all of its linear maps).

    Raises:
        UnsupportedBackboneError: If a layer lacks a target, or if the layer stores it in one
            parameter with a projection that is no target.
    """
    names = {id(module): name for name, module in backbone.model.named_modules()}
    found = LoraTargets([], [])
    for layer in range(backbone.num_layers):
        reached: set[str] = set()
        for module, maps in _linear(backbone, layer):
            if _wanted(module, maps, targets):
                found.modules.append(names[id(module)])
                reached.update(maps)
        for experts, parameter in _fused(backbone.ffn(layer)):
            held = _FUSED[parameter]
            if _wanted(experts, held, targets):
                found.parameters.append(f"{names[id(experts)]}.{parameter}")
                reached.update(held)
        if missing := [target for target in targets if target not in reached]:
            raise UnsupportedBackboneError(
                f"{type(backbone.model).__name__} ({backbone.name}): found nothing in layer "
                f"{layer} for the target {missing[0]!r}; choose other targets of "
                f"{', '.join(CHOICES)}"
            )
    return found


def _wanted(experts: nn.Module, held: Sequence[str], targets: Sequence[str]) -> bool:
    """True if the projections in a parameter are targets.

    Raises:
        UnsupportedBackboneError: If only some of them are.
    """
    wanted = [target for target in held if target in targets]
    if wanted and len(wanted) < len(held):
        raise UnsupportedBackboneError(
            f"{type(experts).__name__} holds {' and '.join(held)} as one parameter, got the "
            f"targets {', '.join(targets)}; name both or neither among the targets"
        )
    return bool(wanted)


def _linear(backbone: Backbone, layer: int) -> Iterator[tuple[nn.Module, list[str]]]:
    """The linear maps of a layer with their targets, also those of experts that are modules."""
    ffn = backbone.ffn(layer)
    for module in ffn.modules():
        held: dict[nn.Module, list[str]] = {}
        for target, part in linear_maps(module).items():
            held.setdefault(part.module if isinstance(part, Block) else part, []).append(target)
        yield from held.items()
    inside = {id(module) for module in ffn.modules()}
    for name, module in backbone.layers[layer].named_modules():
        is_attention = name.rpartition(".")[2] in _ATTENTION and id(module) not in inside
        if is_attention and isinstance(module, nn.Linear):
            yield module, [ATTENTION]


def _fused(ffn: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    for module in ffn.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if name in _FUSED and parameter.ndim == 3:
                yield module, name
