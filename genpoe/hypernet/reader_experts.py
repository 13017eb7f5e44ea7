"""The experts of the hypernetwork that reads, and what must be kept of them.

Shapes: P passages, S passage tokens, N questions, B expert sets, K experts a set, T tokens, M =
slots · T, D d_model, U key width, Q a unit's key.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from genpoe.experts import GeneratedExperts, Looked, Looks, Mixed, SharedRows, Site, check_relevance

MIXINGS = ("softmax", "experts")


class Reads(Protocol):
    """What experts need of the hypernetwork that made them: all that is common to the passages."""

    @property
    def looks(self) -> Looks:
        """What the experts look at."""
        ...

    @property
    def mixing(self) -> str:
        """How K passages are mixed: one of `MIXINGS`."""
        ...

    def query(
        self, site: Site, noise: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, the null unit's scores, and the FFN's input as the gate reads it."""
        ...

    def expected(self, site: Site) -> Tensor | None:
        """What the backbone would say by itself, as it counts in the units' scores; or None."""
        ...

    def rows(self, ids: Tensor, values: Tensor) -> Tensor:
        """The head's rows of the units' words."""
        ...

    def write(self, site: Site, states_NTD: Tensor, read_NTD: Tensor, total_NT: Tensor) -> Tensor:
        """What is added to the FFN's output."""
        ...


@dataclass(frozen=True)
class ReaderCode:
    """What must be kept of passages in order to make their experts again: P codes.

    Attributes:
        keys_PSU: The keys of their tokens.
        ids_PS: The token ids, from which all else is made.
        mask_PS: 1 at tokens, 0 at padding.
    """

    keys_PSU: Tensor
    ids_PS: Tensor
    mask_PS: Tensor

    def to(self, device: torch.device) -> ReaderCode:
        """Copy the codes to a device."""
        return ReaderCode(self.keys_PSU.to(device), self.ids_PS.to(device), self.mask_PS.to(device))


@dataclass(frozen=True)
class ReaderExperts(GeneratedExperts):
    """B sets of K experts that write the words of their passages.

    Attributes:
        keys: ``[B, K, S, Q]``: the keys of an expert's units, one for each token.
        values: ``[B, K, S, D]``: what `genpoe.hypernet.words.WordWriter` needs to write the words.
        ids: ``[B, K, S]``: the words.
        mask: ``[B, K, S]``: 1 at tokens, 0 at padding.
        reader: The hypernetwork, for all that is common to the passages.
        noise: Draws the dropout of training; None outside training.
    """

    keys: Tensor
    values: Tensor
    ids: Tensor
    mask: Tensor
    reader: Reads
    noise: torch.Generator | None = None

    @property
    def looks(self) -> Looks:
        """The states that the query is made of, and the residual stream."""
        return self.reader.looks

    def cast(self, dtype: torch.dtype) -> ReaderExperts:
        """Leave the tensors in their own dtype, because little is computed with them."""
        return self

    def mix(self, site: Site, relevance_BK: Tensor, rows_N: Tensor | None = None) -> Mixed:
        """The words that the experts write at each position, and the common expert's output."""
        check_relevance(self, relevance_BK)
        hidden = site.hidden_NTD
        rows = SharedRows(len(hidden), self.num_sets, rows_N)
        query_NTQ, null_NT, states_NTD = self.reader.query(site, self.noise)
        scores_BMKS = torch.einsum("bmq,bksq->bmks", rows.group(query_NTQ), self.keys)
        expected_NTD = self.reader.expected(site)
        if expected_NTD is not None:
            rows_BKSD = self.reader.rows(self.ids, self.values)
            scores_BMKS = scores_BMKS + torch.einsum(
                "bmd,bksd->bmks", rows.group(expected_NTD), rows_BKSD
            )
        scores_BMKS = scores_BMKS.masked_fill(~self.mask.bool()[:, None], float("-inf"))
        weights = relevance_BK.to(scores_BMKS.dtype)
        units_BMKS = self._weigh(scores_BMKS, rows.group(null_NT), weights)
        read_NTD = rows.ungroup(torch.einsum("bmks,bksd->bmd", units_BMKS, self.values))
        total_NT = rows.ungroup(weights.sum(1)[:, None].expand(-1, units_BMKS.shape[1]))
        added = self.reader.write(site, states_NTD, read_NTD, total_NT)
        units_NTKS = rows.ungroup(units_BMKS)
        looked = Looked(units_NTKS, 1 - units_NTKS.sum((-2, -1)))
        return Mixed(added.to(hidden.dtype), looked)

    def _weigh(self, scores_BMKS: Tensor, null_BM: Tensor, relevance_BK: Tensor) -> Tensor:
        """The weights of the units, with the passages' relevance among them."""
        relevance = relevance_BK[:, None, :, None]
        if self.reader.mixing == "experts":
            null = null_BM[..., None, None].expand(*scores_BMKS.shape[:3], 1)
            return torch.cat([null, scores_BMKS], -1).softmax(-1)[..., 1:] * relevance
        flat = torch.cat([null_BM[..., None], (scores_BMKS + relevance.log()).flatten(2)], -1)
        return flat.softmax(-1)[..., 1:].view(scores_BMKS.shape)
