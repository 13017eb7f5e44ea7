"""An expert in the form of the model's own linear maps, as PEFT adapts them.

Where gate and up are two blocks of one map (Phi3, GLM4), PEFT has one A and one B for both, and
an expert has two of each. Side by side, ``A = [A_gate; A_up]`` and a block-diagonal B of twice the
rank compute the same. All maps of the adapter then have this rank, filled up with zeros.

Shapes: R rank, I inputs and O outputs of a map.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from backbone.final_ffn import FinalFFN
from backbone.projections import Block, as_block
from dmoe.experts.expert import Expert, ExpertSpec


def map_names(ffn: FinalFFN) -> dict[str, dict[str, Block]]:
    """The final FFN's linear maps by their names in the model, each with its projections."""
    names = {id(part): name for name, part in ffn.backbone.model.named_modules()}
    found: dict[str, dict[str, Block]] = {}
    for target, projection in ffn.projections.items():
        block = as_block(projection)
        found.setdefault(names[id(block.module)], {})[target] = block
    return found


def stores_transposed(ffn: FinalFFN) -> bool:
    """True if the maps hold their weights as ``[I, O]``, which PEFT calls fan-in fan-out."""
    return any(isinstance(as_block(part).module, Conv1D) for part in ffn.projections.values())


def as_maps(
    expert: Mapping[str, Tensor], spec: ExpertSpec, ffn: FinalFFN
) -> tuple[dict[str, Tensor], ExpertSpec]:
    """Join an expert's projections to the model's maps.

    Returns:
        The factors ``<map>.lora_A`` ``[R, I]`` and ``<map>.lora_B`` ``[O, R]``, and the settings
        that go with their rank.
    """
    maps = {
        name: [t for t in blocks if t in spec.targets] for name, blocks in map_names(ffn).items()
    }
    times = max(map(len, maps.values()))
    rank = spec.rank * times
    found: dict[str, Tensor] = {}
    for name, targets in maps.items():
        if not targets:
            continue
        blocks = map_names(ffn)[name]
        outputs = sum(block.out_features for block in blocks.values())
        like = expert[f"{targets[0]}.lora_A"]
        a_RI, b_OR = like.new_zeros(rank, like.shape[1]), like.new_zeros(outputs, rank)
        for place, target in enumerate(targets):
            part = slice(place * spec.rank, (place + 1) * spec.rank)
            a_RI[part] = expert[f"{target}.lora_A"]
            first = blocks[target].first
            b_OR[first : first + blocks[target].out_features, part] = expert[f"{target}.lora_B"]
        found[f"{name}.lora_A"], found[f"{name}.lora_B"] = a_RI, b_OR
    return found, replace(spec, rank=rank, alpha=spec.alpha * times)


def from_maps(tensors: Mapping[str, Tensor], ffn: FinalFFN) -> Expert:
    """Take the projections of an expert out of the factors of the model's maps.

    A block whose part of B is zero is left out where the map's other block has one that is not.
    """
    expert: Expert = {}
    for name, blocks in map_names(ffn).items():
        if f"{name}.lora_A" not in tensors or f"{name}.lora_B" not in tensors:
            continue
        a_RI, b_OR = tensors[f"{name}.lora_A"], tensors[f"{name}.lora_B"]
        whole = len(blocks) == 1
        parts = {
            target: b_OR if whole else b_OR[block.first : block.first + block.out_features]
            for target, block in blocks.items()
        }
        acting = {target: b for target, b in parts.items() if bool(b.any())} or parts
        for target, b in acting.items():
            expert |= {f"{target}.lora_A": a_RI, f"{target}.lora_B": b}
    return expert


def of_least_rank(
    expert: Mapping[str, Tensor], spec: ExpertSpec, ffn: FinalFFN
) -> tuple[Expert, ExpertSpec]:
    """Undo what `as_maps` did to the rank. An expert that it did not make stays as it is."""
    groups = [[t for t in blocks if t in spec.targets] for blocks in map_names(ffn).values()]
    times = max(map(len, groups), default=1)
    rank = spec.rank // times
    fitting = all(
        tensor.shape[name.endswith("lora_B")] == rank * times for name, tensor in expert.items()
    )
    if times == 1 or spec.rank % times or not fitting:
        return dict(expert), spec
    least: Expert = {}
    for targets in groups:
        for place, target in enumerate(targets):
            part = slice(place * rank, (place + 1) * rank)
            b_OR = expert[f"{target}.lora_B"].clone()
            least[f"{target}.lora_B"] = b_OR[:, part].clone()
            least[f"{target}.lora_A"] = expert[f"{target}.lora_A"][part].clone()
            b_OR[:, part] = 0
            if bool(torch.any(b_OR != 0)):
                return dict(expert), spec
    ordered = {name: least[name] for name in expert}
    return ordered, replace(spec, rank=rank, alpha=spec.alpha / times)
