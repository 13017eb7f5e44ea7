"""Training of experts with Lightning: a batch is a group of passages, a step their whole training.

An expert depends only on its own passage. So a group is trained to its end (all epochs, over states
that are computed once) before the next one begins, and it is in the bank at the end of its step.
Several devices train different experts, and their processes exchange no gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from lightning import LightningModule
from lightning.pytorch.strategies import DDPStrategy
from torch.utils.data import DataLoader, IterableDataset

from backbone.final_ffn import FinalFFN
from backbone.model import Backbone
from dmoe.bank import Bank
from dmoe.experts.expert import ExpertSpec
from dmoe.experts.recipe import Recipe
from dmoe.training.grouped import GroupedTrainer, Limits
from dmoe.training.groups import Group, Groups, instances_of_others
from dmoe.training.lessons import Lesson
from dmoe.training.tally import Tally
from plumbing.mounts import SettingValueError
from plumbing.progress import Bar, is_shown


class LessonsBar:
    """A progress bar over the lessons whose experts are built.

    Args:
        groups: The groups of one worker, which also count the lessons without training.
        tally: Counts what was trained.
        lessons: Makes the stream of all lessons.
        active: If False, there is no bar in this process.
    """

    def __init__(
        self,
        groups: Groups,
        tally: Tally,
        lessons: Callable[[], Iterable[Lesson]],
        active: bool = True,
    ) -> None:
        self._groups, self._tally = groups, tally
        # Where no bar is shown, the lessons need not be read once more.
        count = sum(1 for _ in lessons()) if active and is_shown() else 0
        self._bar = Bar("Building experts", groups.share(count)) if count else None

    def update(self) -> None:
        """Show how many lessons are done, and the mean loss of the last epochs."""
        tally, groups = self._tally, self._groups
        done = tally.experts + len(tally.failed) + groups.skipped + len(groups.without)
        note = f"loss={tally.last_loss / tally.experts:.3g}" if tally.experts else ""
        if self._bar is not None:
            self._bar.move(done, note)

    def close(self) -> None:
        """End the bar."""
        if self._bar is not None:
            self.update()
            self._bar.close()


class InStep(IterableDataset[Group]):
    """A rank's groups, followed by empty ones until every rank has finished its own.

    In Lightning's loop the ranks wait for each other at every step. A rank with fewer groups would
    otherwise leave the others waiting for ever.

    Args:
        groups: The groups of this rank.
        any_rank: A function that is True on all ranks if its argument is True on at least one. All
            ranks must call it at the same time.
    """

    def __init__(self, groups: Iterable[Group], any_rank: Callable[[bool], bool]) -> None:
        self._groups, self._any_rank = groups, any_rank

    def __iter__(self) -> Iterator[Group]:
        groups = iter(self._groups)
        while self._any_rank((group := next(groups, None)) is not None):
            yield Group([], []) if group is None else group


class ExpertModule(LightningModule):
    """Trains the experts of a stream of lessons, and puts them into a bank (DMoE sec. 3.2.1).

    To resume an interrupted run, start it again: experts that the bank already has are left out.

    Args:
        backbone: The frozen model. It is not a submodule, because nothing of it is trained or
            saved.
        bank: The bank that the experts go into.
        lessons: Makes the stream of lessons.
        formats: The formats of the instances, as in `dmoe.training.lessons.Lesson.instances`.
        spec: The experts' settings.
        recipe: The training's settings.
        limits: The limits on memory.

    Attributes:
        tally: What this rank has built. Once the training has ended, it counts all ranks.
    """

    def __init__(
        self,
        backbone: Backbone,
        bank: Bank,
        lessons: Callable[[], Iterable[Lesson]],
        formats: Sequence[str],
        spec: ExpertSpec,
        recipe: Recipe,
        limits: Limits,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False  # each expert has its own optimiser state
        self.backbone, self.tally = backbone, Tally()
        self._bank, self._lessons, self._formats = bank, lessons, formats
        self._spec, self._recipe, self._limits = spec, recipe, limits

    def configure_optimizers(self) -> list[Any]:
        """Give Lightning no optimiser, because experts have their own (`dmoe.training.adamw`)."""
        return []

    def train_dataloader(self) -> DataLoader[Group]:
        """Make the loader of this rank's groups."""
        self._groups = Groups(
            *(self._lessons, self._bank, self.backbone.tokenizer),
            *(self._formats, self._recipe, self._limits),
            worker=self.trainer.global_rank,
            workers=self.trainer.world_size,
        )
        return DataLoader(InStep(self._groups, self._any_rank), batch_size=None)

    def _any_rank(self, mine: bool) -> bool:
        """Return True on all ranks if ``mine`` is True on at least one; all ranks must call it."""
        flag = torch.tensor(float(mine), device=self.device)
        return bool(self.trainer.strategy.reduce(flag, reduce_op="max"))

    def transfer_batch_to_device(self, batch: Group, device: torch.device, _: int) -> Group:
        """Leave the batch as it is: it holds texts and token ids, and no tensors."""
        return batch

    def on_fit_start(self) -> None:
        """Move the backbone to the device, and make the trainer of groups."""
        self.backbone.to(self.device)
        ffn = FinalFFN(self.backbone)
        others = instances_of_others(
            self._lessons(), self.backbone.tokenizer, self._formats, self._recipe
        )
        self._grouped = GroupedTrainer(ffn, self._spec, self._recipe, self._limits, others)

    def on_train_start(self) -> None:
        """Begin a progress bar in the first process."""
        first = self.trainer.is_global_zero
        self._bar = LessonsBar(self._groups, self.tally, self._lessons, active=first)

    def training_step(self, batch: Group, batch_idx: int) -> None:
        """Train a group's experts from their first step to their last, and store them."""
        if not batch.passages:
            return
        trained = self._grouped.train([passage.id for passage in batch.passages], batch.instances)
        self.tally.store(self._bank, batch, trained)
        self._bar.update()
        for name in ("first_loss", "last_loss", "norm"):
            value = getattr(trained, name).mean()
            self.log(f"train/{name}", value, batch_size=len(trained.ids), prog_bar=True)

    def on_train_end(self) -> None:
        """Add up what the ranks have built."""
        self._bar.close()
        self.tally.skipped, self.tally.without = self._groups.skipped, self._groups.without
        if self.trainer.world_size > 1:
            tallies = [Tally()] * self.trainer.world_size
            torch.distributed.all_gather_object(tallies, self.tally)
            self.tally = sum(tallies, Tally())


class IndependentRanks(DDPStrategy):
    """DDP's processes without the exchange of gradients: each device trains its own experts."""

    def configure_ddp(self) -> None:
        """Leave the module unwrapped, because it has no parameters that ranks would share."""


def training_strategy(strategy: str, devices: object) -> str | DDPStrategy:
    """Choose Lightning's strategy for a configured one.

    Args:
        strategy: "auto" or "ddp".
        devices: The devices, as in ``lightning.Trainer``.

    Returns:
        "auto" for a single device, else a strategy in which no gradients are exchanged.

    Raises:
        ValueError: If another strategy is configured, because there is no model to shard or to
            average.
    """
    if strategy not in ("auto", "ddp"):
        raise SettingValueError(
            "strategy",
            f"strategy must be auto or ddp, got {strategy!r}: each device trains its own experts, "
            "and no model is shared",
            "set {}=auto",
        )
    return "auto" if devices in (1, "1") else IndependentRanks()
