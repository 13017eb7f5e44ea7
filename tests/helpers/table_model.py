"""A model whose answers and likelihoods are known, and tokenizers with the habits of real ones.

The table model is a two-layer Llama of random embeddings. The outputs of its attention and of its
FFNs are zero, so that the last token alone decides, and its head maps each token to the next by a
table. It can be saved, loaded and asked like any other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

STRENGTH = 60.0  # the logit of the right token; the others are near 0
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,:;?!'\"$()-\né北京"


def make_table_model(
    table: Mapping[int, int], rows: int, width: int = 128, **settings: Any
) -> LlamaForCausalLM:
    """A model that says ``table[token]`` behind a token, with probability 1 up to rounding.

    Args:
        table: The next token of some tokens, as ids. What follows another token is near uniform.
        rows: The number of rows of the embedding and of the head.
        width: D, d_model. The larger, the less do the tokens' embeddings resemble each other.
        **settings: Further settings of the configuration.
    """
    sizes = {"vocab_size": rows, "hidden_size": width, "intermediate_size": 48}
    sizes |= {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = LlamaConfig(**{**sizes, "max_position_embeddings": 512, **settings})
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        embedding, head = model.model.embed_tokens.weight, model.lm_head.weight
        embedding.normal_()
        head.zero_()
        for token, following in table.items():
            normed = model.model.norm(embedding[token])
            head[following] += STRENGTH * normed / normed.square().sum()
    return model


def make_spiece_tokenizer(
    words: Sequence[str] = ("the", "of", "New", "York", "Answer", "Question"),
    *,
    prepends: bool = True,
    ends: bool = False,
) -> Any:
    """A tokenizer like Llama 2's, of words with "▁" before them and of single characters.

    Args:
        words: Words that are one token each, with and without "▁".
        prepends: Whether a "▁" is put before every text, as transformers 5 loads several families.
        ends: Whether the end of the sequence is put behind every text.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, processors

    pieces = ["<unk>", "<s>", "</s>", "<0x0A>", "▁", *(f"▁{word}" for word in words), *words]
    pieces += [letter for letter in LETTERS if letter not in pieces]
    scores = [0.0 if piece.startswith("<") else -1.0 for piece in pieces]
    tokenizer = Tokenizer(models.Unigram(list(zip(pieces, scores, strict=True)), unk_id=0))
    steps = [normalizers.Prepend("▁")] if prepends else []
    tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>" if ends else "<s> $A", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def table_of(tokenizer: Any, *pairs: tuple[str, str]) -> dict[int, int]:
    """A table by tokens instead of ids."""
    return {
        tokenizer.convert_tokens_to_ids(one): tokenizer.convert_tokens_to_ids(following)
        for one, following in pairs
    }
