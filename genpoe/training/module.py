"""Meta-training of the hypernetwork (GenPoE sec. 3.2.2, eq. 5; settings of sec. 4.1).

Shapes: N questions, P passages, S passage tokens, T tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import LightningModule
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from tqdm import tqdm

from backbone.likelihood import IGNORE, answer_nll
from backbone.model import Backbone
from backbone.split import SplitBackbone
from genpoe.experts import Experts
from genpoe.hypernet.mean import Hypernet, mean_pool
from genpoe.injection import ExpertLayer
from genpoe.model import check_backbone
from genpoe.training.frozen_states import FrozenStates, frozen_states
from plumbing.training.checkpoint import CheckpointError

_STRUCTURE = ("rank", "layer", "hidden_width", "embedding_scaling", "max_passage_tokens")
_PASSAGES_TO_FIT = 16384  # whose pooled embeddings give the scaler's statistics
_QUESTIONS_TO_FIT = 512  # at whose answers the FFN's input and output are looked at


class GenPoEModule(LightningModule):
    """Trains the hypernetwork end to end on (question, gold passage, answer) triples.

    The backbone is no submodule: its weights are in no checkpoint, in no optimiser and in no
    gradient all-reduce. Nothing below the expert layer has a gradient, since neither the frozen
    weights nor the tokens ask for one; autograd starts where the expert's output is added.

    Deviation: eq. 5 sums the answer's token losses; we take the mean over each answer's tokens,
    the stop token among them, and the mean over questions, so that long answers do not rule.

    Args:
        backbone: The frozen model.
        rank: R of the experts (the paper's k).
        layer: Index of the expert layer, from 0.
        hidden_width: Width between the hypernetwork's two linear layers.
        embedding_scaling: "none", "standardize" or "whiten"; see `genpoe.hypernet.mean`.
        initialization: "copy" or "random"; see `genpoe.hypernet.mean`.
        noise: On the pooled embedding while training; see `genpoe.hypernet.mean`.
        max_passage_tokens: Longer passages are cut.
        cache_dir: Where the states below the expert layer are kept, computed once for all epochs
            and later runs; None: they are computed anew in every step.
        lr: Learning rate at the start of the cosine (sec. 4.1: 1e-4).
        lr_min: Learning rate at its end (sec. 4.1: 1e-6).
        warmup_steps: Steps of linear warm-up before it (the paper names none).
        common_lr_scale: The expert common to all passages (the second layer's bias) learns this
            many times faster. Each of its elements is one parameter, where what depends on the
            passage is a sum over ``hidden_width`` of them, all moved by Adam alike.
        weight_decay: AdamW's.
        betas: AdamW's.
        seed: Of the noise.

    Raises:
        ValueError: If a setting is out of range.
    """

    def __init__(
        self,
        backbone: Backbone,
        rank: int,
        layer: int,
        hidden_width: int,
        embedding_scaling: str = "whiten",
        initialization: str = "copy",
        noise: float = 0.0,
        max_passage_tokens: int = 512,
        cache_dir: str | None = None,
        lr: float = 1e-4,
        lr_min: float = 1e-6,
        warmup_steps: int = 0,
        common_lr_scale: float = 1.0,
        weight_decay: float = 0.01,
        betas: Sequence[float] = (0.9, 0.999),
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not 0 <= lr_min <= lr or lr == 0:
            raise ValueError(
                f"need 0 <= lr_min <= lr and lr > 0, got lr_min={lr_min}, lr={lr}; set optim.lr"
            )
        betas = (float(betas[0]), float(betas[1]))
        self.save_hyperparameters(ignore=["backbone", "cache_dir", "seed"])
        self._seed = seed
        self.backbone = backbone
        self._cache_dir = cache_dir
        self._split = SplitBackbone(backbone, layer) if cache_dir else None
        self._frozen: dict[str, FrozenStates] = {}
        self.expert_layer = ExpertLayer(backbone, layer)
        self.hypernet = Hypernet(
            backbone.d_model, rank, hidden_width, embedding_scaling, initialization, noise
        )

    def generate_experts(
        self,
        passage_input_ids: Tensor,
        passage_attention_mask: Tensor,
        noise: torch.Generator | None = None,
    ) -> Experts:
        """Eq. 4 on token ids ``[P, S]``: P sets of K = 1 expert."""
        with torch.no_grad():
            embedded = self.backbone.embedding(passage_input_ids)
            pooled = mean_pool(embedded, passage_attention_mask)
        return self.hypernet(pooled, noise)

    def forward(self, batch: dict[str, Any], noise: torch.Generator | None = None) -> Tensor:
        """Each question's answer nll (nats per token, ``[N]``) under its passage's expert."""
        experts = self.generate_experts(
            batch["passage_input_ids"], batch["passage_attention_mask"], noise
        )
        weight = torch.ones(experts.num_sets, 1, device=self.device)
        with self.expert_layer.injected(experts, weight, batch["rows"]):
            return self._answer_nll(batch)

    def _answer_nll(self, batch: dict[str, Any]) -> Tensor:
        return answer_nll(
            self.backbone,
            batch["input_ids"],
            batch["attention_mask"],
            batch["labels"],
            self._from_cache(batch),
        )

    def _from_cache(self, batch: dict[str, Any]) -> Callable[[Tensor, Tensor], Tensor] | None:
        if self._split is None:
            return None
        split = self._split
        states = self._frozen[batch["split"]].rows(batch["examples"]).to(self.device)
        return lambda _, attention_mask: split.above(states, attention_mask)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """The meta loss (eq. 5) of one batch, every question weighing the same on every rank."""
        # Its own generator: another noise on each rank and step, and the same after a resumption.
        place = (self._seed, self.global_step, batch_idx, self.global_rank)
        key = np.random.SeedSequence(place).generate_state(1, np.uint64)[0]
        noise = torch.Generator(self.device).manual_seed(int(key))
        loss = (self(batch, noise) * batch["loss_weight"]).sum()
        self.log("train/loss", loss, on_step=True, prog_bar=True, sync_dist=True)
        return loss

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Answer nll with the question's own passage, and with another question's."""
        # As a float: Lightning takes the mean of the ranks' counts, and that of integers is cut.
        size: Any = float(len(batch["rows"]))
        self.log("val/loss", self(batch).mean(), batch_size=size, sync_dist=True, prog_bar=True)
        passages = len(batch["passage_input_ids"])
        if passages > 1:
            shuffled = {**batch, "rows": (batch["rows"] + passages // 2) % passages}
            loss = self(shuffled).sum()
            self._shuffled_total += torch.stack([loss, loss.new_tensor(size)])

    def on_validation_epoch_start(self) -> None:
        """Begin to sum the loss with other questions' passages, and to count its questions."""
        self._shuffled_total = torch.zeros(2, device=self.device)

    def on_validation_epoch_end(self) -> None:
        """Log that loss once for all ranks: one whose batches all have one passage has none."""
        total: Any = self.trainer.strategy.reduce(self._shuffled_total, reduce_op="sum")
        if total[1]:
            self.log("val/loss_shuffled", total[0] / total[1])

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW with a cosine from ``lr`` to ``lr_min`` over the whole training (sec. 4.1)."""
        settings, lr = self.hparams, self.hparams["lr"]
        common = self.hypernet.linear2.bias
        own = [p for p in self.hypernet.parameters() if p is not common]
        optimizer = torch.optim.AdamW(
            [{"params": own}, {"params": [common], "lr": lr * settings["common_lr_scale"]}],
            lr=lr,
            betas=settings["betas"],
            weight_decay=settings["weight_decay"],
            fused=str(self.trainer.precision) != "16-mixed",  # which clips gradients itself
        )
        total = max(1, int(self.trainer.estimated_stepping_batches))
        floor = settings["lr_min"] / settings["lr"]

        def factor(step: int) -> float:
            cosine = 0.5 * (1 + math.cos(math.pi * min(step / total, 1)))
            warm = min(1.0, (step + 1) / max(1, settings["warmup_steps"]))
            return warm * (floor + (1 - floor) * cosine)

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def on_fit_start(self) -> None:
        """Bring the backbone to the device, compute what is frozen, fit what starts from data."""
        self.backbone.to(self.device)
        datamodule = self.trainer.datamodule  # type: ignore[attr-defined]
        if self._split is not None:
            for name, sequences in datamodule.sequences().items():
                self._frozen[name] = self._frozen_states(name, sequences)
        if self.hypernet.started:
            return
        pooled = []
        for ids, mask in datamodule.passage_batches(_PASSAGES_TO_FIT):
            embedded = self.backbone.embedding(ids.to(self.device))
            pooled.append(mean_pool(embedded, mask.to(self.device)))
        self.hypernet.start(torch.cat(pooled), *self._ffn_sample(datamodule))
        if self.trainer.world_size > 1:  # eigenvectors may differ in sign between machines
            for tensor in self.hypernet.state_dict().values():
                torch.distributed.broadcast(tensor, 0)

    @torch.no_grad()
    def _ffn_sample(self, datamodule: Any) -> tuple[Tensor, Tensor]:
        """Inputs and outputs of the layer's FFN where a sample of training answers is predicted."""
        seen: list[tuple[Tensor, Tensor]] = []
        for batch in datamodule.question_batches(_QUESTIONS_TO_FIT):
            batch = self.transfer_batch_to_device(batch, self.device, 0)
            predicts = batch["labels"][:, 1:] != IGNORE

            def keep(_: Any, args: tuple[Any, ...], output: Tensor, at: Tensor = predicts) -> None:
                seen.append((args[0][at], output[at]))  # FFNs take their input by position

            handle = self.expert_layer.ffn.register_forward_hook(keep)
            try:
                self._answer_nll(batch)
            finally:
                handle.remove()
        inputs, outputs = zip(*seen, strict=True)
        return torch.cat(inputs), torch.cat(outputs)

    def _frozen_states(self, name: str, sequences: list[list[int]]) -> FrozenStates:
        def compute() -> FrozenStates:
            return frozen_states(
                self._split,  # type: ignore[arg-type]
                sequences,
                self.expert_layer.layer,
                Path(str(self._cache_dir)),
                _progress(name),
            )

        if self.trainer.world_size == 1:
            return compute()
        if self.trainer.local_rank == 0:  # the others of its node then find it on the disk
            compute()
        self.trainer.strategy.barrier("frozen states")
        return compute()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Name the backbone and its fingerprint beside the hypernetwork.

        Raises:
            CheckpointError: If a weight is not finite: the checkpoint before it is worth more.
        """
        broken = [n for n, p in self.hypernet.named_parameters() if not p.isfinite().all()]
        if broken:
            raise CheckpointError(
                f"training has diverged: {', '.join(broken)} are no longer finite, and nothing is "
                "saved over the last checkpoint; lower optim.lr"
            )
        checkpoint["backbone"] = {
            "name": self.backbone.name,
            "fingerprint": self.backbone.fingerprint,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse to go on beside another backbone, or with another hypernetwork.

        Raises:
            BackboneMismatchError: If the backbone is another.
            CheckpointError: If a setting that the weights depend on is another.
        """
        origin = checkpoint["backbone"]
        check_backbone(self.backbone, origin["name"], origin["fingerprint"])
        before, now = checkpoint["hyper_parameters"], dict(self.hparams)
        changed = {key for key in now if key in before and before[key] != now[key]}
        said = ", ".join(f"{key} was {before[key]}, is {now[key]}" for key in sorted(changed))
        if changed & set(_STRUCTURE):
            raise CheckpointError(
                f"the checkpoint is of another hypernetwork: {said}; go on with the same "
                "experiment and the same model settings"
            )
        if changed:
            rank_zero_warn(f"the run goes on with other settings: {said}", category=UserWarning)


def _progress(name: str) -> Callable[[Sequence[Any]], Any]:
    return lambda batches: tqdm(batches, desc=f"States below the expert layer ({name})")
