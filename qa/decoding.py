"""Free-running greedy decoding to a natural stop, and the likelihood of an answer after it.

Shapes: N prompts, T prompt tokens, A answer tokens, V vocabulary.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import GenerationConfig

from qa.backbone import Backbone
from qa.prompts import encode_answer, encode_prompt, stop_token_ids


@dataclass
class Decoded:
    """What `greedy_decode` leaves: the texts, and the cache from which answers can be scored."""

    texts: list[str]
    prompt_ids: Tensor
    prompt_mask: Tensor
    cache: Any


@functools.lru_cache(maxsize=8)
def stops(tokenizer: Any) -> tuple[int, ...]:
    """`stop_token_ids`, looked up once for each tokenizer."""
    return tuple(stop_token_ids(tokenizer))


@torch.inference_mode()
def greedy_decode(backbone: Backbone, prompts: Sequence[str], max_new_tokens: int = 32) -> Decoded:
    """Continue each prompt greedily until the model ends its line or its text.

    Whatever is injected into the backbone acts in every step; row i of an injection serves
    prompt i. Rows are left-padded, and padding changes nothing.

    Args:
        backbone: The frozen model.
        prompts: N prompts.
        max_new_tokens: At most so many tokens.

    Returns:
        N continuations, first line only, stripped; and the KV cache.

    Raises:
        ValueError: If a prompt is longer than the backbone can read.
    """
    prompt_ids, prompt_mask = left_padded(backbone, prompts, max_new_tokens)
    output = _generate(backbone, prompt_ids, prompt_mask, max_new_tokens)
    new = output.sequences[:, prompt_ids.shape[1] :]
    texts = backbone.tokenizer.batch_decode(new, skip_special_tokens=True)
    texts = [text.strip().split("\n", 1)[0].strip() for text in texts]
    return Decoded(texts, prompt_ids, prompt_mask, output.past_key_values)


@torch.inference_mode()
def score_answers(backbone: Backbone, decoded: Decoded, answers: Sequence[str]) -> Tensor:
    """Likelihood of given answers after the prompts just decoded, which are not read again.

    Args:
        backbone: The frozen model, with the same injection as while decoding.
        decoded: What `greedy_decode` returned; its cache is cut back to the prompts and used up.
        answers: One answer for each prompt.

    Returns:
        ``[N]``: mean negative log-likelihood, nats per answer token, the end-of-sequence token
        among them.
    """
    rows = [encode_answer(backbone.tokenizer, answer) for answer in answers]
    prompt_ids, device = decoded.prompt_ids, backbone.device
    labels = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
    mask = torch.zeros_like(labels)
    for i, row in enumerate(rows):
        labels[i, : len(row)] = torch.tensor(row)
        mask[i, : len(row)] = 1
    labels, mask = labels.to(device), mask.to(device)
    start, cache = prompt_ids.shape[1] - 1, decoded.cache  # its last token predicts the first label
    if any(getattr(layer, "is_sliding", False) for layer in cache.layers):
        start, cache = 0, None  # a sliding window has forgotten the beginning: read it again
    else:
        cache.crop(start - cache.get_seq_length())
    attention_mask = torch.cat([decoded.prompt_mask, mask[:, :-1]], 1)
    logits_NAV = backbone.model(
        input_ids=torch.cat([prompt_ids[:, start:], labels[:, :-1]], 1),
        attention_mask=attention_mask,
        position_ids=(attention_mask.cumsum(1) - 1).clamp(min=0)[:, start:],
        past_key_values=cache,
        logits_to_keep=labels.shape[1],
    ).logits.float()
    nll_NA = functional.cross_entropy(logits_NAV.transpose(1, 2), labels, reduction="none")
    return (nll_NA * mask).sum(1) / mask.sum(1)


def _generate(backbone: Backbone, ids: Tensor, mask: Tensor, max_new_tokens: int) -> Any:
    """Greedy, whatever the checkpoint's own defaults say (some penalise repeating the prompt)."""
    settings = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        eos_token_id=list(stops(backbone.tokenizer)),
        pad_token_id=_pad(backbone.tokenizer),
        return_dict_in_generate=True,
    )
    own = backbone.model.generation_config
    backbone.model.generation_config = GenerationConfig()  # else its values fill what we leave out
    try:
        return backbone.model.generate(ids, attention_mask=mask, generation_config=settings)
    finally:
        backbone.model.generation_config = own


def _pad(tokenizer: Any) -> int:
    pad = tokenizer.pad_token_id
    return tokenizer.eos_token_id if pad is None else pad


def left_padded(
    backbone: Backbone, prompts: Sequence[str], max_new_tokens: int
) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask of prompts, padded on the left, both ``[N, T]``.

    Raises:
        ValueError: If the longest leaves no room for the new tokens.
    """
    rows = [encode_prompt(backbone.tokenizer, prompt) for prompt in prompts]
    longest = max(map(len, rows))
    limit = getattr(backbone.model.config.get_text_config(), "max_position_embeddings", None)
    if limit and longest + max_new_tokens > limit:
        raise ValueError(
            f"a prompt of {longest} tokens and {max_new_tokens} new ones exceed the "
            f"{limit} positions of {backbone.name}; use fewer passages (k=…) or shorter ones"
        )
    input_ids = torch.full((len(rows), longest), _pad(backbone.tokenizer))
    mask = torch.zeros_like(input_ids)
    for i, row in enumerate(rows):
        input_ids[i, longest - len(row) :] = torch.tensor(row)
        mask[i, longest - len(row) :] = 1
    return input_ids.to(backbone.device), mask.to(backbone.device)
