"""Free-running greedy decoding to a natural stop, and the likelihood of an answer after it.

Shapes: N prompts, T prompt tokens, A answer tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from backbone.kv_cache import can_be_cut, make_cache
from backbone.model import Backbone
from backbone.tokens import decode, encode_answer, encode_prompt
from plumbing.batches import pad


@dataclass
class Decoded:
    """What `greedy_decode` returns: the texts, and what answers can be scored from.

    Attributes:
        texts: N continuations, first line only, stripped.
        prompt_ids: Token ids of the prompts ``[N, T]``, padded on the left.
        prompt_mask: 1 at tokens, 0 at padding, ``[N, T]``.
        cache: The KV cache after decoding. Without one, scoring reads the prompts again.
    """

    texts: list[str]
    prompt_ids: Tensor
    prompt_mask: Tensor
    cache: Any = None


@dataclass(frozen=True)
class Continuation:
    """What `greedy_continue` decodes in one row.

    Attributes:
        ids: The new tokens, with the stop token if there is one.
        probabilities: The probability, 0 to 1, that each token had when it was chosen.
    """

    ids: list[int]
    probabilities: list[float]


@torch.inference_mode()
def greedy_decode(
    backbone: Backbone, prompts: Sequence[str], max_new_tokens: int = 32, cache: Any = None
) -> Decoded:
    """Continue each prompt greedily until the model ends its line or its text.

    What is injected into the backbone acts in every step; row i of an injection serves prompt i.
    The rows are padded on the left, and padding changes no result.

    Args:
        backbone: The frozen model.
        prompts: N prompts.
        max_new_tokens: The largest number of new tokens.
        cache: The KV cache of these prompts without their last token, if they have been read; see
            `backbone.read_prompts.ReadPrompts`. Decoding appends to it.

    Returns:
        N continuations, first line only, stripped; and the KV cache.

    Raises:
        ValueError: If a prompt is longer than the backbone can read.
    """
    prompt_ids, prompt_mask = left_padded(backbone, prompts, max_new_tokens)
    if cache is not None:
        cache.token_ids = prompt_ids  # for hooks that look at what was read before
    output = _generate(backbone, prompt_ids, prompt_mask, max_new_tokens, cache=cache)
    new = output.sequences[:, prompt_ids.shape[1] :]
    texts = [answer_text(backbone, row) for row in new.tolist()]
    return Decoded(texts, prompt_ids, prompt_mask, output.past_key_values)


@torch.inference_mode()
def greedy_continue(
    backbone: Backbone, rows: Sequence[Sequence[int]], max_new_tokens: int
) -> list[Continuation]:
    """Continue token ids greedily as `greedy_decode` does, with the probability of each token.

    Args:
        backbone: The frozen model.
        rows: N rows of token ids, of any lengths; padding changes no result.
        max_new_tokens: The largest number of new tokens.

    Returns:
        N continuations.
    """
    ids, mask = _left_padded_rows(backbone, rows)
    chosen = _ChosenProbability()
    output = _generate(backbone, ids, mask, max_new_tokens, [chosen])
    new = output.sequences[:, ids.shape[1] :].tolist()
    probabilities = torch.stack(chosen.steps, 1).tolist()
    ends = [_end(row, backbone.stop_token_ids) for row in new]
    return [
        Continuation(row[:end], values[:end])
        for row, values, end in zip(new, probabilities, ends, strict=True)
    ]


class _ChosenProbability(LogitsProcessor):
    """Notes the probability of the most likely token, which greedy decoding takes."""

    def __init__(self) -> None:
        self.steps: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores_NV: Tensor) -> Tensor:
        self.steps.append(scores_NV.float().softmax(-1).amax(-1))
        return scores_NV


def _end(ids: list[int], stop_ids: Sequence[int]) -> int:
    """The number of tokens up to and including a row's stop token."""
    return next((n for n, id in enumerate(ids, 1) if id in stop_ids), len(ids))


def answer_text(backbone: Backbone, ids: Sequence[int]) -> str:
    """The answer in decoded tokens: the first line of those before the token that ended it."""
    end = next((n for n, id in enumerate(ids) if id in backbone.stop_token_ids), len(ids))
    return first_line(decode(backbone.tokenizer, ids[:end]))


def first_line(text: str) -> str:
    """The answer in a decoded text: its first non-blank line, stripped."""
    return text.strip().split("\n", 1)[0].strip()


@torch.inference_mode()
def score_answers(backbone: Backbone, decoded: Decoded, answers: Sequence[str]) -> Tensor:
    """The likelihood of given answers after prompts that have just been decoded.

    Args:
        backbone: The frozen model, with the same injection as while decoding.
        decoded: What `greedy_decode` returned; it cannot be used afterwards.
        answers: One answer for each prompt.

    Returns:
        ``[N]``: the `AnswerScores.nll` of each answer.
    """
    return read_answers(backbone, decoded, answers).nll


class AnswerScores(NamedTuple):
    """How well a model that is given the tokens of answers predicts each next one.

    Attributes:
        nll: ``[N]``, the mean negative log-likelihood in nats per answer token. The end-of-sequence
            token counts as an answer token.
        token_accuracy: ``[N]``, the share of the tokens that are the most likely ones, 0 to 1. The
            end-of-sequence token does not count.
    """

    nll: Tensor
    token_accuracy: Tensor


@torch.inference_mode()
def read_answers(backbone: Backbone, decoded: Decoded, answers: Sequence[str]) -> AnswerScores:
    """Let the model read given answers after prompts that have just been decoded.

    The prompts are not read again, because their keys and values are in the cache.

    Args:
        backbone: The frozen model, with the same injection as while decoding.
        decoded: What `greedy_decode` returned. Its cache is cut back to the prompts and cannot be
            used afterwards.
        answers: One answer for each prompt.
    """
    rows = [encode_answer(backbone.tokenizer, answer) for answer in answers]
    prompt_ids = decoded.prompt_ids
    labels, mask = pad(rows, 0, device=backbone.device)
    start, cache = back_to_prompt(decoded.cache, prompt_ids.shape[1])
    attention_mask = torch.cat([decoded.prompt_mask, mask[:, :-1]], 1)
    logits_NAV = backbone.model(
        input_ids=torch.cat([prompt_ids[:, start:], labels[:, :-1]], 1),
        attention_mask=attention_mask,
        position_ids=(attention_mask.cumsum(1) - 1).clamp(min=0)[:, start:],
        past_key_values=cache,
        logits_to_keep=labels.shape[1],
    ).logits.float()
    nll_NA = functional.cross_entropy(logits_NAV.transpose(1, 2), labels, reduction="none")
    words = mask * (mask.cumsum(1) < mask.sum(1, keepdim=True))  # all but the end
    right_NA = (logits_NAV.argmax(-1) == labels) & words.bool()
    return AnswerScores(
        (nll_NA * mask).sum(1) / mask.sum(1), right_NA.sum(1) / words.sum(1).clamp(min=1)
    )


def back_to_prompt(cache: Any, prompt_tokens: int) -> tuple[int, Any]:
    """Cut a cache back to the prompt without its last token, which predicts the first label.

    Returns:
        The number of tokens that the cache holds, and the cache. Reading goes on behind these
        tokens. If nothing has been read yet, or if the cache cannot be cut back, the result is 0
        and None.
    """
    if cache is None or not can_be_cut(cache):
        return 0, None
    cache.crop(prompt_tokens - 1 - cache.get_seq_length())
    return prompt_tokens - 1, cache


def _generate(
    backbone: Backbone,
    ids: Tensor,
    mask: Tensor,
    max_new_tokens: int,
    processors: Sequence[LogitsProcessor] = (),
    cache: Any = None,
) -> Any:
    """Decode greedily, whatever the model's own defaults are.

    Some models' defaults penalise words of the prompt.
    """
    settings = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        eos_token_id=list(backbone.stop_token_ids),
        pad_token_id=pad_token_id(backbone.tokenizer),
        return_dict_in_generate=True,
    )
    own = backbone.model.generation_config
    # Otherwise the model's own values would fill what we leave out.
    backbone.model.generation_config = GenerationConfig()
    try:
        return backbone.model.generate(
            ids,
            attention_mask=mask,
            past_key_values=make_cache(backbone.model) if cache is None else cache,
            generation_config=settings,
            logits_processor=LogitsProcessorList(processors),
        )
    finally:
        backbone.model.generation_config = own


def pad_token_id(tokenizer: Any) -> int:
    """The token at padding: the tokenizer's own, or else the end-of-sequence token."""
    pad: int | None = tokenizer.pad_token_id
    return tokenizer.eos_token_id if pad is None else pad


def left_padded(
    backbone: Backbone, prompts: Sequence[str], max_new_tokens: int
) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask of prompts, padded on the left, both ``[N, T]``.

    Raises:
        ValueError: If the longest prompt leaves no room for the new tokens.
    """
    rows = [encode_prompt(backbone.tokenizer, prompt) for prompt in prompts]
    check_room(backbone, max(map(len, rows)), max_new_tokens)
    return _left_padded_rows(backbone, rows)


def _left_padded_rows(backbone: Backbone, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    value = pad_token_id(backbone.tokenizer)
    return pad(rows, value, left=True, device=backbone.device)


def positions(backbone: Backbone) -> int | None:
    """How many tokens a model can read and write in one text; None if there is no limit."""
    limit: int | None = getattr(
        backbone.model.config.get_text_config(), "max_position_embeddings", None
    )
    return limit


def check_room(backbone: Backbone, prompt_tokens: int, max_new_tokens: int) -> None:
    """Check that a prompt and its new tokens fit into the model's positions.

    Raises:
        ValueError: If they do not fit.
    """
    limit = positions(backbone)
    if limit and prompt_tokens + max_new_tokens > limit:
        raise ValueError(
            f"a prompt of {prompt_tokens} tokens and {max_new_tokens} new ones exceed the "
            f"{limit} positions of {backbone.name}; use fewer passages (k=…) or shorter ones"
        )
