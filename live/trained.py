"""A session's trained experts (DMoE): those of a bank, and those that are trained on the spot."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from backbone.final_ffn import FinalFFN
from backbone.model import Backbone
from dmoe.augmentation import BackboneWriter, ModelAugmenter
from dmoe.augmentation.sources import surrogate
from dmoe.bank import Bank, BankSpec, ExpertLayout
from dmoe.decoding.active import ActiveExperts
from dmoe.decoding.weighting import weights_for
from dmoe.experts.expert import Expert, ExpertSpec
from dmoe.experts.recipe import Recipe
from dmoe.training.grouped import GroupedTrainer, Limits
from dmoe.training.instances import encode_all
from dmoe.training.lessons import Lesson, prompt_of
from live.experts import LiveExperts, NoExpertError
from live.passages import ID_DIGITS, Entry
from qa.acting import ActingExperts
from retrieval.passage import Passage

EXPERTS = "experts"  # the folder of the bank of what was trained on the spot


@dataclass(frozen=True)
class Course:
    """How an expert is trained on the spot; the defaults are those of ``recipe=tuned``.

    Attributes:
        spec: The expert's settings.
        recipe: The training's settings.
        formats: The forms of the instances (`dmoe.training.lessons.Lesson.instances`).
        prompts: The prompts with which the backbone writes questions: "small" or "paper".
        max_attempts: How often each of them is tried at most.
    """

    spec: ExpertSpec = field(default_factory=ExpertSpec)
    recipe: Recipe = field(default_factory=lambda: Recipe(lr=1e-3, epochs=10))
    formats: Sequence[str] = ("qa",)
    prompts: str = "small"
    max_attempts: int = 3

    @classmethod
    def of_bank(cls, spec: BankSpec) -> Course:
        """The course with which the experts of a bank were trained, as far as the bank says it."""
        targets = list(dict.fromkeys(name.partition(".")[0] for name in spec.layout.shapes))
        known = {each.name for each in fields(Recipe)}
        recipe = {name: value for name, value in spec.recipe.items() if name in known}
        return cls(
            ExpertSpec(spec.layout.rank, spec.alpha, targets),
            Recipe(**recipe),
            tuple(spec.recipe.get("formats", ("qa",))),
        )


class Teacher:
    """Trains the expert of a passage: the backbone writes questions about it, and learns them.

    Args:
        backbone: The frozen model.
        course: How it is trained.
    """

    def __init__(self, backbone: Backbone, course: Course) -> None:
        self.backbone, self.course = backbone, course
        self._final = FinalFFN(backbone)
        self._trainer = GroupedTrainer(
            self._final, course.spec, course.recipe, Limits(group_size=1)
        )

    def bank_spec(self) -> BankSpec:
        """What a bank of its experts says of them."""
        course, backbone = self.course, self.backbone
        layout = ExpertLayout(course.spec.shapes(self._final.sizes), "float32")
        made_by = {**course.recipe.as_dict(), "formats": list(course.formats)}
        if (prompt := prompt_of(course.formats)) is not None:
            made_by["prompt"] = prompt
        made_by["source"] = "augmentation"
        return BankSpec(backbone.name, backbone.fingerprint, layout, course.spec.alpha, made_by)

    def teach(self, passage: Passage) -> tuple[Expert, Lesson]:
        """Train the expert of one passage.

        Returns:
            The expert, N = 1, and what it was trained on.

        Raises:
            NoExpertError: If the backbone can write nothing to train on, or the training diverges.
        """
        course = self.course
        with tempfile.TemporaryDirectory() as cache:  # nothing of a passage stays behind
            augmenter = ModelAugmenter(
                BackboneWriter(self.backbone), course.prompts, cache, course.max_attempts
            )
            (augmented,) = augmenter.augment({passage.id: passage})
        lesson = augmented.lesson
        tokenizer, recipe = self.backbone.tokenizer, course.recipe
        instances = lesson.instances(course.formats)
        encoded = encode_all(tokenizer, instances, recipe.loss, recipe.max_tokens)
        if not encoded:
            raise NoExpertError(
                f"the backbone wrote no question about the passage {passage.title!r}, so no expert "
                "can be trained; give a longer text, or a bank that has its expert"
            )
        expert = self._trainer.train([passage.id], [encoded]).experts
        if any(not tensor.isfinite().all() for tensor in expert.values()):
            raise NoExpertError(
                f"the training of the expert of {passage.title!r} diverged; lower the learning rate"
            )
        return expert, lesson


class TrainedExperts(LiveExperts):
    """LoRA experts, each trained for its passage (DMoE).

    A passage whose text is in the given bank has that bank's expert, and costs nothing to add. Any
    other is taught: what ``scripts/augment.py`` and ``scripts/build_experts.py`` do is done for it
    alone. With SmolLM2 this takes some ten seconds.

    Args:
        backbone: The frozen model.
        given: A bank, which is only read. None: there is none.
        teacher: Trains the experts that are not there. None: such passages are refused.
        folder: The folder of the session, in which taught experts are kept; None: a temporary one.
        surrogates: What the router searches in the place of passages of the given bank, by the ids
            of that bank. None: the passages themselves.

    Raises:
        BankError: If a bank is damaged, or belongs to another backbone.
        ValueError: If there is neither a bank nor a teacher, or if their experts differ in rank.
    """

    def __init__(
        self,
        backbone: Backbone,
        given: Bank | None = None,
        teacher: Teacher | None = None,
        folder: Path | None = None,
        surrogates: Mapping[str, Passage] | None = None,
    ) -> None:
        if given is None and teacher is None:
            raise ValueError("expected a bank or a teacher, got neither; give bank_dir or learn")
        self.backbone, self.source = backbone, self
        self._given, self._teacher, self._surrogates = given, teacher, surrogates
        entries = () if given is None else given.entries()
        self._in_given = {sha256[:ID_DIGITS]: id for id, sha256 in entries}
        self._own = None if teacher is None else self._open_own(teacher, folder)
        (first, *others) = [bank for bank in (given, self._own) if bank is not None]
        if any(
            (each.layout.shapes, each.scaling) != (first.layout.shapes, first.scaling)
            for each in others
        ):
            raise ValueError(
                f"the experts of {first.path} have another rank, alpha or targets than those that "
                "would be trained; set the course to those of the bank"
            )
        self.scaling, self._recipe = first.scaling, first.spec.recipe

    def _open_own(self, teacher: Teacher, folder: Path | None) -> Bank:
        """The bank of what is trained on the spot, in the session's folder or a temporary one."""
        if folder is None:
            folder = Path(tempfile.mkdtemp(prefix="session-"))
            weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        spec = teacher.bank_spec()
        return Bank.create(folder / EXPERTS, spec, exist_ok=True, backbone=self.backbone)

    def acting(self, final: FinalFFN, source: Any, rows: int, k: int) -> ActingExperts:
        """Make what acts in the rows of a batch, K experts a row at most."""
        return ActiveExperts(final, source, rows, k)

    def weights(self, experts: int) -> str:
        """Chosen by the bank's recipe; see `weights_for`."""
        return weights_for(None, self._recipe, experts)

    def has(self, id: str) -> bool:
        """Whether a bank has the expert of a passage."""
        return id in self

    def __contains__(self, id: object) -> bool:
        return id in self._in_given or (self._own is not None and id in self._own)

    def __iter__(self) -> Iterator[str]:
        yield from self._in_given
        yield from self._own or ()

    def get(self, ids: Sequence[str]) -> dict[str, Tensor]:
        """Get N experts, each from the bank that has it, as `ActiveExperts` needs them."""
        ours = [id for id in ids if id not in self._in_given]
        theirs = [id for id in ids if id in self._in_given]
        found: dict[str, dict[str, Tensor]] = {}
        for bank, some, named in (
            (self._given, theirs, [self._in_given[id] for id in theirs]),
            (self._own, ours, ours),
        ):
            if bank is not None and some:
                experts = bank.get(named)
                for place, id in enumerate(some):
                    found[id] = {name: tensor[place] for name, tensor in experts.items()}
        return {
            name: torch.stack([found[id][name].float() for id in ids]) for name in found[ids[0]]
        }

    def learn(self, passages: Sequence[Passage]) -> list[Entry]:
        """Train the experts of passages that have none, and keep them.

        Raises:
            NoExpertError: If a passage has none and cannot be taught.
        """
        taught: list[tuple[Passage, Expert]] = []
        entries = []
        for passage in passages:
            if passage.id in self._in_given:
                entries.append(Entry(passage, self._known_surrogate(passage.id)))
            elif self._teacher is None:
                raise NoExpertError(
                    f"the passage {passage.title!r} has no expert in the bank; give a bank that "
                    "has it, or let experts be trained on the spot (learn=true)"
                )
            else:
                expert, lesson = self._teacher.teach(passage)
                taught.append((passage, expert))
                entries.append(Entry(passage, surrogate(lesson).text))
        if taught and self._own is not None:
            names = taught[0][1]
            experts = {name: torch.cat([expert[name] for _, expert in taught]) for name in names}
            self._own.add([passage for passage, _ in taught], experts, replace=True)
        return entries

    def _known_surrogate(self, id: str) -> str | None:
        known = self._surrogates or {}
        found = known.get(self._in_given[id])
        return None if found is None else found.text

    def forget(self, ids: Iterable[str]) -> None:
        """Remove the experts that were trained on the spot; those of the given bank stay in it."""
        own = self._own
        if own is not None and (there := [id for id in ids if id in own]):
            own.remove(there)

    def keep(self, ids: Collection[str]) -> None:
        """Remove the experts of passages that are not there."""
        self.forget([id for id in self._own or () if id not in ids])

    def described(self) -> dict[str, Any]:
        """The given bank, and the course of the teacher."""
        bank = None if self._given is None else str(self._given.path.absolute())
        course = None if self._teacher is None else plain(self._teacher.course)
        return {"experts": "trained", "bank": bank, "course": course}

    def save(self, folder: Path, passages: Sequence[Passage]) -> None:
        """Write the experts of passages that were trained on the spot into a bank of their own."""
        if self._own is None or self._teacher is None:
            return
        bank = Bank.create(folder / EXPERTS, self._teacher.bank_spec())
        own = self._own
        if ours := [passage for passage in passages if passage.id in own]:
            bank.add(ours, own.get([passage.id for passage in ours]))


def plain(course: Course) -> dict[str, Any]:
    """A course as plain values, which `course_of` reads."""
    values = asdict(course)
    values["spec"]["targets"] = list(course.spec.targets)
    return values | {"recipe": course.recipe.as_dict(), "formats": list(course.formats)}


def course_of(values: Mapping[str, Any]) -> Course:
    """The course that `plain` wrote."""
    spec, recipe = ExpertSpec(**values["spec"]), Recipe(**values["recipe"])
    return Course(spec, recipe, tuple(values["formats"]), values["prompts"], values["max_attempts"])
