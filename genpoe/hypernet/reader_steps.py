"""The hypernetwork that reads, for decoding: it keeps what does not change from token to token.

At one position the experts do little work of their own, and most of their time goes into calls of
small operations. So linear maps that follow each other become one, and the part of the query that
is made of the question's words is computed once.

Shapes: N rows, T positions, L tokens read so far, D d_model, H hidden width, U key width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from genpoe.experts import Around, Looks, Site
from genpoe.hypernet.reader_experts import Query, seen
from genpoe.hypernet.words import root_mean_square

if TYPE_CHECKING:
    from genpoe.hypernet.reader_network import ReaderHypernet


@dataclass(frozen=True)
class FoldedReader:
    """The weights of a reader after its linear maps were joined; no gradients flow through them.

    Attributes:
        query1: The map from the states, divided by their root mean square, to the hidden width:
            weight and bias. The states' statistics are in it.
        query2: The map from there to the query, whose scale is in it, and to the null unit's score.
        gate: The map from the FFN's input, divided by its root mean square, to the gate.
        whole: `genpoe.hypernet.words.WordWriter.whole`.
        common_down: The last factor of the common expert, whose scale is in it.
    """

    query1: tuple[Tensor, Tensor]
    query2: tuple[Tensor, Tensor]
    gate: tuple[Tensor, Tensor]
    whole: Tensor
    common_down: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, reader: ReaderHypernet) -> FoldedReader:
        """Join the maps of a reader.

        The result is kept with the reader, and made again after its weights have changed.
        """
        weights = [*reader.parameters(), *reader.buffers()]
        # Tensors that were made for inference cannot change outside it, and count no versions.
        key = [(w.data_ptr(), 0 if w.is_inference() else w._version) for w in weights]
        if reader.folded is None or reader.folded[0] != key:
            reader.folded = key, cls._made(reader)
        return reader.folded[1]

    @classmethod
    def _made(cls, reader: ReaderHypernet) -> FoldedReader:
        def standardized(linear: nn.Linear) -> tuple[Tensor, Tensor]:
            size = linear.in_features
            weight = linear.weight * reader.query_scale[:size]
            return weight, linear.bias - weight @ reader.query_mean[:size]

        ask, null = reader.query2, reader.null
        scale = reader.settings.key_width**-0.5
        return cls(
            standardized(reader.query1),
            (
                torch.cat([ask.weight * scale, null.weight]),
                torch.cat([ask.bias * scale, null.bias]),
            ),
            standardized(reader.gate),
            reader.writer.whole(),
            reader.common.down2 * reader.common.output_scale,
        )


class ReaderInSteps:
    """What the experts of a reader need of it, for the rows of one batch that is decoded.

    It computes what `genpoe.hypernet.reader_network.ReaderHypernet` does, up to rounding.

    Args:
        reader: The reader.
    """

    def __init__(self, reader: ReaderHypernet) -> None:
        self._reader, self._folded = reader, FoldedReader.of(reader)
        self.looks: Looks = reader.looks
        self.mixing = reader.mixing
        self._asked: Tensor | None = None
        self._read: tuple[Tensor, Tensor] | None = None  # tokens and mask that `_asked` stands for
        self._settled = False
        self._markers = reader.question.may_begin_or_end

    def asked(self, around: Around, positions: int) -> Tensor | None:
        """What queries have of the question's words ``[N, T, U]``, as `ReaderHypernet.asked`.

        After a question has ended, another token changes nothing, unless it completes a marker.
        """
        now = around.ids_NL, around.mask_NL
        if not (positions == 1 and self._settled and self._goes_on(*now)):
            self._asked = self._reader.asked(around, positions)
            self._settled = positions == 1 and self._reader.question.is_settled(now[0])
        self._read = now
        return self._asked

    def _goes_on(self, ids_NL: Tensor, mask_NL: Tensor) -> bool:
        """Whether there is one token more in each row, and none that completes a marker."""
        if self._read is None or not self._markers.isdisjoint(ids_NL[:, -1].tolist()):
            return False
        # With other tokens before it, this is another text.
        ids, mask = self._read
        return torch.equal(ids_NL[:, :-1], ids) and torch.equal(mask_NL[:, :-1], mask)

    def query(self, site: Site, noise: torch.Generator | None = None) -> Query:
        """What the experts look for at each position, and how strongly words are written."""
        around, _ = seen(site)
        folded, T, D = self._folded, *site.hidden_NTD.shape[1:]
        states = torch.cat([site.hidden_NTD, *around.earlier], -1).to(self._reader.dtype)
        each = states.unflatten(-1, (-1, D))
        z = (each / root_mean_square(each)).flatten(-2)
        both = functional.linear(
            functional.gelu(functional.linear(z, *folded.query1)), *folded.query2
        )
        if around.asked_NTU is None:
            around = replace(around, asked_NTU=self.asked(around, T))
        queries = torch.cat([both[..., :-1], *self._reader.matched(around, T)], -1)
        gate = functional.relu(functional.linear(z[..., :D], *folded.gate))
        return Query(queries, both[..., -1], gate)

    def write(self, site: Site, gate_NT1: Tensor, read_NTD: Tensor, total_NT: Tensor) -> Tensor:
        """What is added to the FFN's output."""
        dtype, (_, stream), common = self._reader.dtype, seen(site), self._reader.common
        written = self._reader.writer(
            read_NTD, stream.to(dtype), site.output_NTD.to(dtype), self._folded.whole
        )
        inner = torch.relu(site.hidden_NTD.to(dtype) @ common.up1 @ common.up2) @ common.down1
        return gate_NT1 * written + total_NT[..., None] * (inner @ self._folded.common_down)
