"""The models that fine-tuning starts from: an encoder with a head, or a decoder with LoRA."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from plumbing.devices import pick_device, pick_dtype
from plumbing.mounts import SettingValueError
from plumbing.quiet import without_loading_bar, without_report_of_new_head
from plumbing.settings import typed
from retrieval.encoders.model_folder import MINILM, folder_fingerprint, model_folder
from retrieval.rerank.decoder import DecoderCrossEncoder
from retrieval.rerank.encoder import EncoderCrossEncoder

# Every linear layer of a block gets LoRA, as when FlagEmbedding fine-tunes a decoder.
LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class RerankerError(ValueError):
    """A reranker is missing, damaged, or not the expected one."""


@typed
def encoder(
    name: str = MINILM,
    max_tokens: int = 256,
    tokens_at_once: int = 4096,
    interaction: float = 0.0,
    dropout: float = 0.1,
    attention: str = "eager",
    revision: str | None = None,
) -> EncoderCrossEncoder:
    """Load an encoder, of which all weights are trained.

    Args:
        name: "minilm" (all-MiniLM-L6-v2, which comes with this package), a hub id, or a folder. A
            model without a classification head gets a new one with one output, whose last layer
            starts at zero.
        max_tokens: As in `CrossEncoder`.
        tokens_at_once: As in `CrossEncoder`.
        interaction: As in `EncoderCrossEncoder`.
        dropout: The dropout of every layer that has one, while training.
        attention: transformers' ``attn_implementation``: "eager", "sdpa", …
        revision: A branch, tag or commit on the hub.

    Raises:
        ValueError: If there is no such model, or if a setting is out of range.
    """
    from transformers import AutoModelForSequenceClassification

    if not 0 <= dropout < 1:
        raise SettingValueError("dropout", f"dropout must be in 0 … 1, got {dropout}")
    folder = model_folder(name, revision)
    settings = {"num_labels": 1, "attn_implementation": attention, "dtype": torch.float32}
    with without_report_of_new_head():
        (model, loading), tokenizer = load_pretrained(
            AutoModelForSequenceClassification, folder, output_loading_info=True, **settings
        )
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            # Only the last layer becomes zero: if the layer before were zero too, none would learn.
            if key in loading["missing_keys"] and parameter.shape[0] == 1:
                parameter.zero_()
    set_dropout(model, dropout)
    # transformers loads models in evaluation mode, in which dropout does nothing.
    return EncoderCrossEncoder(model, tokenizer, max_tokens, tokens_at_once, interaction).train()


@typed
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
    """Load a frozen causal language model, with trainable LoRA beside its linear layers.

    Args:
        name: A hub id, such as "BAAI/bge-reranker-v2-gemma", or a folder.
        max_tokens: As in `CrossEncoder`, without the prompt.
        tokens_at_once: As in `CrossEncoder`.
        lora_rank: The rank of each adapter. The defaults of this setting and the next three are
            those of FlagEmbedding.
        lora_alpha: An adapter's output is scaled by ``lora_alpha / lora_rank``.
        lora_dropout: The dropout on an adapter's input, while training.
        lora_targets: The names of the layers that get an adapter.
        dtype: The dtype of the frozen weights; the adapters are float32.
        gradient_checkpointing: Whether to keep fewer activations, and to compute them again in the
            backward pass.
        attention: As in `encoder`.
        revision: As in `encoder`.

    Raises:
        ValueError: If there is no such model, if a setting is out of range, or if no layer has one
            of the names.
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
    """Load a transformers model and its tokenizer, without pickle and without code from the model.

    Args:
        kind: The transformers class of the model.
        folder: The folder of the model.
        settings: Further arguments of ``from_pretrained``.

    Raises:
        RerankerError: If the folder does not contain them.
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
    """Set the dropout of every dropout layer of a model."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = share
    for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
        if hasattr(model.config, name):
            setattr(model.config, name, share)
