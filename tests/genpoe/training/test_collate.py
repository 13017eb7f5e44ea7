"""The tensors of a batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from genpoe.training.collate import collate


def ids(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int32)


def test_a_batch_by_hand() -> None:
    batch = collate(
        [(ids(1, 2), ids(3)), (ids(4), ids(5, 0)), (ids(6, 7, 8), ids(0))],
        [ids(0, 11), ids(12)],
        [0, 0, 1],
        0.25,
        pad_token_id=0,  # which also ends every answer
    )
    assert batch["input_ids"].tolist() == [[1, 2, 3, 0], [4, 5, 0, 0], [6, 7, 8, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 1, 1]]
    assert batch["labels"].tolist() == [
        [-100, -100, 3, -100],
        [-100, 5, 0, -100],
        [-100, -100, -100, 0],
    ]
    assert batch["passage_input_ids"].tolist() == [[0, 11], [12, 0]]
    assert batch["passage_attention_mask"].tolist() == [[1, 1], [1, 0]]
    assert batch["rows"].tolist() == [0, 0, 1]
    assert batch["loss_weight"] == 0.25
    tensors = [value for value in batch.values() if isinstance(value, torch.Tensor)]
    assert {tensor.dtype for tensor in tensors} == {torch.int64}


@pytest.mark.parametrize("rows", [[], [0, 0], [1], [-1]])
def test_every_question_needs_its_passage(rows: list[int]) -> None:
    with pytest.raises(ValueError, match="row"):
        collate([(ids(1), ids(2))], [ids(3)], rows, 1.0, 0)
