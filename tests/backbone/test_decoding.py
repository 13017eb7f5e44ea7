"""Greedy decoding against a plain loop, and scoring against teacher forcing."""

from __future__ import annotations

import pytest
import torch

from backbone.decoding import greedy_decode, score_answers
from backbone.likelihood import answer_nll
from backbone.tokens import encode_answer, encode_prompt, stop_token_ids
from qa.prompts import build_prompt
from tests.helpers.tiny import make_backbone

PROMPTS = [
    build_prompt("Where was Tova Blick born?"),
    build_prompt("Who?"),
    build_prompt("a b c d"),
]
ANSWERS = ["Lisbon", "a surgeon in the old town", "the sea"]


def naive_greedy(backbone, prompt, max_new_tokens):
    ids, stops = encode_prompt(backbone.tokenizer, prompt), stop_token_ids(backbone.tokenizer)
    start = len(ids)
    for _ in range(max_new_tokens):
        ids.append(int(backbone.model(torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] in stops:
            break
    text = backbone.tokenizer.decode(ids[start:], skip_special_tokens=True)
    return text.strip().split("\n", 1)[0].strip()


def test_a_padded_batch_decodes_like_a_plain_loop(tiny_backbone):
    batch = greedy_decode(tiny_backbone, PROMPTS, 9).texts
    assert batch == [naive_greedy(tiny_backbone, prompt, 9) for prompt in PROMPTS]


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma3_text"])
def test_scoring_from_the_cache_equals_teacher_forcing(family, tiny_tokenizer):
    backbone = make_backbone(family, tokenizer=tiny_tokenizer)
    scores = score_answers(backbone, greedy_decode(backbone, PROMPTS, 5), ANSWERS)
    for prompt, answer, score in zip(PROMPTS, ANSWERS, scores, strict=True):
        prompt_ids = encode_prompt(backbone.tokenizer, prompt)
        answer_ids = encode_answer(backbone.tokenizer, answer)
        input_ids = torch.tensor([prompt_ids + answer_ids])
        labels = torch.tensor([[-100] * len(prompt_ids) + answer_ids])
        expected = answer_nll(backbone, input_ids, torch.ones_like(input_ids), labels)[0]
        torch.testing.assert_close(score, expected, rtol=1e-4, atol=1e-4)


def test_the_checkpoints_own_defaults_do_not_count(tiny_tokenizer):
    backbone = make_backbone(tokenizer=tiny_tokenizer)
    expected = greedy_decode(backbone, PROMPTS, 9).texts
    backbone.model.generation_config.repetition_penalty = 5.0
    backbone.model.generation_config.do_sample = True
    assert greedy_decode(backbone, PROMPTS, 9).texts == expected
    assert backbone.model.generation_config.repetition_penalty == 5.0


def test_a_prompt_too_long_is_an_error(tiny_backbone):
    with pytest.raises(ValueError, match=r"exceed the 512 positions .* use fewer passages"):
        greedy_decode(tiny_backbone, ["word " * 600])
