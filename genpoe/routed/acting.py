"""Generated experts that act in the rows of a batch while it is decoded.

DMoE's decoder asks for them where the backbone is uncertain. They stand beside the final FFN, so
they change no key and no value, and a token can be decoded again under other experts.

Shapes: B rows, b some of them, K experts a row, P positions that were read last, L tokens read so
far, T positions at which experts are asked for, D d_model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from backbone.final_ffn import FinalFFN
from genpoe.experts import Around, GeneratedExperts, Site
from genpoe.hypernet.hypernet import Hypernet
from genpoe.hypernet.reader import ReaderHypernet
from genpoe.hypernet.reader_experts import ReaderExperts
from genpoe.hypernet.reader_steps import ReaderInSteps
from genpoe.watch import on_input
from qa.acting import ActingExperts, LastRead


class Codes(Protocol):
    """Where the codes of passages come from: a bank of them, or `CodesOnDemand`."""

    def get(self, ids: Sequence[str]) -> Any:
        """The codes of some passages, as `Hypernet.experts` takes them."""
        ...


class RoutedExperts(ActingExperts):
    """The generated experts that act in each row (GenPoE eq. 6), as the router weights them.

    The weights of a row's experts are divided by their sum, which makes them the relevance of eq.
    9. Experts that all have the weight 1 are equally relevant.

    Args:
        final: The final FFN.
        hypernet: Makes experts of codes; its layer is the last one.
        codes: The codes.
        rows: B, the number of rows of the batch.
        k: K, the most experts that a row may have.
    """

    def __init__(
        self,
        final: FinalFFN,
        hypernet: Hypernet,
        codes: Codes,
        rows: int,
        k: int,
    ) -> None:
        super().__init__(rows, k)
        self._steps: ReaderInSteps | None = None
        if isinstance(hypernet, ReaderHypernet):
            self._steps = ReaderInSteps(hypernet)
        self._final = final
        self._hypernet = hypernet
        self._codes = codes
        self._experts: GeneratedExperts | None = None  # B sets of K, from the first swap on
        self._relevance_BK = torch.zeros(rows, k, device=final.backbone.device)
        self._last: LastRead | None = None
        self._asked: Tensor | None = None  # [B, P, U], of a reader; computed when it is needed
        self._earlier: list[Tensor] = []  # the states [B, P, D] that entered the layers looked at

    @torch.inference_mode()
    def _fill(self, rows: Sequence[int], weighted: Sequence[Mapping[str, float]]) -> None:
        device = self._relevance_BK.device
        relevance = [_relevance(row.values(), self.k) for row in weighted]
        rows_b = torch.tensor(rows, device=device)
        self._relevance_BK[rows_b] = torch.tensor(relevance, device=device)
        names = list(dict.fromkeys(id for row in weighted for id in row))
        if not names:
            return
        # Any expert with the relevance 0 fills a row that has fewer than K.
        index = [[*map(names.index, row), *[0] * self.k][: self.k] for row in weighted]
        code = self._codes.get(names).to(device)
        made = self._hypernet.experts(code).cast(self._final.backbone.dtype)
        if isinstance(made, ReaderExperts) and self._steps is not None:
            made = replace(made, reader=self._steps)
        made = made.arranged(torch.tensor(index, device=device))
        self._experts = _placed(self._experts, made, rows_b, len(self._relevance_BK))

    @contextmanager
    def watching(self, read: LastRead) -> Iterator[None]:
        """Inside the block, note the states of earlier layers that the experts look at."""
        looks = self._hypernet.looks
        layers = () if looks is None else looks.layers
        self._last, self._asked = read, None
        self._earlier = [torch.empty(0)] * len(layers)

        def note(place: int) -> Any:
            def keep(states: Tensor) -> None:
                # A view would keep the states of the whole prompt in memory.
                self._earlier[place] = states[:, -read.positions :].clone()

            return keep

        with ExitStack() as stack:
            for place, layer in enumerate(layers):
                watched = self._final.backbone.layers[layer]
                stack.callback(on_input(watched, note(place)).remove)
            yield

    @contextmanager
    def attached(self, rows: Tensor | None = None, position: int | None = None) -> Iterator[None]:
        """Let the experts act on the final FFN inside the block.

        Args:
            rows: ``[b]``, the rows that the batches inside hold; None: all B rows.
            position: Which of the P positions that were read last the batches inside hold; None:
                all of them.
        """
        if self._experts is None or not any(self._ids):
            yield
            return
        experts, relevance = self._experts, self._relevance_BK
        if len(self._ids) == 1:
            rows = None  # the only row; nothing need be copied
        if rows is not None:
            experts, relevance = experts.map(lambda tensor: tensor[rows]), relevance[rows]

        def add(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
            hidden = args[0]
            if hidden.ndim == 2:  # [b, D], at one position
                site = self._site(hidden[:, None], output[:, None], rows, position)
                return output + experts.mix(site, relevance).added_NTD[:, 0]
            site = self._site(hidden, output, rows, position)
            added_NTD = experts.mix(site, relevance).added_NTD
            before = output.shape[1] - added_NTD.shape[1]  # positions that nothing reads any more
            return output + (functional.pad(added_NTD, (0, 0, before, 0)) if before else added_NTD)

        handle = self._final.ffn.register_forward_hook(add)
        try:
            yield
        finally:
            handle.remove()

    def _site(
        self, hidden: Tensor, output: Tensor, rows: Tensor | None, position: int | None
    ) -> Site:
        """What is known at the final FFN at the last P positions, or at one of them."""
        if self._hypernet.looks is None:
            return Site(hidden, output)
        read = self._last
        if read is None:
            raise ValueError(
                "these experts look at what the backbone read last, but it has read nothing: let "
                "it read inside `watching`"
            )
        P, L = read.positions, read.ids_BL.shape[1]
        at = slice(None) if position is None else slice(position, position + 1)
        upto = L if position is None else L - P + 1 + position

        def some(tensor: Tensor) -> Tensor:
            return tensor if rows is None else tensor[rows]

        if self._asked is None and self._steps is not None:
            self._asked = self._steps.asked(Around(read.ids_BL, read.mask_BL, ()), P)
        around = Around(
            some(read.ids_BL)[:, :upto],
            some(read.mask_BL)[:, :upto],
            tuple(some(states)[:, at] for states in self._earlier),
            None if self._asked is None else some(self._asked)[:, at],
        )
        stream = some(read.residual.hidden_BPD)[:, at]
        return Site(hidden[:, -P:], output[:, -P:], stream, around)


def _relevance(weights: Any, k: int) -> list[float]:
    """The weights of a row's experts divided by their sum, and 0 for those that it lacks."""
    weights = list(weights)
    total = sum(weights) or 1.0
    return [*(weight / total for weight in weights), *[0.0] * k][:k]


def _placed(
    all_rows: GeneratedExperts | None, some: GeneratedExperts, rows_b: Tensor, rows: int
) -> GeneratedExperts:
    """Put the sets of some rows in their places among those of all rows.

    Sets of passages of unequal lengths are padded with zeros, which masks mark.
    """
    if rows == 1:
        return some
    before = {} if all_rows is None else dict(all_rows.tensors())
    placed = {}
    for name, new in some.tensors():
        old = before.get(name, new[:0])
        shape = [rows, *map(max, zip(old.shape[1:], new.shape[1:], strict=True))]
        if list(old.shape) != shape:
            wider = new.new_zeros(shape)
            wider[tuple(map(slice, old.shape))] = old
            old = wider
        old[rows_b] = 0
        at: tuple[Tensor | slice, ...] = (rows_b, *map(slice, new.shape[1:]))
        old[at] = new
        placed[name] = old
    return some.with_tensors(placed)
