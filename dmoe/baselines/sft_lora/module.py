"""Training of SFT-LoRA with Lightning, on all instances of the corpus mixed (DMoE sec. 4.2)."""

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
    """Batches of all instances in random order; each epoch has another order.

    The order depends only on the seed and the epoch, so all ranks agree on it, and so does a run
    that is resumed. An epoch leaves out the instances that would not fill a last step; these differ
    from epoch to epoch. The class is not a ``DataLoader``, so that Lightning does not replace its
    order by another.

    Args:
        instances: All instances.
        batch_size: How many instances a step takes on one rank.
        seed: The seed of the order.
        position: A function that returns the epoch and the batch to begin with. It is called at the
            beginning of each iteration.
        rank: The number of this process.
        num_replicas: How many processes there are.

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
        """The number of batches in an epoch."""
        return len(self._instances) // self._step

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        # This is a generator, so the position is read when the first batch is asked for: Lightning
        # may ask for an iterator before it has restored its progress.
        epoch, start = self._position()
        order = np.random.default_rng((self._seed, epoch)).permutation(len(self._instances))
        for batch in range(start, len(self)):
            step = order[batch * self._step : (batch + 1) * self._step]
            mine = step[self._rank :: self._num_replicas].tolist()
            yield pad_instances([self._instances[index] for index in mine])

    def state_dict(self) -> dict[str, Any]:
        """Return an empty state, because the position comes from the trainer's progress.

        Without this method, Lightning warns when a run is resumed in the middle of an epoch.
        """
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Do nothing, because the state is empty."""


class SFTModule(LightningModule):
    """Trains one adapter by AdamW at a constant learning rate.

    The backbone is not a submodule, so checkpoints hold the adapter alone.

    Args:
        backbone: The frozen model.
        adapter: The adapter.
        instances: All instances that it is trained on.
        recipe: The training's settings. Its number of epochs is not used: the trainer sets it.

    Raises:
        ValueError: If there are no instances.
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
                "there are no instances to train on; give other augmentations, or another split"
            )
        self.backbone, self.adapter = backbone, adapter
        self.instances, self._recipe = instances, recipe
        self.lora = nn.ParameterDict(
            {name.replace(".", "/"): parameter for name, parameter in adapter.parameters.items()}
        )
        # A run that is resumed must have the same values of these as the run before.
        self.save_hyperparameters(
            {
                "recipe": recipe.as_dict() | {"epochs": None},
                "instances": hashlib.sha256(repr(list(instances)).encode()).hexdigest(),
                "parameters": sorted(adapter.parameters),
                "alpha": adapter.alpha,
            }
        )

    def train_dataloader(self) -> MixedBatches:
        """Make the shuffled batches, beginning after the last batch that was trained on."""
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
        """Move the backbone to the device."""
        self.backbone.to(self.device)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Compute the mean negative log-likelihood of the batch's labels (nats per label)."""
        with self.adapter.attached():
            loss = label_loss(self.backbone, batch)
        self.log("train/loss", loss, on_step=True, on_epoch=True, prog_bar=True, sync_dist=True,
                 batch_size=len(batch["labels"]))  # fmt: skip
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Make AdamW over the adapter's matrices."""
        recipe = self._recipe
        return torch.optim.AdamW(
            self.lora.parameters(),
            lr=recipe.lr,
            betas=(recipe.betas[0], recipe.betas[1]),
            eps=recipe.eps,
            weight_decay=recipe.weight_decay,
        )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the backbone's name and fingerprint together with the adapter."""
        checkpoint["backbone"] = {
            "name": self.backbone.name,
            "fingerprint": self.backbone.fingerprint,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that the backbone, the instances and the recipe are those of the checkpoint's run.

        Raises:
            CheckpointError: If one of them has changed; the message names it.
        """
        before = checkpoint["hyper_parameters"]
        changed = [key for key, now in self.hparams.items() if before.get(key, now) != now]
        if self.backbone.identity.difference(checkpoint["backbone"]["fingerprint"]):
            changed.append("backbone")
        if changed:
            raise CheckpointError(
                f"the checkpoint's run had another {changed[0]}; go on with the same data, model, "
                "instances, lora and recipe, or without ckpt_path"
            )
