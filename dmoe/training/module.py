"""Training experts by Lightning: a batch is a group of passages, a step their whole training.

Experts depend on nothing but their own passage, so a group is trained to its end (all epochs, over
states computed once) before the next one begins, and is safe in the bank by the end of its step.
Several devices train different experts: processes stand side by side and exchange nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

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
from dmoe.training.groups import Group, Groups
from dmoe.training.lessons import Lesson
from dmoe.training.tally import Tally
from plumbing.progress import is_shown, progress

T = TypeVar("T")


def watched(
    items: Iterable[T], tally: Tally, groups: Groups, lessons: Callable[[], Iterable[Lesson]]
) -> Iterable[T]:
    """Hand on the items, and show a progress bar over the lessons.

    Args:
        items: Each stands for a group that is trained.
        tally: Counts what is trained.
        groups: Count the lessons without training, among those of its own worker.
        lessons: Makes the stream of all lessons.
    """
    if not is_shown():
        return items  # else the lessons would be read once more for nothing

    def position() -> int:
        return tally.experts + len(tally.failed) + groups.skipped + len(groups.without)

    def note() -> str:
        return f"loss={tally.last_loss / tally.experts:.3g}" if tally.experts else ""

    mine = groups.share(sum(1 for _ in lessons()))
    return progress(items, "Building experts", mine, position, note)


class InStep(IterableDataset[Group]):
    """A rank's groups, and empty ones behind them until every rank has had its last.

    Lightning's loop has the ranks meet at every step: one that had fewer would leave the others
    waiting for ever.

    Args:
        groups: Of this rank.
        any_rank: Whether something is so on one rank at least, asked by all of them.
    """

    def __init__(self, groups: Iterable[Group], any_rank: Callable[[bool], bool]) -> None:
        self._groups, self._any_rank = groups, any_rank

    def __iter__(self) -> Iterator[Group]:
        groups = iter(self._groups)
        while self._any_rank((group := next(groups, None)) is not None):
            yield Group([], []) if group is None else group


class ExpertModule(LightningModule):
    """Trains the experts of a stream of lessons, and puts them into a bank (DMoE sec. 3.2.1).

    Resuming is starting again: what is in the bank is left out.

    Args:
        backbone: The frozen model; no submodule, as nothing of it is trained or saved.
        bank: Where the experts go.
        lessons: Makes the stream of lessons.
        formats: Of the instances; see `dmoe.training.lessons.Lesson.instances`.
        spec: The experts' settings.
        recipe: The training's.
        limits: The memory's.

    Attributes:
        tally: What was built, of all ranks once the training has ended.
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
        self.automatic_optimization = False  # each expert has an optimiser of its own
        self.backbone, self.tally = backbone, Tally()
        self._bank, self._lessons, self._formats = bank, lessons, formats
        self._spec, self._recipe, self._limits = spec, recipe, limits

    def configure_optimizers(self) -> list[Any]:
        """None of Lightning's: see `dmoe.training.adamw`."""
        return []

    def train_dataloader(self) -> DataLoader[Group]:
        """The groups of this rank."""
        self._groups = Groups(
            *(self._lessons, self._bank, self.backbone.tokenizer),
            *(self._formats, self._recipe, self._limits),
            worker=self.trainer.global_rank,
            workers=self.trainer.world_size,
        )
        groups: Iterable[Group] = self._groups
        if self.trainer.is_global_zero:
            groups = watched(groups, self.tally, self._groups, self._lessons)
        return DataLoader(InStep(groups, self._any_rank), batch_size=None)

    def _any_rank(self, mine: bool) -> bool:
        """Whether something is so on one rank at least; all ranks must ask."""
        flag = torch.tensor(float(mine), device=self.device)
        return bool(self.trainer.strategy.reduce(flag, reduce_op="max"))

    def transfer_batch_to_device(self, batch: Group, device: torch.device, _: int) -> Group:
        """Leave texts and token ids where they are."""
        return batch

    def on_fit_start(self) -> None:
        """Bring the backbone to the device."""
        self.backbone.to(self.device)
        ffn = FinalFFN(self.backbone)
        self._grouped = GroupedTrainer(ffn, self._spec, self._recipe, self._limits)

    def training_step(self, batch: Group, batch_idx: int) -> None:
        """Train a group's experts from the first step to the last, and keep them."""
        if not batch.passages:
            return
        trained = self._grouped.train([passage.id for passage in batch.passages], batch.instances)
        self.tally.store(self._bank, batch, trained)
        for name in ("first_loss", "last_loss", "norm"):
            value = getattr(trained, name).mean()
            self.log(f"train/{name}", value, batch_size=len(trained.ids), prog_bar=True)

    def on_train_end(self) -> None:
        """Add up what the ranks have built."""
        self.tally.skipped, self.tally.without = self._groups.skipped, self._groups.without
        if self.trainer.world_size > 1:
            tallies = [Tally()] * self.trainer.world_size
            torch.distributed.all_gather_object(tallies, self.tally)
            self.tally = sum(tallies, Tally())


class IndependentRanks(DDPStrategy):
    """DDP's processes without its exchange of gradients: each device trains experts of its own."""

    def configure_ddp(self) -> None:
        """Leave the module as it is; it has no parameter that ranks would share."""


def training_strategy(strategy: str, devices: object) -> str | DDPStrategy:
    """The strategy behind a configured one.

    Args:
        strategy: "auto" or "ddp".
        devices: As in ``lightning.Trainer``.

    Raises:
        ValueError: If it is another strategy: there is no model to shard or to average.
    """
    if strategy not in ("auto", "ddp"):
        raise ValueError(
            f"trainer.strategy must be auto or ddp, got {strategy!r}: each device trains experts "
            "of its own"
        )
    return "auto" if devices in (1, "1") else IndependentRanks()
