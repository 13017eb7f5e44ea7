"""What predicts answers: the same as the whole model's, and the loss is the same."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from backbone.final_ffn import FinalFFN
from backbone.split import Trunk
from genpoe.training.answer_states import AnswerStates, answers_of
from genpoe.training.collate import collate
from genpoe.training.module import GenPoEModule
from genpoe.training.settings import OptimSettings
from tests.helpers.tiny import make_backbone
from tests.helpers.tiny_reader import make_reader

QUESTIONS = [([5, 6, 7, 8], [9, 3, 2]), ([5, 6, 7, 20, 21], [2]), ([5, 9], [4, 4, 4, 2])]


def batch_of(chosen, rows=None):
    passages: Any = [[30, 31, 32, 9], [40, 41]]
    questions: Any = [QUESTIONS[i] for i in chosen]
    batch = collate(questions, passages, rows or [0] * len(chosen), 1.0, 0)
    return {**batch, "examples": torch.tensor(chosen), "split": "train"}


@pytest.mark.parametrize("family", ["llama", "gemma2", "olmo2"])
def test_states_are_those_of_the_model_and_computed_once(
    family, tmp_path, tiny_tokenizer, monkeypatch
):
    backbone = make_backbone(family, tokenizer=tiny_tokenizer, num_hidden_layers=3)
    final = FinalFFN(backbone)
    AnswerStates(final, [1], QUESTIONS, tmp_path)  # what another hypernetwork looks at
    states = AnswerStates(final, [1, 2], QUESTIONS, tmp_path)
    order = [2, 0, 1]
    known = states.of(batch_of(order))
    assert known.targets_NA.tolist() == [[4, 4, 4, 2], [-100, 9, 3, 2], [-100, -100, -100, 2]]
    for row, index in enumerate(order):
        prompt, answer = QUESTIONS[index]
        ids = torch.tensor([[*prompt, *answer[:-1]]])
        read = backbone.model(ids, output_hidden_states=True).hidden_states
        A = len(answer)
        assert known.around.ids_NL[row, -ids.shape[1] :].tolist() == ids[0].tolist()
        assert known.around.mask_NL[row].sum() == ids.shape[1]
        for layer, earlier in zip([1, 2], known.around.earlier, strict=True):
            torch.testing.assert_close(earlier[row, -A:], read[layer][0, -A:], rtol=1e-4, atol=1e-4)
        hidden = final.hidden(known.stream_NAD[row, -A:])
        torch.testing.assert_close(hidden, read[-1][0, -A:], rtol=1e-3, atol=1e-3)
    monkeypatch.setattr(Trunk, "residual", lambda *_: pytest.fail("computed again"))
    again = AnswerStates(final, [1, 2], QUESTIONS, tmp_path).of(batch_of(order))
    assert torch.equal(again.stream_NAD, known.stream_NAD)
    fewer = AnswerStates(final, [2], QUESTIONS, tmp_path).of(batch_of(order))
    assert torch.equal(fewer.around.earlier[0], known.around.earlier[1])
    with pytest.raises(pytest.fail.Exception, match="computed again"):
        AnswerStates(final, [2], QUESTIONS[:2], tmp_path)  # other states


def test_the_loss_is_that_of_the_whole_model(tmp_path, tiny_tokenizer):
    backbone = make_backbone(tokenizer=tiny_tokenizer)
    hypernet = make_reader(backbone).hypernet
    plain = GenPoEModule(backbone, hypernet, OptimSettings())
    kept = GenPoEModule(
        backbone, hypernet, OptimSettings(), cache_dir=str(tmp_path), answers_only=True
    )
    trainer: Any = SimpleNamespace(world_size=1)
    kept._trainer = trainer
    passages = [[30, 31, 32, 9], [40, 41]]
    data = SimpleNamespace(tokens=lambda: {"train": (QUESTIONS, passages)})
    kept._compute_frozen(data, tmp_path)
    batch = {**batch_of([2, 0, 1], [1, 0, 1]), "passages": torch.tensor([0, 1])}
    losses = [module._losses(batch, None) for module in (plain, kept)]
    for one, other in zip(*losses, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
    # The states before the last FFN and before layer 1, and the passages' in half the bytes.
    sizes = sorted(file.stat().st_size for file in tmp_path.glob("*/states.bin"))
    assert sizes == [6 * 32 * 2, 8 * 32 * 4, 8 * 32 * 4]


def test_rows_are_aligned_at_their_ends():
    ids, mask, targets = answers_of(batch_of([1, 0]))
    assert ids.tolist() == [[5, 5, 6, 7, 20, 21], [5, 6, 7, 8, 9, 3]]
    assert mask.tolist() == [[0, 1, 1, 1, 1, 1], [1] * 6]
    assert targets.tolist() == [[-100, -100, 2], [9, 3, 2]]
