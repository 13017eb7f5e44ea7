"""The obvious way to train experts: PEFT, one passage after another, in a plain loop.

What the grouped trainer is measured against, and must equal (``scripts/benchmark.py
suite=experts``, ``tests/dmoe/test_grouped.py``).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch

from dmoe.expert import Expert, ExpertSpec, initial_expert
from dmoe.final_ffn import FinalFFN
from dmoe.instance_batch import pad_instances
from dmoe.instances import Encoded
from dmoe.recipe import Recipe
from qa.backbone import Backbone


class PeftLoop:
    """A backbone with one PEFT adapter on its final FFN, trained anew for each passage.

    Args:
        backbone: PEFT puts its layers into this model: give it one of its own.
        spec: The experts' settings.
        recipe: The training's.
    """

    def __init__(self, backbone: Backbone, spec: ExpertSpec, recipe: Recipe) -> None:
        from peft import LoraConfig, get_peft_model

        ffn = FinalFFN(backbone)
        self._sizes, self._spec, self._recipe = ffn.sizes, spec, recipe
        leaves = {
            target: name.rpartition(".")[2]
            for target in spec.targets
            for name, module in backbone.model.named_modules()
            if module is ffn.projections[target]
        }
        last = backbone.num_layers - 1
        config = LoraConfig(
            r=spec.rank,
            lora_alpha=spec.alpha,  # type: ignore[arg-type]  # PEFT takes fractions as well
            target_modules=list(leaves.values()),
            layers_to_transform=[last],
            lora_dropout=0.0,
            task_type="CAUSAL_LM",
        )
        with warnings.catch_warnings():
            # PEFT asks transformers by a name that is going; nothing for us to change.
            warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
            self._model: Any = get_peft_model(backbone.model, config)
        parameters = dict(self._model.named_parameters())
        self._parameters = {
            f"{target}.{matrix}": next(
                parameter
                for name, parameter in parameters.items()
                if f".{last}." in name and f".{leaf}.{matrix}." in name
            )
            for target, leaf in leaves.items()
            for matrix in ("lora_A", "lora_B")
        }
        self._device = backbone.device

    def train(self, id: str, instances: Sequence[Encoded], recipe: Recipe | None = None) -> Expert:
        """One passage's expert, on the CPU.

        Args:
            id: Of the passage.
            instances: Its instances.
            recipe: Another than the loop's.
        """
        recipe = recipe or self._recipe
        initial = initial_expert(self._spec, self._sizes, id, recipe.seed)
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                parameter.copy_(initial[name])
        optimizer = torch.optim.AdamW(
            self._parameters.values(),
            lr=recipe.lr,
            betas=(recipe.betas[0], recipe.betas[1]),
            eps=recipe.eps,
            weight_decay=recipe.weight_decay,
        )
        for _ in range(recipe.epochs):
            for first in range(0, len(instances), recipe.batch_size):
                batch = pad_instances(instances[first : first + recipe.batch_size], self._device)
                optimizer.zero_grad()
                self._model(**batch).loss.backward()
                optimizer.step()
        return {name: p.detach().cpu().clone() for name, p in self._parameters.items()}
