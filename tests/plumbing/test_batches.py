"""Rows that are padded, and the batches that they are arranged in."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from plumbing.batches import by_length, pad

ROWS = st.lists(st.lists(st.integers(-(2**40), 2**40), max_size=6), min_size=1, max_size=6)
LENGTHS = st.lists(st.integers(0, 9), max_size=20)


@given(ROWS, st.integers(-100, 2**40), st.booleans())
def test_padding_is_what_a_plain_loop_makes(rows: list[list[int]], value: int, left: bool) -> None:
    width = max(map(len, rows))
    fill = [width - len(row) for row in rows]
    if left:
        expected = [[value] * n + row for n, row in zip(fill, rows, strict=True)]
        inside = [[0] * n + [1] * len(row) for n, row in zip(fill, rows, strict=True)]
    else:
        expected = [row + [value] * n for n, row in zip(fill, rows, strict=True)]
        inside = [[1] * len(row) + [0] * n for n, row in zip(fill, rows, strict=True)]
    padded, mask = pad(rows, value, left=left)
    assert padded.tolist() == expected
    assert mask.tolist() == inside
    assert padded.shape == mask.shape == (len(rows), width)
    assert padded.dtype == mask.dtype == torch.int64
    assert padded.is_contiguous()
    assert mask.is_contiguous()


def test_rows_may_be_arrays_that_cannot_be_written() -> None:
    row = np.array([1, 2, 3], dtype=np.int32)
    row.flags.writeable = False
    padded, _ = pad([row, np.array([4], dtype=np.int64)], 0)
    assert padded.tolist() == [[1, 2, 3], [4, 0, 0]]


def test_padding_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one row"):
        pad([], 0)


def test_the_longest_are_last_or_first() -> None:
    lengths = [3, 1, 2, 1, 3]
    assert by_length(lengths, max_rows=2) == [[1, 3], [2, 0], [4]]
    assert by_length(lengths, max_rows=2, longest_first=True) == [[0, 4], [2, 1], [3]]
    assert by_length(lengths, max_tokens=6) == [[1, 3, 2], [0, 4]]
    assert by_length(lengths, max_tokens=6, longest_first=True) == [[0, 4], [2, 1, 3]]
    assert by_length(lengths) == [[1, 3, 2, 0, 4]]
    assert by_length([]) == []


@given(LENGTHS, st.integers(1, 20) | st.none(), st.integers(1, 5) | st.none(), st.booleans())
def test_batches_hold_every_row_once_and_keep_the_limits(
    lengths: list[int], max_tokens: int | None, max_rows: int | None, longest_first: bool
) -> None:
    batches = by_length(
        lengths, max_tokens=max_tokens, max_rows=max_rows, longest_first=longest_first
    )
    order = [index for batch in batches for index in batch]
    assert order == sorted(
        range(len(lengths)), key=lambda i: (-lengths[i] if longest_first else lengths[i], i)
    )
    for batch in batches:
        assert fits(batch, lengths, max_tokens, max_rows) or len(batch) == 1
    for batch, following in pairwise(batches):  # a batch ends only where the next row does not fit
        assert not fits([*batch, following[0]], lengths, max_tokens, max_rows)


def fits(batch: list[int], lengths: list[int], tokens: int | None, rows: int | None) -> bool:
    size = len(batch) * max(lengths[index] for index in batch)
    return (tokens is None or size <= tokens) and (rows is None or len(batch) <= rows)


@pytest.mark.parametrize("limit", ["max_tokens", "max_rows"])
def test_a_limit_must_be_positive(limit: str) -> None:
    with pytest.raises(ValueError, match=f"{limit} must be positive, got 0"):
        by_length([1], **{limit: 0})  # type: ignore[arg-type]


def test_arranging_batches_needs_no_torch() -> None:
    code = "import sys, plumbing.batches as b; b.by_length([1]); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
