"""The hypernetwork that reads, for decoding: it keeps what does not change from token to token.

At one position the experts do little work of their own, so what can be kept is most of it: the
part of the query that is made of the question's words, and the one map of two with which words are
written.

Shapes: B rows, T tokens, P positions that were read last, D d_model, U key width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from genpoe.experts import Around, Looks, Site
from genpoe.hypernet.reader import ReaderHypernet
from qa.acting import LastRead


class ReaderInSteps:
    """What the experts of a reader need of it, for the rows of one batch that is decoded.

    It computes what `ReaderHypernet` does, up to rounding.

    Args:
        reader: The reader.
        whole: What `genpoe.hypernet.words.WordWriter.whole` of the reader's writer returned.
    """

    def __init__(self, reader: ReaderHypernet, whole: Tensor) -> None:
        self._reader = reader
        self.looks: Looks = reader.looks
        self.mixing = reader.mixing
        self._whole = whole
        self._asked: Tensor | None = None
        self._tokens = 0  # how many had been read when `_asked` was computed or confirmed
        self._settled = False
        self._markers = reader.question.may_begin_or_end

    def asked(self, read: LastRead) -> Tensor | None:
        """What queries have of the question's words ``[B, P, U]``; see `ReaderHypernet.asked`.

        After a question has ended, another token changes nothing, unless it completes a marker.
        """
        tokens, one = read.ids_BL.shape[1], read.positions == 1
        stays = one and self._settled and tokens == self._tokens + 1
        if stays and self._markers.isdisjoint(read.ids_BL[:, -1].tolist()):
            self._tokens = tokens
            return self._asked
        around = Around(read.ids_BL, read.mask_BL, ())
        self._asked = self._reader.asked(around, read.positions)
        self._settled = one and self._reader.question.is_settled(read.ids_BL)
        self._tokens = tokens
        return self._asked

    def query(
        self, site: Site, noise: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, the null unit's scores, and the FFN's input as the gate reads it."""
        return self._reader.query(site, noise)

    def expected(self, site: Site) -> Tensor | None:
        """What the backbone would say by itself."""
        return self._reader.expected(site)

    def rows(self, ids: Tensor, values: Tensor) -> Tensor:
        """The head's centred rows of words."""
        return self._reader.rows(ids, values)

    def write(self, site: Site, states_NTD: Tensor, read_NTD: Tensor, total_NT: Tensor) -> Tensor:
        """What is added to the FFN's output."""
        return self._reader.write(site, states_NTD, read_NTD, total_NT, self._whole)
