"""How well a model still is after edits: perplexity, how far its weights moved, broken answers."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

from backbone.decoding import left_padded
from backbone.likelihood import IGNORE, answer_nll
from backbone.model import Backbone
from backbone.tokens import encode_prompt
from genpoe.sequential.journal import Journaled
from plumbing.batches import by_length, pad
from qa.method import AnsweringMethod, QuestionInput
from retrieval.passage import Passage, passage_text

_LAYER = re.compile(r"\.(\d+)\.")
_WORDS = 6  # an answer of so many words that says half of them twice repeats itself


@torch.inference_mode()
def perplexity(
    backbone: Backbone, passages: Sequence[Passage], batch_size: int = 8, max_tokens: int = 256
) -> float:
    """The perplexity of texts: exp of the mean nll of a token, over all tokens but each first.

    Args:
        backbone: The model as it is now.
        passages: The texts.
        batch_size: How many are read at once.
        max_tokens: The tokens of a text that are read, from its beginning.
    """
    rows = [encode_prompt(backbone.tokenizer, passage_text(each))[:max_tokens] for each in passages]
    rows = [row for row in rows if len(row) > 1]
    total, count = 0.0, 0
    for batch in by_length([len(row) for row in rows], max_rows=batch_size):
        some = [rows[i] for i in batch]
        ids, mask = pad(some, 0, device=backbone.device)
        labels = torch.where(mask.bool(), ids, IGNORE)
        labels[:, 0] = IGNORE
        tokens = mask.sum(1) - 1
        total += float((answer_nll(backbone, ids, mask, labels) * tokens).sum())
        count += int(tokens.sum())
    mean = total / max(1, count)
    return math.exp(mean) if mean < 700 else math.inf


@torch.inference_mode()
def first_tokens(method: AnsweringMethod, inputs: Sequence[QuestionInput]) -> Tensor | None:
    """The log-probabilities of an answer's first token ``[N, V]``.

    None: the method does not answer by `AnsweringMethod.answer`, so they are not known.
    """
    if type(method).answer is not AnsweringMethod.answer:
        return None
    backbone = method.backbone
    prompts = [method.prompt(input) for input in inputs]
    found: dict[int, Tensor] = {}
    for batch in by_length([len(prompt) for prompt in prompts], max_rows=16):
        some = [inputs[i] for i in batch]
        ids, mask = left_padded(backbone, [prompts[i] for i in batch], 1)
        with method.injected(some):
            logits = backbone.model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=(mask.cumsum(1) - 1).clamp(min=0),
                logits_to_keep=1,
            ).logits
        found |= dict(zip(batch, logits[:, -1].float().log_softmax(-1).cpu(), strict=True))
    return torch.stack([found[i] for i in range(len(inputs))])


def divergence(before: Tensor, now: Tensor) -> float:
    """The mean of KL(before ‖ now) in nats, over rows of log-probabilities ``[N, V]``."""
    return float((before.exp() * (before - now)).sum(-1).mean())


def moved(keeps: Journaled) -> dict[str, float]:
    """How far each layer's changed weights moved from the start, relative to their norm."""
    now = dict(keeps.backbone.model.named_parameters())
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for name, before in keeps.changed(0).items():
        found = _LAYER.search(name)
        layer = found[1] if found else name
        sums[layer][0] += float((now[name].detach().double() - before.double()).square().sum())
        sums[layer][1] += float(before.double().square().sum())
    return {layer: math.sqrt(a / b) if b else 0.0 for layer, (a, b) in sums.items()}


def is_broken(text: str) -> bool:
    """True for an answer that is empty or repeats itself."""
    words = text.lower().split()
    return not words or (len(words) >= _WORDS and len(set(words)) <= len(words) // 2)
