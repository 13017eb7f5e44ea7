"""Tiny random-weight rerankers in folders, as the hub's are: an encoder and a decoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from retrieval.passage import Passage
from tests.helpers.tiny import CORPUS, make_tokenizer

PAIRS = [
    (
        "Where was Tova Blick born?",
        Passage("p0", "Tova Blick", "She was born in Lisbon by the sea."),
    ),
    ("Where?", Passage("p1", "", "The quick brown fox jumps over the lazy dog. " * 30)),
    ("What did Tova do " + "and then " * 40 + "?", Passage("p2", "Work", "A surgeon " * 40)),
    ("Who plays violins?", Passage("p3", "Violins", "0 1 2 3 4 5 6 7 8 9 violins play.")),
    ("Who plays violins?", Passage("p4", "Old town", "Later worked in the old town.")),
]


def make_encoder_folder(folder: Path, family: str = "bert", seed: int = 0) -> Path:
    """A sequence classifier of one output, "bert" or "xlm-roberta", with its kind of tokenizer."""
    from transformers import AutoConfig, AutoModelForSequenceClassification

    tokenizer = _word_pieces(folder) if family == "bert" else _byte_pairs()
    config = AutoConfig.for_model(
        family,
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=300,
        type_vocab_size=2 if family == "bert" else 1,
        num_labels=1,
        pad_token_id=tokenizer.pad_token_id,
    )
    return _save(AutoModelForSequenceClassification, config, tokenizer, folder, seed)


def _word_pieces(folder: Path) -> Any:
    from transformers import BertTokenizer

    folder.mkdir(parents=True, exist_ok=True)
    words = sorted({*CORPUS.lower().replace("?", " ").replace(".", " ").split()})
    letters = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
    pieces = [*letters, *(f"##{letter}" for letter in letters), *words]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    (folder / "vocab.txt").write_text("\n".join(dict.fromkeys(special + pieces)) + "\n")
    return BertTokenizer.from_pretrained(folder)


def _byte_pairs() -> Any:
    from tokenizers.processors import TemplateProcessing

    tokenizer = make_tokenizer()
    ids = {"<s>": tokenizer.bos_token_id, "</s>": tokenizer.eos_token_id}
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=list(ids.items())
    )
    tokenizer.pad_token = tokenizer.unk_token
    return tokenizer


def make_decoder_folder(folder: Path, seed: int = 0) -> Path:
    """A tiny Gemma with its tokenizer."""
    from transformers import AutoConfig, AutoModelForCausalLM

    tokenizer = make_tokenizer()
    config = AutoConfig.for_model(
        "gemma",
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=512,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return _save(AutoModelForCausalLM, config, tokenizer, folder, seed)


def make_gpt2_folder(folder: Path, pads: bool = False, seed: int = 0) -> Path:
    """A tiny GPT-2 with 400 learned positions, with or without a padding token."""
    from transformers import AutoConfig, AutoModelForCausalLM

    tokenizer = make_tokenizer()
    tokenizer.pad_token = tokenizer.unk_token if pads else None
    sizes = {"n_embd": 32, "n_inner": 48, "n_layer": 2, "n_head": 4, "n_positions": 400}
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = AutoConfig.for_model("gpt2", vocab_size=len(tokenizer), **sizes, **ids)
    return _save(AutoModelForCausalLM, config, tokenizer, folder, seed)


def _save(kind: Any, config: Any, tokenizer: Any, folder: Path, seed: int) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = kind.from_config(config)
        with torch.no_grad():  # as initialised, all scores are about the same
            for name, parameter in model.named_parameters():
                if parameter.ndim > 1 or "classifier" in name:
                    parameter.copy_(torch.randn_like(parameter) * 0.3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
