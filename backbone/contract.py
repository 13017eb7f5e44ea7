"""What all other code takes for granted of a backbone, checked once when it is loaded.

* Every weight came from the files, and no weight of the files was left over.
* There is an end-of-sequence token, and every token that a text can give has a row of the
  embedding.
* A prompt does not end the sequence, and prompt and answer, encoded apart, are the joint text.
* Our logits, and our likelihood of a short text, equal the model's own and are finite, and so are
  all weights.

A family or a folder that differs is refused in one line that says in what. The last point costs
one forward pass of some twenty tokens.

Shapes: T tokens, V vocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from backbone.likelihood import IGNORE, answer_nll
from backbone.model import Backbone, UnsupportedBackboneError, own_end_ids
from backbone.tokens import encode_answer, encode_prompt

_PROMPT = "Question: Where was Tova Blick born?\nAnswer:"
# A word, a name of several, figures, a year, and what begins with punctuation or another letter.
_ANSWERS = (
    "the",
    "New York",
    "7",
    "1998",
    "(a) yes",
    '"Salt"',
    "'s",
    "$5.20",
    "-1",
    "élan",
    "北京",
)
# Causal masks, which old versions of transformers wrote into the files of GPT-2 and its relatives.
_MASK = re.compile(r"\.attn(?:\.attention)?\.(?:masked_)?bias$")
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}  # relative to the largest logit


class BackboneContractError(UnsupportedBackboneError):
    """A backbone is not what the code takes it for; the message says what differs."""


def check_contract(backbone: Backbone, loading: Mapping[str, Any] | None = None) -> None:
    """Check a backbone once, and give its tokenizer an end and a padding that the model knows.

    Args:
        backbone: The backbone, on the device where it is to run.
        loading: What ``from_pretrained`` reports about the weights; None: they came from no file.

    Raises:
        BackboneContractError: If the backbone breaks one of the points above.
    """
    if loading is not None:
        check_weights(backbone, loading)
    check_tokens(backbone)
    check_encoding(backbone)
    check_numbers(backbone)


def check_weights(backbone: Backbone, loading: Mapping[str, Any]) -> None:
    """Check that the weights in the files are those of the model, no fewer and no more.

    A head that is tied to the embedding needs no weight of its own.

    Raises:
        BackboneContractError: If they are not.
    """
    missing = loading["missing_keys"]
    left_over = [name for name in loading["unexpected_keys"] if not _MASK.search(f".{name}")]
    if loading["mismatched_keys"]:
        name, theirs, own = min(loading["mismatched_keys"])
        raise _refusal(
            backbone,
            f"expected {name} of the shape {list(own)} that its config.json describes, got "
            f"{list(theirs)} in its files; load the files with their own config.json",
        )
    if missing:
        raise _refusal(
            backbone,
            f"expected every weight in its files, but {_first_of(missing)} is in none of them, and "
            "its values would be random; get the whole model again",
        )
    if left_over:
        raise _refusal(
            backbone,
            f"its files hold {_first_of(left_over)}, for which this model has no place: expected "
            "the weights that its config.json describes; load the files with their own config.json",
        )


def check_tokens(backbone: Backbone) -> None:
    """Check that the tokens have rows of the embedding, and that one of them ends the sequence.

    A tokenizer without an end takes the one that the model itself names. A padding token without
    a row is replaced by the end; padding never counts.

    Raises:
        BackboneContractError: If there is no end, or if a text can give an id without a row.
    """
    tokenizer, rows = backbone.tokenizer, backbone.vocab_size
    head_rows = backbone.head.weight.shape[0]
    if head_rows > rows:
        raise _refusal(
            backbone,
            f"its head chooses among {head_rows} ids, but the embedding has {rows} rows: expected "
            "as many; load the files with their own config.json",
        )
    # A special token stands in no text, such as the one for images in the tokenizer of Gemma 3.
    added = tokenizer.added_tokens_decoder
    special = {id for id, token in added.items() if token.special}
    in_every_prompt = {*encode_prompt(tokenizer, _PROMPT)}
    for token, id in tokenizer.get_vocab().items():
        if id >= head_rows and (id not in special or id in in_every_prompt):
            raise _refusal(
                backbone,
                f"its tokenizer gives the token {token!r} the id {id}, but the model has "
                f"{head_rows} rows: expected ids up to {head_rows - 1}; use the model's own "
                "tokenizer, or resize_token_embeddings and save the model",
            )
    end = tokenizer.eos_token_id
    if end is None or end >= head_rows:
        own = (id for id in own_end_ids(backbone.model) if 0 <= id < head_rows)
        token = next((t for id in own if (t := tokenizer.convert_ids_to_tokens(id))), None)
        if token is None:
            raise _refusal(
                backbone,
                f"its tokenizer's eos_token is {tokenizer.eos_token!r}, and the model names none "
                "of its own that the tokenizer knows: expected a token that ends an answer; name "
                "eos_token in tokenizer_config.json",
            )
        tokenizer.eos_token = token
    padding = tokenizer.pad_token_id
    if padding is not None and not 0 <= padding < rows:
        tokenizer.pad_token = tokenizer.eos_token


def check_encoding(backbone: Backbone) -> None:
    """Check that a prompt and the answer behind it are the encoding of the joint text.

    Raises:
        BackboneContractError: If they are not, or if the prompt ends the sequence.
    """
    tokenizer = backbone.tokenizer
    prompt = encode_prompt(tokenizer, _PROMPT)
    if prompt[-1] in (tokenizer.eos_token_id, tokenizer.sep_token_id):
        raise _refusal(
            backbone,
            f"its tokenizer ends every prompt with {tokenizer.convert_ids_to_tokens(prompt[-1])!r}"
            ", behind which a model says nothing: expected a prompt that can go on; set "
            "add_eos_token to false in tokenizer_config.json",
        )
    for answer in _ANSWERS:
        apart = [*prompt, *encode_answer(tokenizer, answer)[:-1]]
        joint = encode_prompt(tokenizer, f"{_PROMPT} {answer}")
        if apart != joint:
            pairs = zip([*apart, -1], [*joint, -2], strict=False)
            at = next(n for n, (a, b) in enumerate(pairs) if a != b)
            raise _refusal(
                backbone,
                f"its tokenizer encodes the prompt and the answer {answer!r} otherwise than the "
                f"joint text: expected {tokenizer.convert_ids_to_tokens(joint[at : at + 3])} "
                f"there, got {tokenizer.convert_ids_to_tokens(apart[at : at + 3])}; use a "
                "tokenizer that keeps words apart",
            )


@torch.inference_mode()
def check_numbers(backbone: Backbone) -> None:
    """Check that our logits and our likelihood are the model's own, and finite like the weights.

    Raises:
        BackboneContractError: If they are not.
    """
    prompt = encode_prompt(backbone.tokenizer, _PROMPT)
    answer = encode_answer(backbone.tokenizer, _ANSWERS[1])
    ids_1T = torch.tensor([[*prompt, *answer]], device=backbone.device)
    mask_1T = torch.ones_like(ids_1T)
    read: list[Any] = []  # what the decoder hands on within the model's own pass
    handle = backbone.decoder.register_forward_hook(lambda *call: read.append(call[-1]))
    try:
        own_TV = backbone.model(input_ids=ids_1T, attention_mask=mask_1T).logits[0].float()
    finally:
        handle.remove()
    if not bool(own_TV.isfinite().all()):
        raise _refusal(
            backbone,
            f"the backbone itself computes logits that are not finite ({_count(own_TV)} in "
            f"{str(backbone.dtype).removeprefix('torch.')}), with nothing injected: a weight is "
            "damaged, or the dtype is too narrow; get the model again, or set the dtype to float32",
        )
    for name, weight in backbone.model.named_parameters():
        if not _is_finite(weight):  # a row of another token, which shows once that token occurs
            raise _refusal(
                backbone,
                f"the backbone itself has numbers that are not finite in {name} (in "
                f"{str(weight.dtype).removeprefix('torch.')}): the weight is damaged, or the dtype "
                "is too narrow; get the model again, or set the dtype to float32",
            )
    if not read:
        raise _refusal(backbone, "expected a model that calls its decoder, got one that does not")
    hidden_1TD = read[-1].last_hidden_state
    ours_TV = backbone.logits(hidden_1TD)[0].float()
    if ours_TV.shape != own_TV.shape or not _close(backbone, ours_TV, own_TV, own_TV):
        raise _refusal(
            backbone,
            "expected the logits that its head computes from the last hidden states, "
            f"got a model whose own logits differ by {_gap(ours_TV, own_TV)}, as by a factor or a "
            "cap behind the head; such a family needs a line in backbone/model.py",
        )
    labels_1T = ids_1T.clone()
    labels_1T[:, : len(prompt)] = IGNORE
    nll = answer_nll(backbone, ids_1T, mask_1T, labels_1T, lambda *_: hidden_1TD[:, :-1])[0]
    own_nll = functional.cross_entropy(own_TV[len(prompt) - 1 : -1], ids_1T[0, len(prompt) :])
    if not _close(backbone, nll, own_nll, own_TV):
        raise _refusal(
            backbone,
            f"expected its own likelihood of an answer, {own_nll:.4f} nats a token, got {nll:.4f}",
        )


def _is_finite(weight: Tensor) -> bool:
    """True if all numbers are finite; it reads a weight once, and copies nothing."""
    if not weight.is_floating_point() or not weight.numel():
        return True
    return all(bool(end.isfinite()) for end in weight.aminmax())  # NaN is handed on


def _close(backbone: Backbone, ours: Tensor, own: Tensor, scale: Tensor) -> bool:
    tolerance = _TOLERANCE.get(backbone.dtype, 2e-2) * max(1.0, float(scale.abs().max()))
    return bool(((ours - own).abs() <= tolerance).all())  # NaN is not close


def _gap(ours_TV: Tensor, own_TV: Tensor) -> str:
    if ours_TV.shape != own_TV.shape:
        return f"their shape, {list(own_TV.shape)} where ours is {list(ours_TV.shape)}"
    return f"up to {float((ours_TV - own_TV).abs().max()):.3g}"


def _count(logits: Tensor) -> str:
    return f"{int((~logits.isfinite()).sum())} of {logits.numel()}"


def _first_of(names: Collection[str]) -> str:
    first = min(names)
    return first if len(names) == 1 else f"{first} (and {len(names) - 1} more)"


def _refusal(backbone: Backbone, what: str) -> BackboneContractError:
    return BackboneContractError(f"{type(backbone.model).__name__} ({backbone.name}): {what}")
