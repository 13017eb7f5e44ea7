"""What all editors share: facts go in, the model knows them, and all of it can be taken back.

`Editor.edit` is the one way to edit. It leaves inference mode, keeps what is needed to undo, and
takes back what it had begun if anything goes wrong. An editor says how it edits in `_apply`.
"""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from backbone.edits import WeightEdits
from backbone.model import Backbone
from genpoe.editors.parts.facts import EncodedFact, Fact, check_ids, encode_fact, subject_of
from genpoe.editors.parts.places import Place, changed
from genpoe.editors.parts.ridge import SingularError
from genpoe.editors.parts.rows import rows_of
from plumbing.stopwatch import Stopwatch

log = logging.getLogger(__name__)


class EditError(ValueError):
    """An edit could not be made. The model is as it was before."""


@dataclass(frozen=True)
class EditReport:
    """What one batch of edits did.

    Attributes:
        ids: The ids of the facts.
        nll_before: The negative log-likelihood of each target before, in nats a token.
        nll_after: The negative log-likelihood of each target after the edit, in nats a token.
        moved: How far each changed parameter moved, relative to its norm.
        seconds: How long it took, without the two likelihoods.
        stuck: The ids of facts whose optimised value lowered its loss by less than 5 %.
    """

    ids: tuple[str, ...]
    nll_before: tuple[float, ...] = ()
    nll_after: tuple[float, ...] = ()
    moved: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    stuck: tuple[str, ...] = ()


class Editor(ABC):
    """Edits facts into a backbone, batch after batch.

    Args:
        backbone: The model. Its weights change in place.

    Attributes:
        needs_subject: Whether each fact must name its subject.
        backbone: The model.
        edits: The changes of its weights.

    Raises:
        ValueError: If the model is in float16, whose range is too small.
    """

    needs_subject: ClassVar[bool] = False

    def __init__(self, backbone: Backbone) -> None:
        if backbone.dtype == torch.float16:
            raise ValueError(
                f"{backbone.name} is in float16, in which updates overflow; load it in bfloat16 or "
                "float32 to edit it"
            )
        self.backbone = backbone
        self.edits = WeightEdits(backbone)
        self._masters: dict[str, Tensor] = {}  # of edited parameters in bfloat16
        self._before: list[tuple[int, Any]] = []  # for each batch: commits, and the editor's state
        self._stuck: list[str] = []

    @property
    def batches(self) -> int:
        """How many batches of edits stand now."""
        return len(self._before)

    def edit(self, facts: Sequence[Fact]) -> EditReport:
        """Edit a batch of facts into the model as it is now. An empty batch changes nothing.

        Args:
            facts: The facts.

        Returns:
            What was done.

        Raises:
            FactError: If a fact cannot be edited.
            EditError: If a loss or an update is not finite, if a system is singular, or if nothing
                changed. In all cases, and if the edit is interrupted, the model is as before.
        """
        check_ids(facts)
        with torch.inference_mode(False), torch.enable_grad():
            encoded = [encode_fact(self.backbone, fact) for fact in facts]
            if self.needs_subject:
                for fact in facts:
                    subject_of(fact)
            batches = self.batches
            try:
                self._before.append((self.edits.commits, self._state()))
                return self._edit(encoded) if encoded else EditReport(())
            except SingularError as error:
                self.undo(batches)
                raise EditError(str(error)) from error
            except BaseException:
                self.undo(batches)
                raise

    def _edit(self, facts: Sequence[EncodedFact]) -> EditReport:
        self._stuck = []
        before = self._nll(facts)
        old = {name: p.detach().clone() for name, p in self._written().items()}
        watch = Stopwatch()
        self._apply(facts)
        seconds = watch.seconds
        moved = {}
        for name, parameter in self._written().items():
            norm = torch.linalg.vector_norm(old[name].double())
            moved[name] = float(torch.linalg.vector_norm(parameter.double() - old[name]) / norm)
        if moved and not any(moved.values()):
            raise EditError(
                f"the edit of {facts[0].fact.id!r} and {len(facts) - 1} others changed no weight "
                f"in {self.backbone.dtype}; use a larger step"
            )
        after = self._nll(facts)
        return EditReport(
            tuple(fact.fact.id for fact in facts),
            *(before, after, moved, seconds, tuple(self._stuck)),
        )

    def undo(self, batches: int = 0) -> None:
        """Take back all batches but the first ``batches``: every bit is what it was then.

        Raises:
            ValueError: If fewer batches stand.
        """
        if not 0 <= batches <= self.batches:
            raise ValueError(f"batches must be in 0..{self.batches}, got {batches}")
        while self.batches > batches:
            commits, state = self._before[-1]
            self.edits.rollback(commits)
            self._set_state(state)
            self._before.pop()  # only now: an interrupted undo can be repeated

    @property
    def state(self) -> Any:
        """What the editor knows besides the weights, such as statistics over all edits so far."""
        return self._state()

    def redo(self, weights: Mapping[str, Tensor], state: Any) -> None:
        """Take up a batch that was edited before, by what it left behind.

        Args:
            weights: The parameters that the batch changed, by name, as they were after it.
            state: The `state` after it.

        Raises:
            ValueError: If the weights are not those of this model; the model is as before then.
        """
        batches = self.batches
        try:
            self._before.append((self.edits.commits, self._state()))
            if weights:
                self.edits.write(weights)
            self._set_state(state)
        except BaseException:
            self.undo(batches)
            raise

    def changed(self, batches: int = 0) -> dict[str, Tensor]:
        """What the parameters were, that have changed since so many batches stood."""
        commits = self._before[batches][0] if batches < self.batches else self.edits.commits
        return self.edits.previous(commits)

    @contextmanager
    def edited(self, facts: Sequence[Fact]) -> Iterator[EditReport]:
        """`edit` for the duration of a ``with`` block, in which the edits act."""
        before = self.batches
        try:
            report = self.edit(facts)
            with self.acting():
                yield report
        finally:
            self.undo(before)

    def acting(self) -> AbstractContextManager[Any]:
        """A block in which the edits act on what is decoded.

        Edits of weights act everywhere. What acts on states alone (GRACE) needs the block.
        """
        return nullcontext()

    def nll(self, facts: Sequence[Fact]) -> tuple[float, ...]:
        """The negative log-likelihood of each fact's target now, in nats a token.

        Raises:
            FactError: If a fact cannot be encoded.
        """
        return self._nll([encode_fact(self.backbone, fact) for fact in facts])

    def measure(self) -> Mapping[str, float]:
        """What the editor says about itself in ``metrics.json``; by default nothing."""
        return {}

    @abstractmethod
    def _apply(self, facts: Sequence[EncodedFact]) -> None:
        """Edit; every weight is written by `_write`."""

    @abstractmethod
    def _places(self) -> Sequence[str]:
        """The names of the parameters that the editor writes."""

    def _state(self) -> Any:
        """What `_set_state` needs to bring the editor back to now; nothing that changes later."""
        return dict(self._masters)

    def _set_state(self, state: Any) -> None:
        self._masters = dict(state)

    def _written(self) -> dict[str, Tensor]:
        parameters = dict(self.backbone.model.named_parameters())
        return {name: parameters[name].detach() for name in self._places()}

    def _master(self, name: str) -> Tensor:
        """A parameter in float32 or float64, without what rounding it to the model's dtype lost."""
        if name in self._masters:
            return self._masters[name]
        return self._written()[name].to(_master_dtype(self.backbone.dtype))

    def _weight(self, place: Place) -> Tensor:
        """The weights ``[o, i]`` of a place, from the master copy, in float64."""
        return place.block.part(self._master(place.parameter)).double()

    def _write(self, weights: Mapping[Place, Tensor]) -> None:
        """Write new weights ``[o, i]``, computed from `_weight`, as one commit."""
        names = {place.parameter for place in weights}
        masters = {name: self._master(name).double() for name in names}
        self._write_parameters(changed(weights, masters))

    def _write_parameters(self, parameters: Mapping[str, Tensor]) -> None:
        for name, value in parameters.items():
            if not bool(value.to(self.backbone.dtype).isfinite().all()):
                raise EditError(f"the update of {name} is not finite; use a smaller step")
        self.edits.write(parameters)
        if self.backbone.dtype == torch.bfloat16:
            self._masters |= {name: value.float() for name, value in parameters.items()}

    def _nll(self, facts: Sequence[EncodedFact]) -> tuple[float, ...]:
        with torch.no_grad():
            return tuple(rows_of(self.backbone, facts).nll(self.backbone).tolist())

    def _check_loss(self, loss: Tensor, fact: EncodedFact, step: int) -> float:
        """The loss as a number.

        Raises:
            EditError: If it is not finite.
        """
        value = float(loss.detach())
        if not math.isfinite(value):
            raise EditError(
                f"the loss of the edit {fact.fact.id!r} is {value} at step {step}; use a smaller "
                "learning rate"
            )
        return value


def _master_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32
