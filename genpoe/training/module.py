"""Meta-training of the hypernetwork (GenPoE sec. 3.2.2, eq. 5; settings of sec. 4.1).

Shapes: N questions, P passages, S passage tokens, T tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import LightningModule
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor

from backbone.likelihood import IGNORE, answer_nll
from backbone.model import Backbone
from backbone.split import SplitBackbone
from genpoe.experts import Experts
from genpoe.hypernet.hypernet import Hypernet, PassageTokens
from genpoe.hypernet.saved import as_nested
from genpoe.injection import ExpertLayer
from genpoe.model import check_backbone
from genpoe.training.frozen_states import FrozenStates, frozen_states
from genpoe.training.settings import OptimSettings
from plumbing.progress import progress
from plumbing.storage.jsonl import DataError
from plumbing.training.checkpoint import CheckpointError
from qa.prompts import PROMPT_OF_0_1, prompt_template

_PASSAGES_TO_START = 16384  # passages that a hypernetwork may look at before its training
_QUESTIONS_TO_START = 512  # questions at whose answers it may look at the FFN


class GenPoEModule(LightningModule):
    """Trains the hypernetwork end to end on (question, gold passage, answer) triples.

    The backbone is no submodule, so its weights are in no checkpoint, in no optimiser and in no
    exchange of gradients. Nothing below the expert layer has a gradient: autograd starts where the
    expert's output is added.

    Deviation: eq. 5 sums the losses of the answer's tokens. We take the mean over each answer's
    tokens, including the stop token, and the mean over the questions, so that long answers do not
    dominate.

    Args:
        backbone: The frozen model.
        hypernet: The hypernetwork that is trained.
        optim: The optimiser's settings.
        max_passage_tokens: Longer passages are cut.
        cache_dir: The folder for the states below the expert layer, which are then computed once
            for all epochs and later runs; None: every step computes them anew.
        seed: Seed of the noise.

    Raises:
        ValueError: If the expert layer is out of range.
    """

    def __init__(
        self,
        backbone: Backbone,
        hypernet: Hypernet,
        optim: OptimSettings,
        max_passage_tokens: int = 512,
        cache_dir: str | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(
            {
                "hypernet": hypernet.settings.saved(),
                "optim": asdict(optim),
                "max_passage_tokens": max_passage_tokens,
            }
        )
        layer = hypernet.settings.layer
        self._seed = seed
        self._optim = optim
        self.backbone = backbone
        self._cache_dir = cache_dir
        self._split = SplitBackbone(backbone, layer) if cache_dir else None
        self._frozen: dict[str, FrozenStates] = {}
        self.expert_layer = ExpertLayer(backbone, layer)
        self.hypernet = hypernet

    def generate_experts(
        self,
        passage_input_ids: Tensor,
        passage_attention_mask: Tensor,
        noise: torch.Generator | None = None,
    ) -> Experts:
        """Generate experts from token ids ``[P, S]`` (eq. 4): P sets of K = 1 expert."""
        return self.hypernet(PassageTokens(passage_input_ids, passage_attention_mask), noise)

    def forward(self, batch: dict[str, Any], noise: torch.Generator | None = None) -> Tensor:
        """The answer nll ``[N]`` of each question with its passage's expert, nats per token."""
        experts = self.generate_experts(
            batch["passage_input_ids"], batch["passage_attention_mask"], noise
        )
        weight = torch.ones(experts.num_sets, 1, device=self.device)
        with self.expert_layer.injected(experts, weight, batch["rows"]):
            return self.answer_nll(batch)

    def answer_nll(self, batch: dict[str, Any]) -> Tensor:
        """The answer nll ``[N]`` of each question with what is injected now, nats per token."""
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
        """The meta loss (eq. 5) of one batch; every question has the same weight on every rank."""
        # The noise has a generator of its own: it differs between ranks and steps, and it is the
        # same in a resumed run.
        place = (self._seed, self.global_step, batch_idx, self.global_rank)
        key = np.random.SeedSequence(place).generate_state(1, np.uint64)[0]
        noise = torch.Generator(self.device).manual_seed(int(key))
        loss = (self(batch, noise) * batch["loss_weight"]).sum()
        self.log("train/loss", loss, on_step=True, prog_bar=True, sync_dist=True)
        return loss

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Log the answer nll with the question's own passage, and with another question's."""
        # A float, because Lightning averages the ranks' counts and would round down integers.
        size: Any = float(len(batch["rows"]))
        self.log("val/loss", self(batch).mean(), batch_size=size, sync_dist=True, prog_bar=True)
        passages = len(batch["passage_input_ids"])
        if passages > 1:
            shuffled = {**batch, "rows": (batch["rows"] + passages // 2) % passages}
            loss = self(shuffled).sum()
            self._shuffled_total += torch.stack([loss, loss.new_tensor(size)])

    def on_validation_epoch_start(self) -> None:
        """Reset the sum of the loss with other questions' passages, and the count of questions."""
        self._shuffled_total = torch.zeros(2, device=self.device)

    def on_validation_epoch_end(self) -> None:
        """Log the loss with other questions' passages, once for all ranks.

        A rank has no such loss if each of its batches has only one passage.
        """
        total: Any = self.trainer.strategy.reduce(self._shuffled_total, reduce_op="sum")
        if total[1]:
            self.log("val/loss_shuffled", total[0] / total[1])

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW with a cosine from ``lr`` to ``lr_min`` over the whole training (sec. 4.1)."""
        optim = self._optim
        common = self.hypernet.common_parameters()
        apart = {id(parameter) for parameter in common}
        groups: list[dict[str, Any]] = [
            {"params": [p for p in self.hypernet.parameters() if id(p) not in apart]}
        ]
        if common:
            groups.append({"params": common, "lr": optim.lr * optim.common_lr_scale})
        optimizer = torch.optim.AdamW(
            groups,
            lr=optim.lr,
            betas=(optim.betas[0], optim.betas[1]),
            weight_decay=optim.weight_decay,
            # With 16-mixed, Lightning refuses to clip the gradients of a fused optimiser.
            fused=str(self.trainer.precision) != "16-mixed",
        )
        total = max(1, int(self.trainer.estimated_stepping_batches))
        floor = optim.lr_min / optim.lr

        def factor(step: int) -> float:
            cosine = 0.5 * (1 + math.cos(math.pi * min(step / total, 1)))
            warm = min(1.0, (step + 1) / max(1, optim.warmup_steps))
            return warm * (floor + (1 - floor) * cosine)

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def on_fit_start(self) -> None:
        """Move the backbone to the device, compute frozen states, and set values from data.

        Raises:
            DataError: If the values from data are not finite.
        """
        self.backbone.to(self.device)
        datamodule = self.trainer.datamodule  # type: ignore[attr-defined]
        if self._split is not None:
            for name, sequences in datamodule.sequences().items():
                self._frozen[name] = self._frozen_states(name, sequences)
        if self.hypernet.started:
            return
        self.hypernet.start(_Sample(self, datamodule))
        if broken := self._not_finite():
            raise DataError(
                f"{', '.join(broken)} of the hypernetwork are not finite before the first step: "
                "the training passages or questions hardly differ, or the backbone's states are "
                "not finite; look at the data and at the backbone, not at the learning rate"
            )
        if self.trainer.world_size > 1:  # the signs of eigenvectors may differ between machines
            for tensor in self.hypernet.state_dict().values():
                torch.distributed.broadcast(tensor, 0)

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
        if self.trainer.local_rank == 0:  # the other ranks of this machine find it on the disk
            compute()
        self.trainer.strategy.barrier("frozen states")
        return compute()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the backbone's name and fingerprint and the prompt to the checkpoint.

        Raises:
            CheckpointError: If a weight is not finite; the checkpoint before it is then kept.
        """
        if broken := self._not_finite():
            raise CheckpointError(
                f"training has diverged: {', '.join(broken)} are no longer finite, and nothing is "
                "saved over the last checkpoint; lower the learning rate lr"
            )
        checkpoint["backbone"] = {
            "name": self.backbone.name,
            "fingerprint": self.backbone.fingerprint,
        }
        checkpoint["prompt"] = prompt_template()

    def _not_finite(self) -> list[str]:
        """The names of the hypernetwork's weights that are not finite."""
        return [n for n, p in self.hypernet.named_parameters() if not p.isfinite().all()]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that the training goes on with the same backbone and the same hypernetwork.

        Raises:
            BackboneMismatchError: If the backbone is another one.
            CheckpointError: If a setting on which the weights depend has changed.
        """
        origin = checkpoint["backbone"]
        check_backbone(self.backbone, origin["name"], origin["fingerprint"])
        before, now = as_nested(checkpoint["hyper_parameters"]), dict(self.hparams)
        settings = self.hypernet.settings
        changed = _changes(before["hypernet"], settings.saved())
        changed |= _changes(before, {"max_passage_tokens": now["max_passage_tokens"]})
        others = {name: changed.pop(name) for name in settings.TRAINING_ONLY & changed.keys()}
        if changed:
            raise CheckpointError(
                f"the checkpoint is of another hypernetwork: {_said(changed)}; go on with the same "
                "experiment and the same settings of hypernet"
            )
        others |= _changes(before["optim"], now["optim"])
        # The prompts have several lines, and the warning has one.
        prompts = repr(checkpoint.get("prompt", PROMPT_OF_0_1)), repr(prompt_template())
        if others := others | _changes({"prompt": prompts[0]}, {"prompt": prompts[1]}):
            said = _said(others)
            rank_zero_warn(f"the run goes on with other settings: {said}", category=UserWarning)


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The settings that both have with different values: the value before, and the value now."""
    return {
        name: (before[name], now[name])
        for name in sorted(now)
        if name in before and _plain(before[name]) != _plain(now[name])
    }


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _said(changes: Mapping[str, tuple[Any, Any]]) -> str:
    return ", ".join(f"{name} was {a}, is {b}" for name, (a, b) in sorted(changes.items()))


class _Sample:
    """The `StartSample` of a training: what a hypernetwork may look at before it."""

    def __init__(self, module: GenPoEModule, datamodule: Any) -> None:
        self._module = module
        self._datamodule = datamodule

    def passages(self) -> Iterator[PassageTokens]:
        """Batches of a sample of the training passages."""
        device = self._module.device
        for ids, mask in self._datamodule.passage_batches(_PASSAGES_TO_START):
            yield PassageTokens(ids.to(device), mask.to(device))

    @torch.no_grad()
    def ffn(self) -> tuple[Tensor, Tensor]:
        """Inputs and outputs of the layer's FFN where answers are predicted, of a sample."""
        module = self._module
        seen: list[tuple[Tensor, Tensor]] = []
        for batch in self._datamodule.question_batches(_QUESTIONS_TO_START):
            batch = module.transfer_batch_to_device(batch, module.device, 0)
            predicts = batch["labels"][:, 1:] != IGNORE

            def keep(_: Any, args: tuple[Any, ...], output: Any, at: Tensor = predicts) -> None:
                output = output[0] if isinstance(output, tuple) else output
                seen.append((args[0][at], output[at]))  # FFNs get their input by position

            handle = module.expert_layer.ffn.register_forward_hook(keep)
            try:
                module.answer_nll(batch)
            finally:
                handle.remove()
        inputs, outputs = zip(*seen, strict=True)
        return torch.cat(inputs), torch.cat(outputs)


def _progress(name: str) -> Callable[[Sequence[Any]], Any]:
    return lambda batches: progress(batches, f"States below the expert layer ({name})")
