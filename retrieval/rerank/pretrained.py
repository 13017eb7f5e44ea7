"""Where fine-tuning starts: an encoder with a head of its own, or a decoder with LoRA beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from plumbing.devices import pick_device, pick_dtype
from plumbing.quiet import without_loading_bar, without_report_of_new_head
from plumbing.settings import typed
from retrieval.encoders.model_folder import MINILM, folder_fingerprint, model_folder
from retrieval.rerank.decoder import DecoderCrossEncoder
from retrieval.rerank.encoder import EncoderCrossEncoder

# What FlagEmbedding's own fine-tuning of decoders adapts: every linear layer of a block.
LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class RerankerError(ValueError):
    """A reranker that cannot be found, or a folder that holds none or a damaged one."""


@typed("cross_encoder")
def encoder(
    name: str = MINILM,
    max_tokens: int = 256,
    tokens_at_once: int = 4096,
    interaction: float = 0.0,
    dropout: float = 0.1,
    attention: str = "eager",
    revision: str | None = None,
) -> EncoderCrossEncoder:
    """An encoder to be trained in full.

    Args:
        name: "minilm" (all-MiniLM-L6-v2, embedded), a hub id, or a folder. A model without a head
            for classification gets a new one of one output, whose last layer begins as zero.
        max_tokens: See `CrossEncoder`.
        tokens_at_once: See `CrossEncoder`.
        interaction: See `EncoderCrossEncoder`.
        dropout: While training, everywhere in the model.
        attention: "eager", "sdpa", …: transformers' ``attn_implementation``.
        revision: Branch, tag or commit on the hub.

    Raises:
        ValueError: If there is no such model, or a setting is out of range.
    """
    from transformers import AutoModelForSequenceClassification

    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must be in 0 … 1, got {dropout}; set cross_encoder.dropout")
    folder = model_folder(name, revision)
    settings = {"num_labels": 1, "attn_implementation": attention, "dtype": torch.float32}
    with without_report_of_new_head():
        (model, loading), tokenizer = load_pretrained(
            AutoModelForSequenceClassification, folder, output_loading_info=True, **settings
        )
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if key in loading["missing_keys"] and parameter.shape[0] == 1:  # the last layer alone:
                parameter.zero_()  # with another zero before it, neither would ever learn
    set_dropout(model, dropout)
    # .train(): transformers loads models for evaluation, and then dropout would do nothing.
    return EncoderCrossEncoder(model, tokenizer, max_tokens, tokens_at_once, interaction).train()


@typed("cross_encoder")
def decoder(
    name: str,
    max_tokens: int = 512,
    tokens_at_once: int = 8192,
    lora_rank: int = 64,
    lora_alpha: int = 16,
    lora_dropout: float = 0.1,
    lora_targets: Sequence[str] = LORA_TARGETS,
    dtype: str = "auto",
    gradient_checkpointing: bool = False,
    attention: str = "sdpa",
    revision: str | None = None,
) -> DecoderCrossEncoder:
    """A frozen causal language model with trainable LoRA beside its linear layers.

    Args:
        name: A hub id, such as "BAAI/bge-reranker-v2-gemma", or a folder.
        max_tokens: See `CrossEncoder`; without the prompt.
        tokens_at_once: See `CrossEncoder`.
        lora_rank: Rank of each adapter; this and the next three are FlagEmbedding's defaults.
        lora_alpha: An adapter's output is scaled by ``lora_alpha / lora_rank``.
        lora_dropout: On an adapter's input, while training.
        lora_targets: Names of the layers that get one.
        dtype: Of the frozen weights; the adapters are float32.
        gradient_checkpointing: Keep fewer activations and compute them again on the way back.
        attention: As in `encoder`.
        revision: As in `encoder`.

    Raises:
        ValueError: If there is no such model, a setting is out of range, or no layer has one of
            the names.
    """
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    settings = {"attn_implementation": attention, "dtype": pick_dtype(dtype, pick_device("auto"))}
    folder = model_folder(name, revision)
    model, tokenizer = load_pretrained(AutoModelForCausalLM, folder, **settings)
    if gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    lora = LoraConfig(
        task_type="CAUSAL_LM",
        r=lora_rank,
        lora_alpha=lora_alpha,
        lora_dropout=lora_dropout,
        target_modules=list(lora_targets),
    )
    origin = {"name": name, "revision": revision, "fingerprint": folder_fingerprint(folder)}
    adapted = get_peft_model(model, lora)
    return DecoderCrossEncoder(adapted, tokenizer, max_tokens, tokens_at_once, origin).train()


def load_pretrained(kind: Any, folder: Path, **settings: Any) -> tuple[Any, Any]:
    """A transformers model of a class, and its tokenizer; no pickle, no code of the model's own.

    Raises:
        RerankerError: If the folder does not hold them.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        with without_loading_bar():
            model = kind.from_pretrained(folder, use_safetensors=True, **settings)
    except (OSError, ValueError) as error:
        raise RerankerError(
            f"{folder}: expected a model with config.json, *.safetensors and a tokenizer, got an "
            f"error: {str(error).splitlines()[0]}; give another"
        ) from error
    return model, tokenizer


def set_dropout(model: Any, share: float) -> None:
    """Let every dropout layer of a model drop this share."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = share
    for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
        if hasattr(model.config, name):
            setattr(model.config, name, share)
