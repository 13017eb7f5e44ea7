"""Meta-training of the hypernetwork (GenPoE sec. 3.2.2, eq. 5; settings of sec. 4.1).

Shapes: N questions, P passages, S passage tokens, T tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import LightningModule
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torch.nn import functional

from backbone.final_ffn import FinalFFN
from backbone.likelihood import IGNORE, AnswerLogits, answer_logits
from backbone.model import Backbone
from backbone.split import SplitBackbone
from genpoe.hypernet.hypernet import Hypernet, PassageTokens
from genpoe.hypernet.saved import as_nested, read_settings
from genpoe.injection import ExpertLayer
from genpoe.model import check_backbone
from genpoe.training.answer_states import AnswerStates, AtAnswers
from genpoe.training.distillation import Teacher
from genpoe.training.frozen_states import FrozenStates, frozen_states
from genpoe.training.others import choose_passages, num_groups
from genpoe.training.settings import NO_TEACHER, DistillationSettings, OptimSettings
from genpoe.training.start_sample import TrainingSample
from plumbing.progress import progress
from plumbing.storage.jsonl import DataError
from plumbing.training.checkpoint import CheckpointError
from plumbing.training.setup import once_on_a_machine
from qa.prompts import PROMPT_OF_0_1, prompt_template


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
        answers_only: Whether only the positions that predict answers are computed and kept there.
            The experts must stand beside the last FFN.
        other_passages: The most passages of other questions that are injected in training along
            with a question's own, with random relevance.
        wrong_passages: The share of the questions, 0 to 1, that get passages of others alone in a
            training step, so that the hypernetwork learns to be silent there.
        seed: Seed of the noise.
        distillation: Whether a teacher that has the passage in its prompt is learnt from.
        teacher_dir: The folder for what the teacher says, which is computed once.

    Raises:
        UnsupportedBackboneError: With ``answers_only`` or a teacher, if the last layer has an
            unknown form.
        ValueError: If the expert layer is out of range.
    """

    def __init__(
        self,
        backbone: Backbone,
        hypernet: Hypernet,
        optim: OptimSettings,
        max_passage_tokens: int = 512,
        cache_dir: str | None = None,
        answers_only: bool = False,
        other_passages: int = 0,
        wrong_passages: float = 0.0,
        seed: int = 0,
        distillation: DistillationSettings = NO_TEACHER,
        teacher_dir: str | None = None,
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
        self._others = other_passages, wrong_passages
        self._optim = optim
        self.backbone = backbone
        self._cache_dir = cache_dir
        self._split = SplitBackbone(backbone, layer) if cache_dir and not answers_only else None
        self._final = FinalFFN(backbone) if cache_dir and answers_only else None
        self._distillation = distillation
        self._teacher_dir = teacher_dir if distillation.weight else None
        self._teacher: Teacher | None = None
        self._frozen: dict[str, FrozenStates] = {}
        self._answers: dict[str, AnswerStates] = {}
        self._read: dict[str, FrozenStates] = {}  # the states of passages
        self.expert_layer = ExpertLayer(backbone, layer)
        self.hypernet = hypernet

    def forward(self, batch: dict[str, Any], noise: torch.Generator | None = None) -> Tensor:
        """The answer nll ``[N]`` of each question with its passage's expert, nats per token."""
        return self._losses(batch, noise)[0]

    def _losses(
        self, batch: dict[str, Any], noise: torch.Generator | None
    ) -> tuple[Tensor, Tensor | None]:
        """The answer nll of each question, and what the hypernetwork adds to it in training."""
        experts = self.hypernet(self._passages(batch), noise)
        weight = torch.ones(experts.num_sets, 1, device=self.device)
        rows: Any = batch["rows"]
        wrong = None
        if "also" in batch or (noise is not None and any(self._others)):
            index, weight, wrong = choose_passages(batch, noise, *self._others)
            experts, rows = experts.arranged(index), None
        known = self.at_answers(batch)
        around = None if known is None else known.around
        with self.expert_layer.injected(experts, weight, rows, around):
            student = self.answer_logits(batch, known)
            looked = self.expert_layer.looked
        targets = self.targets(batch, known)
        extra = self.hypernet.extra_loss(experts, looked, rows, targets, wrong)
        if noise is not None and self._teacher is not None:
            apart = self._teacher.divergence(batch["examples"], student)
            if wrong is not None:  # without its passage, a question has nothing to learn there
                apart = apart * ~wrong
            apart = self._distillation.weight * apart
            extra = apart if extra is None else extra + apart
        return student.nll(), extra

    def answer_logits(self, batch: dict[str, Any], known: AtAnswers | None = None) -> AnswerLogits:
        """What the model says at the answers with what is injected now.

        Args:
            batch: The questions.
            known: What `at_answers` returned, so that nothing below the last FFN is computed.
        """
        if known is not None:
            final: Any = self._final
            labels = functional.pad(known.targets_NA, (1, 0), value=IGNORE)
            return answer_logits(
                self.backbone, labels, labels, labels, lambda *_: final.hidden(known.stream_NAD)
            )
        return answer_logits(
            self.backbone,
            batch["input_ids"],
            batch["attention_mask"],
            batch["labels"],
            self._from_cache(batch),
        )

    def at_answers(self, batch: dict[str, Any]) -> AtAnswers | None:
        """What is kept of the batch's answers; None if every position is computed."""
        return self._answers[batch["split"]].of(batch) if self._final is not None else None

    def targets(self, batch: dict[str, Any], known: AtAnswers | None) -> Tensor:
        """The token that each position of the expert layer predicts, -100 where none is scored."""
        targets: Tensor = batch["labels"][:, 1:] if known is None else known.targets_NA
        return targets

    def _passages(self, batch: dict[str, Any]) -> PassageTokens:
        ids, mask = batch["passage_input_ids"], batch["passage_attention_mask"]
        read = self._read.get(batch["split"]) if self._read else None
        states = None if read is None else read.rows(batch["passages"]).to(self.device)
        return PassageTokens(ids, mask, states)

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
        nll, extra = self._losses(batch, noise)
        loss = (nll * batch["loss_weight"]).sum()
        self.log("train/loss", loss, on_step=True, prog_bar=True, sync_dist=True)
        return loss if extra is None else loss + (extra * batch["loss_weight"]).sum()

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Log the answer nll with the question's own passage, and with another question's."""
        # A float, because Lightning averages the ranks' counts and would round down integers.
        size: Any = float(len(batch["rows"]))
        self.log("val/loss", self(batch).mean(), batch_size=size, sync_dist=True, prog_bar=True)
        passages = num_groups(batch)
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
        common, fast = self.hypernet.common_parameters(), self.hypernet.fast_parameters()
        apart = {id(p) for p in [*common, *(p for group, _ in fast for p in group)]}
        groups: list[dict[str, Any]] = [
            {"params": [p for p in self.hypernet.parameters() if id(p) not in apart]}
        ]
        if common:
            groups.append({"params": common, "lr": optim.lr * optim.common_lr_scale})
        groups += [{"params": g, "lr": optim.lr * scale, "weight_decay": 0.0} for g, scale in fast]
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
        if self._cache_dir is not None:
            self._compute_frozen(datamodule, Path(self._cache_dir))
        if self._teacher_dir is not None:
            final, bar = self._final or FinalFFN(self.backbone), _progress("What the teacher says")
            top_k, folder = self._distillation.top_k, Path(self._teacher_dir)
            read = partial(Teacher, final, datamodule.taught(), top_k, folder, bar)
            self._teacher = self._once(read)
        if self.hypernet.started:
            return
        self.hypernet.start(TrainingSample(self, datamodule))
        if broken := self._not_finite():
            raise DataError(
                f"{', '.join(broken)} of the hypernetwork are not finite before the first step: "
                "the training passages or questions hardly differ, or the backbone's states are "
                "not finite; look at the data and at the backbone, not at the learning rate"
            )
        if self.trainer.world_size > 1:  # the signs of eigenvectors may differ between machines
            for tensor in self.hypernet.state_dict().values():
                torch.distributed.broadcast(tensor, 0)

    def _compute_frozen(self, datamodule: Any, folder: Path) -> None:
        """Compute what is frozen, or open what an earlier run has computed."""
        layer, split, final = self.expert_layer.layer, self._split, self._final
        looks, reads = self.hypernet.looks, self.hypernet.reads_layer
        for name, (questions, passages) in datamodule.tokens().items():
            if split is not None:
                sequences = [[*prompt, *answer[:-1]] for prompt, answer in questions]
                bar = _progress(f"States below the expert layer ({name})")
                compute = partial(frozen_states, split, sequences, layer, folder, bar)
                self._frozen[name] = self._once(compute)
            if final is not None:
                layers, bar = (
                    looks.layers if looks else (),
                    _progress(f"States at answers ({name})"),
                )
                at_answers = partial(AnswerStates, final, layers, questions, folder, bar)
                self._answers[name] = self._once(at_answers)
            if reads is not None:
                below, bar = SplitBackbone(self.backbone, reads), _progress(f"Passages ({name})")
                half = torch.bfloat16 if self.backbone.dtype == torch.float32 else None
                read = partial(frozen_states, below, passages, reads, folder, bar, half)
                self._read[name] = self._once(read)

    def _once(self, compute: Callable[[], Any]) -> Any:
        """Compute something that is kept on the disk: once on each machine."""
        return once_on_a_machine(self.trainer, compute)

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
            CheckpointError: If a setting on which the weights depend has changed, or if the
                checkpoint has no state of the optimiser.
        """
        if "loops" in checkpoint and "optimizer_states" not in checkpoint:
            raise CheckpointError(
                "this checkpoint is of a training that has ended, and its optimiser's state was "
                "not kept; give one of a training that was interrupted, or none to start afresh"
            )
        origin = checkpoint["backbone"]
        check_backbone(self.backbone, origin["name"], origin["fingerprint"])
        before, now = as_nested(checkpoint["hyper_parameters"]), dict(self.hparams)
        settings = self.hypernet.settings
        changed = _changes(_read_again(before["hypernet"]), settings.saved())
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


def _read_again(saved: Mapping[str, Any]) -> dict[str, Any]:
    """The settings in a checkpoint as this version saves them."""
    try:
        return read_settings(saved).saved()
    except ValueError as error:
        raise CheckpointError(f"the training cannot go on from the checkpoint: {error}") from error


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


def _progress(name: str) -> Callable[[Sequence[Any]], Any]:
    return lambda batches: progress(batches, name)
