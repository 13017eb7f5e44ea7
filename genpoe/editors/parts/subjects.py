"""Prompts about a subject: the plain one, and others behind sampled contexts.

The key of a subject is what a down projection reads at the subject's last token. A context before
the prompt changes that state a little, so keys and values are computed for several contexts.

Shapes: J prompts of a fact, n facts, i inputs of a map, D d_model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from backbone.model import Backbone
from backbone.tokens import decode, encode_prompt
from genpoe.editors.parts.facts import EncodedFact, last_token_of, subject_of
from genpoe.editors.parts.places import Place, layer_output, read_inputs
from genpoe.editors.parts.rows import make_rows

_STARTS = ("The", "Therefore", "Because", "I", "You")
_TOP = 5  # the most likely tokens, one of which is drawn
_ROWS = 64  # of a forward pass


@dataclass(frozen=True)
class SubjectPrompts:
    """A fact's prompts with the subject's place in each.

    Attributes:
        encoded: The fact.
        prompts: The ids of J prompts; the first is the plain one.
        positions: The position of the subject's last token in each.
    """

    encoded: EncodedFact
    prompts: list[list[int]]
    positions: list[int]


def subject_prompts(
    backbone: Backbone, encoded: EncodedFact, contexts: Sequence[str]
) -> SubjectPrompts:
    """Put contexts before a fact's prompt, and find the subject in each.

    Raises:
        FactError: If the fact has no subject, or if its subject does not occur in its prompt.
    """
    subject = subject_of(encoded.fact)
    texts = [encoded.fact.prompt, *(f"{each}. {encoded.fact.prompt}" for each in contexts)]
    return SubjectPrompts(
        encoded,
        [encode_prompt(backbone.tokenizer, text) for text in texts],
        [last_token_of(backbone, text, subject) for text in texts],
    )


@torch.no_grad()
def sample_contexts(
    backbone: Backbone, lengths: Sequence[int], count: int, seed: int = 0
) -> tuple[str, ...]:
    """Let the backbone write texts that may stand before a prompt.

    They begin with "The", "Therefore", "Because", "I" and "You" in turn, and each next token is one
    of the five most likely ones. A generator of their own draws them.

    Args:
        backbone: The untouched backbone.
        lengths: The numbers of sampled tokens.
        count: How many texts there are of each length.
        seed: The seed of the generator.

    Returns:
        The texts, one line each.
    """
    generator = torch.Generator().manual_seed(seed)
    found: list[str] = []
    for length in lengths:
        starts = [_STARTS[number % len(_STARTS)] for number in range(count)]
        written = [encode_prompt(backbone.tokenizer, start) for start in starts]
        for _ in range(length if count else 0):
            rows = make_rows(backbone, written, [[]] * len(written))
            last = torch.tensor([len(row) - 1 for row in written])
            hidden = rows.hidden(backbone)[torch.arange(len(written)), last]
            top = backbone.logits(hidden).float().cpu().topk(_TOP)
            drawn = torch.multinomial(top.values.softmax(-1), 1, generator=generator)
            for row, id in zip(written, top.indices.gather(1, drawn)[:, 0].tolist(), strict=True):
                row.append(id)
        found += [" ".join(decode(backbone.tokenizer, row).split()) for row in written]
    return tuple(found)


def subject_keys(
    backbone: Backbone, place: Place, prompts: Sequence[SubjectPrompts]
) -> list[Tensor]:
    """What a map reads at the last token of each fact's subject: ``[J, i]`` for each fact, float64.

    The model is read as it is now. What stands behind the subject is not read.
    """
    flat = [
        (row[: place_ + 1], place_)
        for each in prompts
        for row, place_ in zip(each.prompts, each.positions, strict=True)
    ]
    found = []
    for first in range(0, len(flat), _ROWS):
        some = flat[first : first + _ROWS]
        rows = make_rows(backbone, [row for row, _ in some], [[]] * len(some))
        inputs = read_inputs(backbone, [place], rows)[place]
        at = torch.tensor([position for _, position in some], device=inputs.device)
        found.append(inputs[torch.arange(len(some), device=inputs.device), at].double())
    return list(torch.cat(found).split([len(each.prompts) for each in prompts]))


def subject_states(backbone: Backbone, layer: int, prompts: Sequence[SubjectPrompts]) -> Tensor:
    """A layer's output at the subject's last token of each plain prompt ``[n, D]``, float64."""
    found = []
    for first in range(0, len(prompts), _ROWS):
        some = prompts[first : first + _ROWS]
        cut = [each.prompts[0][: each.positions[0] + 1] for each in some]
        rows = make_rows(backbone, cut, [[]] * len(cut))
        states = layer_output(backbone, layer, rows)
        at = torch.tensor([each.positions[0] for each in some], device=states.device)
        found.append(states[torch.arange(len(some), device=states.device), at].double())
    return torch.cat(found)
