"""What stands beside a frozen FFN: sets of K experts, one set for each question (GenPoE sec. 3.1).

An expert is anything that maps what the model knows at an FFN to what is added to the FFN's output.
`GeneratedExperts` says what every kind must offer. `Experts` are the paper's: low-rank feed-forward
networks, which read the FFN's input alone. Other kinds may look at more; `Looks` says at what, and
a `Site` holds it.

Shapes: N rows (questions), B expert sets, K experts a set, T tokens, L tokens read so far, S units
of an expert, D d_model, R rank, M = slots · T positions that share a set.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

E = TypeVar("E", bound="GeneratedExperts")


@dataclass(frozen=True)
class Looks:
    """What experts look at besides the FFN's input. Decoding computes all of it anyway.

    Attributes:
        layers: The experts look at the states that these decoder layers read.
        stream: The module whose input is the residual stream that the FFN's output is added to.
    """

    layers: tuple[int, ...]
    stream: nn.Module


@dataclass(frozen=True)
class Around:
    """What experts may look at besides the FFN: the T positions are the last of L that were read.

    Attributes:
        ids_NL: The tokens of each row so far.
        mask_NL: 1 at tokens, 0 at padding.
        earlier: For each of `Looks.layers` the states ``[N, T, D]`` that it read.
        asked_NTU: What a reader's queries have of the question's words, if it was computed before
            (`genpoe.hypernet.reader.ReaderHypernet.asked`); it saves time.
    """

    ids_NL: Tensor
    mask_NL: Tensor
    earlier: tuple[Tensor, ...]
    asked_NTU: Tensor | None = None


@dataclass(frozen=True)
class Site:
    """What is known at an FFN when its experts act.

    Attributes:
        hidden_NTD: The FFN's input.
        output_NTD: The FFN's own output.
        stream_NTD: The residual stream before the FFN, if the experts look at it.
        around: What else they look at.
    """

    hidden_NTD: Tensor
    output_NTD: Tensor
    stream_NTD: Tensor | None = None
    around: Around | None = None


@dataclass(frozen=True)
class Looked:
    """Where experts looked: the weight of each of their units. With `null_NT` they sum to 1.

    Attributes:
        units_NTKS: The weights of the units, the passages' relevance among them.
        null_NT: The weight of writing nothing.
    """

    units_NTKS: Tensor
    null_NT: Tensor


@dataclass(frozen=True)
class Mixed:
    """What `GeneratedExperts.mix` returns.

    Attributes:
        added_NTD: The term to add to the FFN's output, in the dtype of the FFN's input.
        looked: Where the experts looked; None for experts without units of their own.
    """

    added_NTD: Tensor
    looked: Looked | None = None


@dataclass(frozen=True)
class GeneratedExperts(ABC):
    """B sets of K experts. Each tensor of a subclass begins with the dimensions B and K."""

    @property
    def looks(self) -> Looks | None:
        """What the experts look at besides the FFN's input; by default at nothing."""
        return None

    @property
    def num_sets(self) -> int:
        """B, the number of sets of K experts."""
        return self.tensors()[0][1].shape[0]

    @property
    def num_experts(self) -> int:
        """K, the number of experts in one set."""
        return self.tensors()[0][1].shape[1]

    @abstractmethod
    def mix(self, site: Site, relevance_BK: Tensor, rows_N: Tensor | None = None) -> Mixed:
        """The term that the experts add to the FFN's output (GenPoE eq. 6; eq. 3 for K = 1).

        Args:
            site: What is known at the FFN.
            relevance_BK: Weights of the experts; each row sums to 1, or is 0 (eq. 9).
            rows_N: The index of each row's expert set, as in `SharedRows`.

        Raises:
            ValueError: If the experts, the relevance and the rows disagree in shape.
        """

    def map(self: E, function: Callable[[Tensor], Tensor]) -> E:
        """Apply ``function`` to each tensor, for example to choose some of the sets."""
        return self.with_tensors({name: function(tensor) for name, tensor in self.tensors()})

    def with_tensors(self: E, tensors: Mapping[str, Tensor]) -> E:
        """Experts of the same kind that have other tensors, by the names of `tensors`."""
        changed: dict[str, Any] = dict(tensors)
        return replace(self, **changed)

    def cast(self: E, dtype: torch.dtype) -> E:
        """Convert the tensors that hold numbers to a dtype; ids and masks stay as they are."""
        return self.map(lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor)

    def arranged(self: E, index_BK: Tensor) -> E:
        """B sets of K experts, chosen by index from sets of one expert each."""
        return self.map(lambda tensor: tensor[:, 0][index_BK])

    def tensors(self) -> list[tuple[str, Tensor]]:
        """The tensors with their names."""
        named = ((field.name, getattr(self, field.name)) for field in fields(self))
        return [(name, value) for name, value in named if isinstance(value, Tensor)]


@dataclass(frozen=True)
class Experts(GeneratedExperts):
    """The paper's experts: the generated parameters theta_E of GenPoE eq. 2.

    Attributes:
        up1: ``W_up1`` ``[B, K, D, R]``.
        up2: ``W_up2`` ``[B, K, R, D]``.
        down1: ``W_dw1`` ``[B, K, D, R]``.
        down2: ``W_dw2`` ``[B, K, R, D]``.
    """

    up1: Tensor
    up2: Tensor
    down1: Tensor
    down2: Tensor

    @property
    def rank(self) -> int:
        """R, the inner width of both factorisations."""
        return self.up1.shape[-1]

    @property
    def factors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The four factors in the order of eq. 2."""
        return self.up1, self.up2, self.down1, self.down2

    def mix(self, site: Site, relevance_BK: Tensor, rows_N: Tensor | None = None) -> Mixed:
        """The weighted sum of the K experts' outputs: `mix_experts` of the FFN's input."""
        return Mixed(mix_experts(site.hidden_NTD, self, relevance_BK, rows_N))


def mix_experts(
    hidden_NTD: Tensor, experts: Experts, relevance_BK: Tensor, rows_N: Tensor | None = None
) -> Tensor:
    """Weighted sum of the K experts' outputs (GenPoE eq. 6, second term; eq. 3 for K = 1).

    Each expert is ``ReLU(x W_up1 W_up2) W_dw1 W_dw2`` (eq. 2).

    Args:
        hidden_NTD: The FFN's input at the expert layer.
        experts: B sets of K experts.
        relevance_BK: Weights of the experts; each row sums to 1 (eq. 9).
        rows_N: The index of each row's expert set, as in `SharedRows`.

    Returns:
        The term to add to the FFN's output, shape ``[N, T, D]``, in the dtype of ``hidden_NTD``.

    Raises:
        ValueError: If the experts, the relevance and the rows disagree in shape.
    """
    check_relevance(experts, relevance_BK)
    rows = SharedRows(hidden_NTD.shape[0], experts.num_sets, rows_N)
    return rows.ungroup(_mix_grouped(rows.group(hidden_NTD), experts, relevance_BK))


def check_relevance(experts: GeneratedExperts, relevance_BK: Tensor) -> None:
    """Check that there is one weight for each expert.

    Raises:
        ValueError: If there is not.
    """
    expected = [experts.num_sets, experts.num_experts]
    if list(relevance_BK.shape) != expected:
        raise ValueError(
            f"relevance must have the shape [B, K] = {expected} of the "
            f"experts, got {list(relevance_BK.shape)}"
        )


class SharedRows:
    """Which rows share an expert set. All positions that share one are computed as one matrix.

    Args:
        rows: N, the number of rows.
        sets: B, the number of sets. Without ``rows_N``, B must divide N, and each set serves N / B
            consecutive rows (one row for B = N).
        rows_N: The index of each row's expert set, where the sets serve unequal numbers of rows.

    Raises:
        ValueError: If the sets cannot serve the rows.
    """

    def __init__(self, rows: int, sets: int, rows_N: Tensor | None = None) -> None:
        self._rows, self._sets, self._rows_N = rows, sets, rows_N
        if rows_N is None:
            if rows % sets:
                raise ValueError(
                    f"{sets} expert sets cannot serve {rows} rows evenly; inject one set a row, or "
                    "say with `rows_N` which set each row uses"
                )
        elif rows_N.shape != (rows,):
            raise ValueError(
                f"rows must name one expert set for each of {rows} rows, got {rows_N.shape}"
            )
        else:
            self._slot_N, self._slots = _slots(rows_N)

    def group(self, values: Tensor) -> Tensor:
        """``[N, T, …]`` to ``[B, M, …]``, with zeros where a set has fewer rows than another."""
        if self._rows_N is None:
            return values.reshape(self._sets, -1, *values.shape[2:])
        grouped = values.new_zeros(self._sets, self._slots, *values.shape[1:])
        grouped = grouped.index_put((self._rows_N, self._slot_N), values)
        return grouped.view(self._sets, -1, *values.shape[2:])

    def ungroup(self, grouped: Tensor) -> Tensor:
        """``[B, M, …]`` back to ``[N, T, …]``."""
        if self._rows_N is None:
            return grouped.reshape(self._rows, -1, *grouped.shape[2:])
        by_slot = grouped.reshape(self._sets, self._slots, -1, *grouped.shape[2:])
        return by_slot[self._rows_N, self._slot_N]


def _slots(rows_N: Tensor) -> tuple[Tensor, int]:
    """Each row's place among the rows of its expert set, and the size of the largest such group."""
    onehot = torch.nn.functional.one_hot(rows_N)
    slot_N = (onehot.cumsum(0) - 1).gather(1, rows_N[:, None]).squeeze(1)
    return slot_N, int(onehot.sum(0).max())


def _mix_grouped(hidden_BMD: Tensor, experts: Experts, relevance_BK: Tensor) -> Tensor:
    sets, count, width, rank = experts.up1.shape
    up1, up2, down1, down2 = (factor.to(hidden_BMD.dtype) for factor in experts.factors)
    flat_up1 = up1.transpose(1, 2).reshape(sets, width, count * rank)
    inner = (hidden_BMD @ flat_up1).view(sets, -1, count, rank).transpose(1, 2)  # B K M R
    inner = torch.relu(inner @ up2) @ down1
    inner = inner * relevance_BK.to(inner.dtype)[:, :, None, None]
    inner = inner.transpose(1, 2).reshape(sets, -1, count * rank)  # sum over K in the last product
    return inner @ down2.reshape(sets, count * rank, width)
