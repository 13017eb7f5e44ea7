"""Training of SFT-LoRA by Lightning: every instance of the corpus, mixed (DMoE sec. 4.2)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from lightning import LightningModule
from torch import Tensor, nn

from backbone.lora.adapter import LoraAdapter
from backbone.model import Backbone
from dmoe.experts.recipe import Recipe
from dmoe.training.instances import Encoded, label_loss, pad_instances
from plumbing.training.checkpoint import CheckpointError
from plumbing.training.interval import log_every_epoch
from retrieval.rerank.training.batches import next_batch


class MixedBatches:
    """Batches of all instances in random order, another in each epoch.

    The order depends on the seed and the epoch alone: all ranks, and a run that is resumed, agree
    on it. Instances that do not fill a last step are left out of an epoch, others in each. It is
    no ``DataLoader``, so that Lightning neither replaces its order nor moves it.

    Args:
        instances: All of them.
        batch_size: Instances of a step on one rank.
        seed: Of the order.
        position: Epoch and batch to begin with, asked at each iteration.
        rank: Which process this is.
        num_replicas: Of how many.

    Raises:
        ValueError: If there are fewer instances than processes.
    """

    def __init__(
        self,
        instances: Sequence[Encoded],
        batch_size: int,
        seed: int,
        position: Callable[[], tuple[int, int]],
        rank: int = 0,
        num_replicas: int = 1,
    ) -> None:
        if len(instances) < num_replicas:
            raise ValueError(
                f"every process needs an instance in each step, got {len(instances)} instances for "
                f"{num_replicas} processes; use more data or fewer trainer.devices"
            )
        self._instances, self._seed, self._position = instances, seed, position
        self._rank, self._num_replicas = rank, num_replicas
        self._step = min(batch_size, len(instances) // num_replicas) * num_replicas

    def __len__(self) -> int:
        """Batches of an epoch."""
        return len(self._instances) // self._step

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        # A generator: Lightning may ask for an iterator before it has restored its progress.
        epoch, start = self._position()
        order = np.random.default_rng((self._seed, epoch)).permutation(len(self._instances))
        for batch in range(start, len(self)):
            step = order[batch * self._step : (batch + 1) * self._step]
            mine = step[self._rank :: self._num_replicas].tolist()
            yield pad_instances([self._instances[index] for index in mine])

    def state_dict(self) -> dict[str, Any]:
        """Nothing of its own: the trainer's progress says all. It makes Lightning trust us."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing, likewise."""


class SFTModule(LightningModule):
    """Trains one adapter by AdamW at a constant learning rate; the backbone is no part of it.

    Args:
        backbone: The frozen model.
        adapter: The adapter.
        instances: All that it is trained on.
        recipe: The training's settings; the number of epochs is the trainer's.

    Raises:
        ValueError: If there is no instance.
    """

    def __init__(
        self,
        backbone: Backbone,
        adapter: LoraAdapter,
        instances: Sequence[Encoded],
        recipe: Recipe,
    ) -> None:
        super().__init__()
        if not instances:
            raise ValueError(
                "there are no instances to train on; set instances.augmentation, or another split"
            )
        self.backbone, self.adapter = backbone, adapter
        self.instances, self._recipe = instances, recipe
        self.lora = nn.ParameterDict(
            {name.replace(".", "/"): parameter for name, parameter in adapter.parameters.items()}
        )
        # What a run that is resumed must have in common with the one before.
        self.save_hyperparameters(
            {
                "recipe": recipe.as_dict() | {"epochs": None},
                "instances": hashlib.sha256(repr(list(instances)).encode()).hexdigest(),
                "parameters": sorted(adapter.parameters),
            }
        )

    def train_dataloader(self) -> MixedBatches:
        """Shuffled batches, beginning with the one after the last that was trained on."""
        batches = MixedBatches(
            self.instances,
            self._recipe.batch_size,
            self._recipe.seed,
            lambda: next_batch(self.trainer),
            self.trainer.global_rank,
            self.trainer.world_size,
        )
        log_every_epoch(self.trainer, len(batches))
        return batches

    def on_fit_start(self) -> None:
        """Bring the backbone to the device."""
        self.backbone.to(self.device)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Mean negative log-likelihood of the batch's labels (nats a label)."""
        with self.adapter.attached():
            loss = label_loss(self.backbone, batch)
        self.log("train/loss", loss, on_step=True, on_epoch=True, prog_bar=True, sync_dist=True,
                 batch_size=len(batch["labels"]))  # fmt: skip
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW over the adapter's factors."""
        recipe = self._recipe
        return torch.optim.AdamW(
            self.lora.parameters(),
            lr=recipe.lr,
            betas=(recipe.betas[0], recipe.betas[1]),
            eps=recipe.eps,
            weight_decay=recipe.weight_decay,
        )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Name the backbone and its fingerprint beside the adapter."""
        checkpoint["backbone"] = {
            "name": self.backbone.name,
            "fingerprint": self.backbone.fingerprint,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse to go on with another backbone, other instances or another recipe.

        Raises:
            CheckpointError: Naming what is different.
        """
        before = {
            **checkpoint["hyper_parameters"],
            "backbone": checkpoint["backbone"]["fingerprint"],
        }
        now = {**self.hparams, "backbone": self.backbone.fingerprint}
        if changed := [key for key in now if before.get(key) != now[key]]:
            raise CheckpointError(
                f"the checkpoint's run had another {changed[0]}; go on with the same data, model, "
                "instances, lora and recipe, or without ckpt_path"
            )
