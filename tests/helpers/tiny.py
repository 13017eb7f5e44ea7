"""Tiny random-weight models and a tokenizer made on the spot: no network, no files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from backbone.model import Backbone

CORPUS = (
    "Question: Where was Tova Blick born?\nAnswer: Lisbon\n\nTova Blick was born in Lisbon, and "
    "later worked as a surgeon in the old town by the sea. The quick brown fox jumps over the lazy "
    "dog while 0 1 2 3 4 5 6 7 8 9 violins play."
)


# What makes a tiny "olmoe" a mixture of experts.
MOE = {"num_experts": 4, "num_experts_per_tok": 2}


def make_tokenizer() -> Any:
    """A byte-level BPE tokenizer of about 400 tokens, like the embedded backbone's in kind."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([CORPUS], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        unk_token="<|endoftext|>",
    )


def make_backbone(
    family: str = "llama", seed: int = 0, tokenizer: Any = None, **settings: Any
) -> Backbone:
    """A random-weight model of two layers, d_model 32."""
    from transformers import AutoConfig, AutoModelForCausalLM

    tokenizer = tokenizer or make_tokenizer()
    sizes: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 512,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    if family == "falcon":
        del sizes["head_dim"]  # it computes its own
    config = AutoConfig.for_model(family, **{**sizes, **settings})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config)
        with torch.no_grad():  # as initialised, every token is about equally likely
            for name, parameter in model.named_parameters():
                if "norm" not in name:
                    parameter.mul_(8)
    return Backbone(model, tokenizer, f"tiny-{family}-{seed}")


def save_backbone(backbone: Backbone, folder: Path) -> Path:
    """Write a model and its tokenizer as the folder that ``backbone.name`` takes; returns it."""
    backbone.model.save_pretrained(folder)
    backbone.tokenizer.save_pretrained(folder)
    return folder
