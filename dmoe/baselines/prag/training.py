"""Training of one passage's adapter, as PRAG trains it (Su et al. 2025).

Shapes: N instances, T tokens, R rank, I inputs and O outputs of a projection.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dmoe.baselines.prag.layer_ffns import LayerFFNs
from dmoe.experts.expert import Expert, ExpertSettingError, ExpertSpec
from dmoe.experts.recipe import Recipe
from dmoe.training.instances import Encoded, label_loss, pad_instances


@torch.inference_mode(False)  # an adapter may be trained while a question is answered
@torch.enable_grad()
def train_adapter(
    ffns: LayerFFNs, instances: Sequence[Encoded], spec: ExpertSpec, recipe: Recipe
) -> Expert:
    """Train an adapter on the FFNs of some layers, in float32, by AdamW.

    The adapted FFNs may lie in any layer, so hidden states cannot be computed once and used again,
    as they are for experts on the final FFN (`dmoe.training.grouped`).

    Args:
        ffns: The FFNs that the adapter changes. The frozen backbone's own weights stay as they are.
        instances: The instances of the passage, at least one.
        spec: The rank, alpha, and the projections of each FFN.
        recipe: The training's settings.

    Returns:
        The adapter, as float32 tensors on the CPU.

    Raises:
        ExpertError: If the training diverged, or an FFN lacks a projection.
    """
    backbone = ffns.backbone
    adapter = {
        name: tensor.to(backbone.device).requires_grad_()
        for name, tensor in ffns.initial(spec, recipe.seed).items()
    }
    optimizer = torch.optim.AdamW(
        adapter.values(),
        lr=recipe.lr,
        betas=(recipe.betas[0], recipe.betas[1]),
        eps=recipe.eps,
        weight_decay=recipe.weight_decay,
    )

    def term(name: str, x_NTI: Tensor) -> Tensor:
        """Compute ``alpha / rank · B A x``, in float32 as in PEFT."""
        a_RI, b_OR = adapter[f"{name}.lora_A"], adapter[f"{name}.lora_B"]
        return x_NTI.to(a_RI.dtype) @ a_RI.mT @ b_OR.mT * spec.scaling

    with ffns.adding(term, {name.rpartition(".")[0] for name in adapter}):
        for _ in range(recipe.epochs):
            for first in range(0, len(instances), recipe.batch_size):
                some = instances[first : first + recipe.batch_size]
                optimizer.zero_grad()
                label_loss(backbone, pad_instances(some, backbone.device)).backward()
                optimizer.step()
    trained = {name: tensor.detach().cpu() for name, tensor in adapter.items()}
    if not all(bool(tensor.isfinite().all()) for tensor in trained.values()):
        raise ExpertSettingError("recipe.lr", "the training of an adapter diverged", "lower {}")
    return trained
