"""Logits at label positions only give the loss that logits everywhere give."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from backbone.likelihood import IGNORE, answer_nll


def test_equals_the_models_own_loss_with_mixed_padding(tiny_backbone):
    input_ids = torch.randint(3, 300, (3, 9))
    mask = torch.ones_like(input_ids)
    mask[1, 6:] = 0
    labels = torch.full_like(input_ids, IGNORE)
    labels[0, 7:9], labels[1, 4:6], labels[2, 3:9] = input_ids[0, 7:9], input_ids[1, 4:6], 5
    logits = tiny_backbone.model(input_ids=input_ids, attention_mask=mask).logits
    expected = [
        functional.cross_entropy(logits[i, :-1], labels[i, 1:], ignore_index=IGNORE)
        for i in range(3)
    ]
    actual = answer_nll(tiny_backbone, input_ids, mask, labels)
    torch.testing.assert_close(actual, torch.stack(expected))


def test_the_head_sees_label_positions_only(tiny_backbone, monkeypatch):
    shapes = []
    logits = tiny_backbone.logits

    def spy(hidden):
        shapes.append(hidden.shape)
        return logits(hidden)

    monkeypatch.setattr(tiny_backbone, "logits", spy)
    input_ids = torch.randint(3, 300, (4, 20))
    labels = torch.full_like(input_ids, IGNORE)
    labels[:, -2:] = 7
    answer_nll(tiny_backbone, input_ids, torch.ones_like(input_ids), labels)
    assert shapes == [torch.Size([8, tiny_backbone.d_model])]


def test_a_row_without_a_label_is_an_error(tiny_backbone):
    input_ids = torch.ones(1, 4, dtype=torch.long)
    with pytest.raises(ValueError, match="at least one label"):
        answer_nll(tiny_backbone, input_ids, input_ids, torch.full_like(input_ids, IGNORE))
