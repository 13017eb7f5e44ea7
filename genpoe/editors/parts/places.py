"""Places of a model that editors write to: one linear map of one layer's FFN.

A place has a weight ``[o, i]`` with y = W x, whatever the family's own orientation: the maps of
GPT-2 hold their weights the other way round, and Phi-3's gate and up are two halves of one map.
The orientation follows from the kind of the map and never from its shape.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from backbone.model import Backbone, UnsupportedBackboneError
from backbone.projections import TARGETS, Block, as_block, linear_maps
from genpoe.editors.parts.rows import Rows, at_least_float32
from plumbing.mounts import SettingValueError
from plumbing.settings import check_choice


@dataclass(frozen=True)
class Place:
    """One linear map of one layer.

    Attributes:
        layer: The index of the layer, from 0.
        projection: gate, up or down.
        block: The map, as outputs of a module of the model.
        parameter: The name of the parameter that holds its weights.
    """

    layer: int
    projection: str
    block: Block
    parameter: str

    @property
    def name(self) -> str:
        """The place in a word or two, for messages and files."""
        return f"{self.layer}.{self.projection}"

    @property
    def weight(self) -> Tensor:
        """A view of the weights ``[o, i]`` as they are now."""
        return self.block.weight.detach()


def check_layers(backbone: Backbone, layers: Sequence[int]) -> None:
    """Check layers of a setting ``layers``.

    Raises:
        SettingValueError: If there is none, one occurs twice, or one is out of range.
    """
    if not layers or len(set(layers)) < len(layers):
        raise SettingValueError(
            "layers", f"layers must name at least one layer, each once, got {list(layers)}"
        )
    wrong = [layer for layer in layers if not 0 <= layer < backbone.num_layers]
    if wrong:
        raise SettingValueError(
            "layers",
            f"layers must be in 0..{backbone.num_layers - 1} for {backbone.name}, got {wrong[0]}",
        )


def find_places(
    backbone: Backbone, layers: Sequence[int], projections: Sequence[str] = ("down",)
) -> list[Place]:
    """Find linear maps of FFNs, layer by layer from below.

    Raises:
        SettingValueError: If a layer or a projection does not exist.
        UnsupportedBackboneError: If the FFN of a layer has no such map.
    """
    check_layers(backbone, layers)
    if not projections:
        raise SettingValueError("projections", "projections must name at least one map, got none")
    for projection in projections:
        check_choice("projections", projection, TARGETS)
    names = {id(parameter): name for name, parameter in backbone.model.named_parameters()}
    places = []
    for layer in sorted(layers):
        ffn = backbone.ffn(layer)
        maps = linear_maps(ffn)
        for projection in projections:
            if projection not in maps:
                raise UnsupportedBackboneError(
                    f"{backbone.name}: the {type(ffn).__name__} of layer {layer} must have a "
                    f"linear map {projection!r} that reads every token, got "
                    f"{', '.join(maps) or 'none that is known'}; an editor cannot write to it"
                )
            block = as_block(maps[projection])
            places.append(Place(layer, projection, block, names[id(block.module.weight)]))
    return places


def changed(places: Mapping[Place, Tensor], masters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The whole parameters that have new weights in some places.

    Args:
        places: The new weights ``[o, i]`` of each place.
        masters: The parameters as they were, by name. What no place replaces is taken from them.
    """
    whole: dict[str, Tensor] = {}
    for place, weight in places.items():
        if place.parameter not in whole:
            whole[place.parameter] = masters[place.parameter].to(weight.dtype, copy=True)
        place.block.part(whole[place.parameter]).copy_(weight)
    return whole


class _EnoughRead(Exception):
    """Ends a forward pass whose further layers nobody reads."""


@contextmanager
def _hooked(modules: Iterable[tuple[nn.Module, Any]]) -> Iterator[None]:
    with ExitStack() as stack:
        for module, hook in modules:
            stack.callback(module.register_forward_hook(hook).remove)
        yield


@torch.no_grad()
def read_inputs(backbone: Backbone, places: Sequence[Place], rows: Rows) -> dict[Place, Tensor]:
    """What some places read ``[N, T, i]``; layers above the last of them are not computed."""
    found: dict[Place, Tensor] = {}

    def hook(place: Place) -> Any:
        def keep(_: nn.Module, args: tuple[Tensor, ...], __: Tensor) -> None:
            found[place] = args[0].view(*rows.ids.shape, -1)
            if len(found) == len(places):
                raise _EnoughRead

        return keep

    with _hooked((place.block.module, hook(place)) for place in places), suppress(_EnoughRead):
        rows.hidden(backbone)
    return {place: found[place] for place in places}


def output_of(output: Any) -> Tensor:
    """The hidden states among what a layer returns; older families return a tuple."""
    states: Tensor = output[0] if isinstance(output, tuple) else output
    return states


@torch.no_grad()
def layer_output(backbone: Backbone, layer: int, rows: Rows) -> Tensor:
    """What a layer returns ``[N, T, D]``; the layers above it are not computed."""
    found: list[Tensor] = []

    def keep(_: nn.Module, __: Any, output: Any) -> None:
        found.append(output_of(output))
        raise _EnoughRead

    with _hooked([(backbone.layers[layer], keep)]), suppress(_EnoughRead):
        rows.hidden(backbone)
    return found[0]


@torch.no_grad()
def check_adds(backbone: Backbone, place: Place) -> None:
    """Check that what a down projection writes is added to the residual stream as it is.

    A norm behind the FFN (Gemma 2, OLMo 2) or a multiplier (Granite) stands against it.

    Raises:
        UnsupportedBackboneError: If a change of the projection's output is not the change of the
            layer's output.
    """
    ids = torch.arange(3, device=backbone.device)[None]
    rows = Rows(ids, torch.ones_like(ids), torch.full_like(ids, -100))
    before = at_least_float32(layer_output(backbone, place.layer, rows))
    step = before.std() * torch.linspace(-1, 1, backbone.d_model).to(before)

    def move(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        return output + step.to(output.dtype)

    with _hooked([(place.block.module, move)]):
        after = at_least_float32(layer_output(backbone, place.layer, rows))
    exact = backbone.dtype in (torch.float32, torch.float64)
    # A few entries of a residual stream may be thousands of times as large as the others, so each
    # entry is allowed the rounding of its own size.
    rounding = 4 * torch.finfo(backbone.dtype).eps * before.abs()
    allowed = float(before.std()) * (1e-3 if exact else 0.1) + rounding
    if not bool(((after - before - step).abs() <= allowed).all()):
        raise UnsupportedBackboneError(
            f"{backbone.name}: expected layer {place.layer} to add its FFN's output to the "
            "residual stream as it is, got one that changes it first; an editor that optimises the "
            "value of a subject cannot write to it"
        )
