"""Contrastive fine-tuning of a reranker on mined lists (GenPoE sec. 3.3.2, eq. 8).

Training starts at the first step or goes on from a checkpoint.

Shapes: N pairs, of all lists of a batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor

from plumbing.mounts import SettingValueError
from plumbing.settings import check_choice, typed
from plumbing.stopwatch import Stopwatch
from plumbing.training.setup import fit, write_metrics
from retrieval.rerank.cross_encoder import CrossEncoder
from retrieval.rerank.folder import save_cross_encoder
from retrieval.rerank.pretrained import RerankerError
from retrieval.rerank.training.batches import ListBatch, RerankerDataModule

SCHEDULES = ("linear", "cosine", "constant")


def contrastive_loss(scores_N: Tensor, sizes: Sequence[int]) -> Tensor:
    """Cross-entropy of each list's first candidate against all of its candidates (eq. 8).

    Args:
        scores_N: Raw scores of the lists, one list after the other.
        sizes: How many candidates each list has: one positive, the first, and L negatives; L may
            differ.

    Returns:
        The mean over the lists, in nats.

    Raises:
        ValueError: If the sizes do not add up to N, or there is no list.
    """
    if not sizes or sum(sizes) != len(scores_N):
        raise ValueError(f"expected sizes that add up to {len(scores_N)} scores, got {list(sizes)}")
    lists = scores_N.split(list(sizes))
    return torch.stack([one.logsumexp(0) - one[0] for one in lists]).mean()


class RerankerModule(LightningModule):
    """Trains a cross-encoder: an encoder in full, of a decoder what is trainable (LoRA).

    Args:
        cross_encoder: The model.
        lr: Learning rate after the warm-up.
        warmup: Share of all steps in which it rises from zero.
        schedule: "linear" or "cosine" to zero at the end, or "constant".
        weight_decay: AdamW's, of matrices; none of biases and norms.

    Raises:
        ValueError: If a setting is mistyped or out of range.
    """

    @typed
    def __init__(
        self,
        cross_encoder: CrossEncoder,
        lr: float = 1e-4,
        warmup: float = 0.1,
        schedule: str = "linear",
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__()
        if not 0 < lr < math.inf:
            raise SettingValueError("lr", f"lr must be positive, got {lr}")
        if not 0 <= warmup <= 1:
            raise SettingValueError("warmup", f"warmup must be in 0 … 1, got {warmup}")
        if not 0 <= weight_decay < math.inf:
            raise SettingValueError(
                "weight_decay", f"weight_decay must not be negative, got {weight_decay}"
            )
        check_choice("schedule", schedule, SCHEDULES)
        self.save_hyperparameters(ignore=["cross_encoder"])
        self.cross_encoder = cross_encoder
        self.strict_loading = False  # a checkpoint holds what is trained; see on_load_checkpoint

    def forward(self, batch: ListBatch) -> Tensor:
        """Raw scores ``[N]`` of a batch's pairs."""
        scores: Tensor = self.cross_encoder(batch.pairs)
        return scores

    def training_step(self, batch: ListBatch, batch_idx: int) -> Tensor:
        """Eq. 8, the mean over the batch's lists."""
        loss = contrastive_loss(self(batch), batch.sizes)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch.sizes), sync_dist=True)
        return loss

    def validation_step(self, batch: ListBatch, batch_idx: int) -> None:
        """Where the best positive comes to stand among the candidates, before and after."""
        scores = self(batch).split(batch.sizes)
        sums = {"loss": 0.0, "accuracy@1": 0.0, "mrr": 0.0}
        sums |= {"retriever_accuracy@1": 0.0, "retriever_mrr": 0.0}
        for one, positives, above in zip(scores, batch.num_positives, batch.above, strict=True):
            # Eq. 8 with the first positive; where there are more, they are no negatives.
            candidates = torch.cat([one[:1], one[positives:]])
            sums["loss"] += contrastive_loss(candidates, [len(candidates)]).item()
            rank = 1 + int((one[positives:] >= one[:positives].max()).sum())
            for prefix, place in (("", rank), ("retriever_", above + 1)):
                sums[f"{prefix}accuracy@1"] += 100.0 * (place == 1)
                sums[f"{prefix}mrr"] += 1.0 / place
        count = len(batch.sizes)
        # As a float: Lightning takes the mean of the ranks' counts, and that of integers is cut.
        weight: Any = float(count)
        for name, value in sums.items():
            self.log(f"val/{name}", value / count, batch_size=weight, sync_dist=True)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW, with a warm-up and a decay over the whole training."""
        trained = [p for p in self.parameters() if p.requires_grad]
        decay = self.hparams["weight_decay"]
        groups = [
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": decay},
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW([g for g in groups if g["params"]], lr=self.hparams["lr"])
        steps = max(1, int(self.trainer.estimated_stepping_batches))
        warmup, schedule = self.hparams["warmup"], self.hparams["schedule"]
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: lr_factor(step / steps, warmup, schedule, 1 / steps)
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep only what is trained."""
        names = self._trained()
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {name: state[name] for name in state if name in names}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse weights of another model.

        Raises:
            RerankerError: If other weights are trained here.
        """
        mine = {name: tuple(p.shape) for name, p in self.named_parameters() if p.requires_grad}
        theirs = {name: tuple(t.shape) for name, t in checkpoint["state_dict"].items()}
        if mine != theirs:
            differ = sorted({name for name, _ in mine.items() ^ theirs.items()})
            raise RerankerError(
                f"the checkpoint is of another reranker: {len(differ)} of its weights or of ours "
                f"have no match, such as {differ[0]}; go on with the same cross_encoder settings"
            )

    def _trained(self) -> set[str]:
        return {name for name, p in self.named_parameters() if p.requires_grad}


def lr_factor(progress: float, warmup: float, schedule: str, first: float = 0.0) -> float:
    """What the learning rate is multiplied with.

    Args:
        progress: Share of the steps done, 0 … 1.
        warmup: Share of the steps in which the factor rises to 1.
        schedule: One of `SCHEDULES`, after the warm-up.
        first: One step as a share of all, so that the first one moves something.
    """
    if progress < warmup:
        return min(1.0, (progress + first) / warmup)
    rest = min(1.0, (progress - warmup) / (1 - warmup)) if warmup < 1 else 1.0
    if schedule == "constant":
        return 1.0
    return 1 - rest if schedule == "linear" else 0.5 * (1 + math.cos(math.pi * rest))


FOLDER = "reranker"  # in the run folder: what conf/reranker's path names


def train_reranker(
    module: RerankerModule,
    data: RerankerDataModule,
    trainer: Trainer,
    run_dir: str | Path,
    ckpt_path: str | None = None,
    training: dict[str, Any] | None = None,
) -> dict[str, float]:
    """Train, save the reranker, and write ``metrics.json``.

    Args:
        module: The model and its optimiser's settings.
        data: The lists.
        trainer: Lightning's.
        run_dir: Where the folder ``reranker`` and ``metrics.json`` go.
        ckpt_path: Go on from this checkpoint; None: from the start.
        training: How the reranker was made, plain JSON values; kept in its manifest.

    Returns:
        What was measured: ``train/loss`` (the last step's); of the lists held out ``val/loss``,
        ``val/accuracy@1`` (percent) and ``val/mrr`` (0 … 1), both of the best gold passage among
        all candidates, and ``val/retriever_accuracy@1``, ``val/retriever_mrr`` in the retriever's
        own order; ``steps``, ``lists``, ``val_lists`` and ``seconds``.

    Raises:
        CheckpointError: If ``ckpt_path`` names no loadable checkpoint: nothing starts afresh.
        RerankerError: If the checkpoint is of another reranker.
        ValueError: If a setting is at fault.
    """
    watch = Stopwatch()
    metrics = {
        name: value
        for name, value in fit(trainer, module, data, ckpt_path).items()
        if name.startswith(("train/", "val/", "steps"))  # a monitor adds the learning rate's last
    }
    metrics |= {"lists": len(data.train), "val_lists": len(data.val)}
    metrics["seconds"] = watch.seconds
    if trainer.is_global_zero:
        save_cross_encoder(module.cross_encoder, Path(run_dir, FOLDER), training)
    write_metrics(trainer, run_dir, metrics)
    return metrics
