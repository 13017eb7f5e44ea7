"""The experts of the hypernetwork that reads, and what must be kept of them.

Shapes: P passages, S passage tokens, N questions, B expert sets, K experts a set, T tokens, M =
slots · T, D d_model, U key width, Q a unit's key.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from genpoe.experts import (
    Around,
    GeneratedExperts,
    Looked,
    Looks,
    Mixed,
    SharedRows,
    Site,
    check_relevance,
)

MIXINGS = ("softmax", "experts")


class Query(NamedTuple):
    """What the experts look for at each position.

    Attributes:
        queries_NTQ: The queries.
        null_NT: The scores of the null unit.
        gate_NT1: How strongly words are written, in logits.
    """

    queries_NTQ: Tensor
    null_NT: Tensor
    gate_NT1: Tensor


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

    def query(self, site: Site, noise: torch.Generator | None = None) -> Query:
        """What is looked for at each position, and how strongly it is written."""
        ...

    def write(self, site: Site, gate_NT1: Tensor, read_NTD: Tensor, total_NT: Tensor) -> Tensor:
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
        mask: Bool ``[B, K, S]``: true at tokens, false at padding.
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
        query = self.reader.query(site, self.noise)
        # The units of all K experts of a set are those of one matrix.
        keys_BSQ, values_BSD = self.keys.flatten(1, 2), self.values.flatten(1, 2)
        scores_BMS = rows.group(query.queries_NTQ) @ keys_BSQ.transpose(1, 2)
        weights = relevance_BK.to(scores_BMS.dtype)
        null_BM1 = rows.group(query.null_NT)[..., None]
        units_BMS, null_BM = self._weigh(scores_BMS, null_BM1, weights)
        read_NTD = rows.ungroup(units_BMS @ values_BSD)
        total_NT = rows.ungroup(weights.sum(1)[:, None].expand(-1, units_BMS.shape[1]))
        added = self.reader.write(site, query.gate_NT1, read_NTD, total_NT)
        units_BMKS = units_BMS.unflatten(2, self.mask.shape[1:])
        return Mixed(
            added.to(hidden.dtype), Looked(rows.ungroup(units_BMKS), rows.ungroup(null_BM))
        )

    def _weigh(
        self, scores_BMS: Tensor, null_BM1: Tensor, relevance_BK: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The weights of all units ``[B, M, K S]`` with the relevance among them; of the null."""
        if self.reader.mixing == "experts":
            scores_BMKS = scores_BMS.unflatten(2, self.mask.shape[1:])
            scores_BMKS = scores_BMKS.masked_fill(~self.mask[:, None], float("-inf"))
            null = null_BM1[..., None].expand(*scores_BMKS.shape[:3], 1)
            each = torch.cat([null, scores_BMKS], -1).softmax(-1)[..., 1:]
            units_BMS = (each * relevance_BK[:, None, :, None]).flatten(2)
            return units_BMS, 1 - units_BMS.sum(-1)
        bias_BKS = torch.where(self.mask, relevance_BK.log()[..., None], float("-inf"))
        scores_BMS = scores_BMS + bias_BKS.flatten(1)[:, None]
        both = torch.cat([null_BM1, scores_BMS], -1).softmax(-1)
        return both[..., 1:], both[..., 0]


def seen(site: Site) -> tuple[Around, Tensor]:
    """What the experts see besides the FFN: what is around, and the residual stream.

    Raises:
        ValueError: If it is not known.
    """
    if site.around is None or site.stream_NTD is None:
        raise ValueError(
            "the reader's experts look at more than the FFN's input: give around and stream_NTD of "
            "the Site, or inject them by an ExpertLayer"
        )
    return site.around, site.stream_NTD
