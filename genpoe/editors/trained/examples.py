"""What an editor is trained on: facts, each with a rephrasing and with a prompt that must stay.

A step reads three rows for each fact: its own prompt with the target, a rephrasing with the target,
and a locality prompt, whose next token is to stay. All of it is known before training, so the
states below the lowest edited layer can be computed once.

Shapes: N facts, T tokens, D d_model.
"""

from __future__ import annotations

import logging
import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from lightning import LightningDataModule, Trainer
from torch import Tensor
from torch.utils.data import Dataset

from backbone.model import Backbone
from backbone.tokens import encode_prompt
from genpoe.editors.parts.facts import Fact, encode_fact
from genpoe.editors.parts.rows import Rows, make_rows
from genpoe.training.datamodule import BatchLoader, trained
from genpoe.training.frozen_states import FrozenStates
from genpoe.training.sampler import BatchSpec, GroupedBatchSampler
from plumbing.mounts import SettingValueError
from plumbing.storage.hashing import digest
from plumbing.storage.jsonl import DataError
from plumbing.training.checkpoint import CheckpointError
from plumbing.training.interval import log_every_epoch
from qa.data.dataset import QADataset
from qa.metrics import normalize_answer
from qa.prompts import build_prompt

log = logging.getLogger(__name__)

OWN, REPHRASED, LOCALITY = range(3)  # the kinds of rows of a fact

_FactRows = tuple[tuple[list[int], list[int]], ...]  # prompt and target of each kind of row


def question_facts(dataset: QADataset, split: str, rephrased: Sequence[str] = ()) -> list[Fact]:
    """The facts of a split's questions; other splits about the same facts give rephrasings.

    Args:
        dataset: The data set.
        split: The split whose questions are facts.
        rephrased: The splits whose questions with the same passages and answer are rephrasings.

    Raises:
        DataError: If there is no such split.
    """
    other: dict[Any, list[str]] = defaultdict(list)
    for name in rephrased:
        for question in dataset.split(name):
            key = question.passage_ids, normalize_answer(question.answers[0])
            other[key].append(build_prompt(question.question))
    facts = []
    for question in dataset.split(split):
        ids, answer = question.passage_ids, question.answers[0]
        title = dataset.passages[ids[0]].title.strip() if ids else ""
        facts.append(
            Fact(
                question.id,
                build_prompt(question.question),
                answer,
                title if title and title in question.question else None,
                tuple(other[ids, normalize_answer(answer)]),
                passage_id=ids[0] if ids else None,
            )
        )
    return facts


class EditExamples(Dataset[Tensor]):
    """Facts as token ids; indexed by a `BatchSpec`, it gives the indices ``[N]`` of its facts.

    The first rephrasing of a fact counts; a fact without one is trained on its own prompt. The
    first locality prompt counts, too; a fact without one gets the prompt of another fact with
    another target and another subject.

    Args:
        backbone: The model.
        facts: The facts.
        max_tokens: Facts with a longer row are left out.
        seed: The seed of the choice of other facts.

    Raises:
        FactError: If a fact cannot be edited.
        DataError: If fewer than two facts are left.
    """

    def __init__(
        self, backbone: Backbone, facts: Sequence[Fact], max_tokens: int = 256, seed: int = 0
    ) -> None:
        self.backbone = backbone
        chance = random.Random(seed)
        self.facts: list[Fact] = []
        self._rows: list[_FactRows] = []
        for fact in facts:
            own = encode_fact(backbone, fact)
            asked, stays = (
                encode_prompt(backbone.tokenizer, text)
                for text in (
                    fact.rephrasings[0] if fact.rephrasings else fact.prompt,
                    fact.locality[0] if fact.locality else _other(facts, fact, chance).prompt,
                )
            )
            rows: _FactRows = (
                (own.prompt_ids, own.target_ids),
                (asked, own.target_ids),
                (stays, []),
            )
            if max(len(prompt) + len(target) for prompt, target in rows) <= max_tokens:
                self.facts.append(fact)
                self._rows.append(rows)
        if len(self.facts) < len(facts):
            log.info(
                "%d of %d facts are left out: a row has more than %d tokens.",
                *(len(facts) - len(self.facts), len(facts), max_tokens),
            )
        if len(self.facts) < 2:
            raise DataError(
                f"an editor is trained on at least two facts, got {len(self.facts)} of at most "
                f"{max_tokens} tokens; give more facts"
            )
        self.digest = digest(self._rows)

    def __len__(self) -> int:
        return len(self.facts)

    def __getitem__(self, spec: BatchSpec) -> Tensor:
        return torch.tensor([index for chunk in spec.chunks for index in chunk.questions])

    @property
    def lengths(self) -> list[int]:
        """The tokens of each fact's own row."""
        return [len(prompt) + len(target) for prompt, target in (row[OWN] for row in self._rows)]

    @property
    def sequences(self) -> list[list[int]]:
        """The token ids of all rows: those of the facts, the rephrasings, the locality prompts."""
        kinds = (OWN, REPHRASED, LOCALITY)
        return [[*row[kind][0], *row[kind][1]] for kind in kinds for row in self._rows]

    def rows(self, kinds: Sequence[int], facts: Tensor) -> tuple[Rows, Tensor]:
        """The rows of some facts, kind by kind, and their places among the `sequences`."""
        chosen = [(kind, index) for kind in kinds for index in facts.tolist()]
        some = [self._rows[index][kind] for kind, index in chosen]
        rows = make_rows(self.backbone, [row[0] for row in some], [row[1] for row in some])
        return rows, torch.tensor([kind * len(self) + index for kind, index in chosen])


def _other(facts: Sequence[Fact], fact: Fact, chance: random.Random) -> Fact:
    """Another fact, about something else; if none is found, any other one."""
    for _ in range(100):
        other = facts[chance.randrange(len(facts))]
        same_subject = other.subject is not None and other.subject == fact.subject
        if other.target != fact.target and not same_subject:
            return other
    return next((each for each in facts if each.id != fact.id), fact)


class HiddenStates:
    """Computes the final hidden states of rows, from kept states below a layer if there are any.

    Args:
        backbone: The model.
        above: Computes the final hidden states of states below the layer and a mask.
        states: The states below the layer of the `EditExamples.sequences`.
    """

    def __init__(
        self,
        backbone: Backbone,
        above: Callable[[Tensor, Tensor], Tensor] | None = None,
        states: FrozenStates | None = None,
    ) -> None:
        self._backbone, self._above, self._states = backbone, above, states

    def of(self, rows: Rows, places: Tensor) -> Tensor:
        """The final hidden states ``[N, T, D]``."""
        if self._above is None or self._states is None:
            return rows.hidden(self._backbone)
        states = self._states.rows(places).to(rows.ids.device, self._backbone.dtype)
        return self._above(states, rows.mask)


class EditData(LightningDataModule):
    """Batches of facts for training, and for validation those at the end.

    Args:
        examples: The facts.
        edits: The facts of a batch on one rank.
        held_out: How many facts at the end are held out for validation.
        seed: The seed of the order.

    Raises:
        SettingValueError: If no fact is left to train on.
    """

    def __init__(
        self, examples: EditExamples, edits: int, held_out: int = 0, seed: int = 0
    ) -> None:
        super().__init__()
        if not 0 <= held_out < len(examples):
            raise SettingValueError(
                "held_out", f"held_out must be in 0..{len(examples) - 1}, got {held_out}"
            )
        self.examples = examples
        self._edits, self._held_out, self._seed = edits, held_out, seed

    @property
    def training(self) -> range:
        """The indices of the facts that are trained on."""
        return range(len(self.examples) - self._held_out)

    def setup(self, stage: str) -> None:
        """Leave validation out if no fact is held out."""
        if not self._held_out:
            self._trainer().limit_val_batches = 0

    def train_dataloader(self) -> BatchLoader[Tensor]:
        """Shuffled batches, beginning after the last one that was trained on."""
        trainer = self._trainer()
        sampler = self._sampler(self.training, True)
        log_every_epoch(trainer, len(sampler))
        return BatchLoader(self.examples, sampler, lambda: trained(trainer))

    def val_dataloader(self) -> BatchLoader[Tensor]:
        """The batches of validation, which are the same every time."""
        held_out = range(len(self.training), len(self.examples))
        return BatchLoader(self.examples, self._sampler(held_out, False), lambda: (0, 0))

    def _sampler(self, facts: range, shuffle: bool) -> GroupedBatchSampler:
        trainer = self._trainer()
        return GroupedBatchSampler(
            [[index] for index in facts],
            self.examples.lengths,
            self._edits,
            1,
            seed=self._seed,
            shuffle=shuffle,
            num_replicas=trainer.world_size,
            rank=trainer.global_rank,
        )

    def state_dict(self) -> dict[str, Any]:
        """The position of training, and everything that the order of the batches depends on."""
        epoch, batch = trained(self._trainer())
        return {"epoch": epoch, "batch": batch, "order": self._order()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuse to go on with other batches.

        Raises:
            CheckpointError: If the facts or the batches have changed.
        """
        before, now = state_dict["order"], self._order()
        changed = [f"{k} was {before.get(k)}, is {now[k]}" for k in now if before.get(k) != now[k]]
        if changed:
            raise CheckpointError(
                f"the batches are not those of the run that goes on: {'; '.join(changed)}. Go on "
                "with the same facts and settings, on as many devices"
            )

    def _order(self) -> dict[str, Any]:
        return {
            "edits": self._edits,
            "held_out": self._held_out,
            "seed": self._seed,
            "processes": self._trainer().world_size,
            "facts": self.examples.digest[:12],
        }

    def _trainer(self) -> Trainer:
        if self.trainer is None:
            raise RuntimeError("the data module belongs to no trainer yet; use trainer.fit")
        return self.trainer
