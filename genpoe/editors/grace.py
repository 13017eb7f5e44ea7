"""GRACE (Hartvigsen et al. 2023): a codebook of keys and values beside one down projection.

A prompt's query q is what the projection reads at the last prompt token. If it lies within the
radius of the nearest key, the projection's output at that token becomes the key's value. No weight
changes. A new fact at distance r from the nearest key

* takes over the entry of the same prompt, which gets a new value and target and keeps its radius;
* gets an entry of radius eps_0, if r is larger than that key's radius and eps_0 together;
* widens that key's radius to r, if the key has the same target;
* gets an entry of radius r / 2 otherwise, and that key's radius becomes just less than r / 2.

Deviation: two targets are the same if their tokens are; the released code compares means of tokens.
Deviation: a correction takes over the entry of its prompt; by the last rule, two entries at one
place would have no radius, and neither would answer.
Deviation: the query is taken once, when the prompt is read, so it is the same for all tokens.

Shapes: N rows, T tokens, i inputs and o outputs of the projection.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from backbone.model import Backbone
from backbone.tokens import encode_prompt
from genpoe.editors.editor import Editor
from genpoe.editors.parts.facts import EncodedFact, Fact
from genpoe.editors.parts.places import find_places, read_inputs
from genpoe.editors.parts.radius import Radius, radius_of
from genpoe.editors.parts.rows import at_least_float32, make_rows, rows_of
from plumbing.mounts import SettingValueError
from plumbing.settings import check_positive, check_seed, check_types

log = logging.getLogger(__name__)

_GAP = 1e-5  # between two balls
_FEWEST = 10  # facts with rephrasings, to choose a radius by


@dataclass(frozen=True)
class GRACESettings:
    """The settings of GRACE.

    Attributes:
        layer: The layer whose down projection has the codebook.
        radius: eps_0, an absolute distance between states; ``auto``: the distance that
            parts rephrasings from strangers (`parts.radius`).
        lr: Adam's learning rate.
        steps: Adam's updates for each value.
        seed: The seed of the values' uniform start.
    """

    layer: int
    radius: float | str = 1.0
    lr: float = 1.0
    steps: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        check_types(self)
        check_positive(self, "lr", "steps")
        if self.radius != "auto" and (isinstance(self.radius, str) or not self.radius > 0):
            raise SettingValueError(
                "radius", f"radius must be a positive number or auto, got {self.radius!r}"
            )
        check_seed(self.seed)


@dataclass(frozen=True)
class Entry:
    """An entry of the codebook.

    Attributes:
        id: The fact that it was made for.
        key: ``[i]``.
        value: ``[o]``.
        radius: How far a query may lie from the key.
        target: The ids of the target.
        prompt: The ids of the prompt that the key is of; empty in journals of earlier versions.
    """

    id: str
    key: Tensor
    value: Tensor
    radius: float
    target: tuple[int, ...]
    prompt: tuple[int, ...] = ()


class GRACE(Editor):
    """Edits by a codebook. It acts inside `acting` alone.

    Args:
        backbone: The model.
        settings: The settings.
        examples: Training facts with rephrasings, for ``radius=auto``.

    Attributes:
        place: The down projection.
        radius: eps_0, and how well it parts rephrasings from strangers if it was calibrated.
        entries: The codebook.

    Raises:
        SettingValueError: If the layer is out of range, or if examples are needed and too few.
        UnsupportedBackboneError: If the layer's FFN has no down projection that is known.
    """

    def __init__(
        self, backbone: Backbone, settings: GRACESettings, examples: Sequence[Fact] = ()
    ) -> None:
        super().__init__(backbone)
        self.settings = settings
        backbone.ffn(settings.layer)  # the error names the setting `layer`
        (self.place,) = find_places(backbone, [settings.layer])
        self.radius = (
            self._calibrated(examples)
            if isinstance(settings.radius, str)
            else Radius(settings.radius, math.nan, math.nan)
        )
        self.entries: tuple[Entry, ...] = ()
        self._draw = torch.Generator().manual_seed(settings.seed)

    def _places(self) -> Sequence[str]:
        return []

    def _state(self) -> Any:
        return super()._state(), self.entries, self._draw.get_state()

    def _set_state(self, state: Any) -> None:
        super()._set_state(state[0])
        self.entries = state[1]
        self._draw.set_state(state[2])

    def queries(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """What the projection reads at the last token of each prompt ``[N, i]``."""
        rows = make_rows(self.backbone, prompts, [[]] * len(prompts))
        at = rows.mask.sum(1) - 1
        inputs = read_inputs(self.backbone, [self.place], rows)[self.place]
        return at_least_float32(inputs[torch.arange(len(at), device=at.device), at])

    def _calibrated(self, examples: Sequence[Fact]) -> Radius:
        """The radius between the rephrasings and the strangers among some facts."""
        pairs = [(each.prompt, each.rephrasings[0]) for each in examples if each.rephrasings]
        if len(pairs) < _FEWEST:
            raise SettingValueError(
                "radius",
                f"radius=auto needs at least {_FEWEST} training facts with rephrasings, got "
                f"{len(pairs)}",
                "set {} to a number, or choose data that have them",
            )
        with torch.inference_mode(False), torch.no_grad():
            tokenizer = self.backbone.tokenizer
            keys, others = (
                self.queries([encode_prompt(tokenizer, text) for text in texts])
                for texts in zip(*pairs, strict=True)
            )
            found = radius_of(keys, others)
        log.info(
            "GRACE's radius is %.3g: %.0f %% of the rephrasings lie further away, and %.0f %% of "
            "the nearest strangers do not",
            *(found.radius, 100 * found.missed, 100 * found.hit),
        )
        return found

    def measure(self) -> Mapping[str, float]:
        """The radius, and how well it parts rephrasings from strangers if it was calibrated."""
        found = {"radius": self.radius.radius}
        if self.settings.radius == "auto":
            found |= {"radius_missed": self.radius.missed, "radius_hit": self.radius.hit}
        return found

    def _apply(self, facts: Sequence[EncodedFact]) -> None:
        queries = self.queries([fact.prompt_ids for fact in facts])
        for fact, query in zip(facts, queries, strict=True):
            self._insert(fact, query)

    def _insert(self, fact: EncodedFact, query: Tensor) -> None:
        start = self.radius.radius
        target, prompt = tuple(fact.target_ids), tuple(fact.prompt_ids)
        if not self.entries:
            return self._add(fact, query, start)
        distances = self._distances(query[None])[0]
        nearest = int(distances.argmin())
        distance, entry = float(distances[nearest]), self.entries[nearest]
        own = next((i for i, e in enumerate(self.entries) if e.prompt == prompt), None)
        if own is None and distance <= 2 * _GAP:
            own = nearest
        if own is not None and self.entries[own].target != target:
            new, value = fact.fact.id, self._trained(fact)
            return self._replace(own, id=new, value=value, target=target, prompt=prompt)
        if distance > entry.radius + start:
            return self._add(fact, query, start)
        if entry.target == target:
            return self._replace(nearest, radius=max(entry.radius, distance))
        self._replace(nearest, radius=distance / 2 - _GAP)
        return self._add(fact, query, distance / 2)

    def _add(self, fact: EncodedFact, query: Tensor, radius: float) -> None:
        value = self._trained(fact)
        target, prompt = tuple(fact.target_ids), tuple(fact.prompt_ids)
        entry = Entry(fact.fact.id, query, value, radius, target, prompt)
        self.entries = (*self.entries, entry)

    def _replace(self, index: int, **changes: Any) -> None:
        changed = replace(self.entries[index], **changes)
        self.entries = (*self.entries[:index], changed, *self.entries[index + 1 :])

    def _distances(self, queries: Tensor) -> Tensor:
        """The distance of each query from each key ``[N, entries]``."""
        keys = torch.stack([entry.key for entry in self.entries])
        return torch.linalg.vector_norm(queries[:, None] - keys, dim=-1)

    def _trained(self, fact: EncodedFact) -> Tensor:
        """The value with which the model writes the target."""
        rows = rows_of(self.backbone, [fact])
        column = torch.tensor([len(fact.prompt_ids) - 1], device=self.backbone.device)
        start = torch.rand(self.place.block.out_features, generator=self._draw)
        value = at_least_float32(start.to(self.place.weight.to(torch.float32)))
        if self.backbone.dtype == torch.float64:
            value = value.double()
        value.requires_grad_()
        optimizer = torch.optim.Adam([value], lr=self.settings.lr)

        def put(_: nn.Module, __: Any, output: Tensor) -> Tensor:
            at = (torch.zeros_like(column), column)
            return output.index_put(at, value.to(output.dtype)[None])

        with ExitStack() as stack:
            stack.callback(self.place.block.module.register_forward_hook(put).remove)
            for step in range(1, self.settings.steps + 1):
                loss = rows.nll(self.backbone)[0]
                self._check_loss(loss, fact, step)
                (value.grad,) = torch.autograd.grad(loss, [value])
                optimizer.step()
        return value.detach()

    def _nll(self, facts: Sequence[EncodedFact]) -> tuple[float, ...]:
        ends = torch.tensor([len(fact.prompt_ids) - 1 for fact in facts])
        with self.acting(ends.to(self.backbone.device)):
            return super()._nll(facts)

    @contextmanager
    def acting(self, ends: Tensor | None = None) -> Iterator[None]:
        """Let the codebook act inside the block, in which one batch of prompts is answered.

        Args:
            ends: The column of each row's last prompt token ``[N]``, counted from the first token
                that was ever read. None: the prompts end where the first forward pass ends, as when
                prompts that are padded before their tokens are continued.
        """
        if not self.entries:
            yield
            return
        reading = _Reading(self, ends)
        with ExitStack() as stack:
            decoder, down = self.backbone.decoder, self.place.block.module
            stack.callback(
                decoder.register_forward_pre_hook(reading.before, with_kwargs=True).remove
            )
            stack.callback(down.register_forward_hook(reading.at_map).remove)
            yield

    def chosen(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        """Which rows the codebook answers ``[N]``, and the nearest keys' values ``[N, o]``."""
        distances = self._distances(at_least_float32(queries))
        nearest = distances.argmin(1)
        radii = torch.tensor([e.radius for e in self.entries], dtype=distances.dtype)
        inside = distances.amin(1) <= radii.to(distances.device)[nearest]
        return inside, torch.stack([entry.value for entry in self.entries])[nearest]


class _Reading:
    """What one batch of prompts chose; it stays the same for all tokens of the answers."""

    def __init__(self, grace: GRACE, ends: Tensor | None) -> None:
        self._grace, self._ends = grace, ends
        self._first = 0
        self._chosen: tuple[Tensor, Tensor] | None = None

    def before(self, _: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Note how many tokens were read before this pass."""
        tokens = args[0] if args else kwargs.get("input_ids")
        tokens = kwargs["inputs_embeds"] if tokens is None else tokens
        mask = kwargs.get("attention_mask")
        self._first = 0 if mask is None else mask.shape[-1] - tokens.shape[1]

    def at_map(self, _: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """Put the values at the last prompt tokens that this pass reads."""
        rows, width = output.shape[:2]
        if self._ends is None:
            self._ends = torch.full((rows,), self._first + width - 1, device=output.device)
        columns = self._ends - self._first
        every = torch.arange(rows, device=output.device)
        if self._chosen is None:
            self._chosen = self._grace.chosen(args[0][every, columns])
        inside, values = self._chosen
        hit = inside & (columns >= 0) & (columns < width)
        if not bool(hit.any()):
            return output
        output = output.clone()
        output[every[hit], columns[hit]] = values[hit].to(output.dtype)
        return output
