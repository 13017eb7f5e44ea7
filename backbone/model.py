"""The frozen causal language model, whatever its family, behind one adapter.

Shapes: N rows, T tokens, D d_model, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from backbone.identity.identity import Identity, WeightsIdentity
from backbone.identity.weights import WeightsWatch
from backbone.tokens import stop_token_ids
from plumbing.mounts import SettingValueError

# The names that the families give their parts; the first that exists is taken.
_LAYERS = ("layers", "h", "blocks")
_FFN = ("mlp", "feed_forward", "ffn", "block_sparse_moe")
_FINAL_NORM = (
    *("norm", "ln_f", "final_layernorm", "final_layer_norm"),
    *("norm_f", "embedding_norm", "layer_norm"),
)


class UnsupportedBackboneError(ValueError):
    """A model lacks a part that is needed here."""


class Backbone:
    """A frozen Hugging Face decoder-only model and its tokenizer.

    It is no ``nn.Module``, so that a LightningModule that holds it keeps the weights out of its
    checkpoints, its optimiser and its gradient exchange.

    Args:
        model: Any causal language model of the Llama, Baichuan2, Qwen, Mistral or Gemma kind, with
            a tied or an untied head. Its parameters are frozen and it is set to evaluation mode.
        tokenizer: Its tokenizer, or None where only shapes matter.
        name: Its name in checkpoints; `load_backbone` loads the same model by it.
        folder: The folder whose files the weights were loaded from. None if they live in memory
            alone, or have been changed since.

    Raises:
        UnsupportedBackboneError: If a part was not found; the message names it.
    """

    def __init__(self, model: Any, tokenizer: Any, name: str, folder: Path | None = None) -> None:
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.name = name
        self.decoder: Any = self._need(_decoder(model), "a decoder", "get_decoder()")
        self.embedding: Any = self._need(
            model.get_input_embeddings(), "input embeddings", "get_input_embeddings()"
        )
        self.head: Any = self._need(
            model.get_output_embeddings(), "a language-model head", "get_output_embeddings()"
        )
        self.head.register_forward_pre_hook(_contiguous)
        self.layers: Any = self._need(
            _first(self.decoder, _LAYERS), "decoder layers", " or ".join(_LAYERS)
        )
        self.final_norm: Any = self._need(
            _first(self.decoder, _FINAL_NORM), "a final norm", " or ".join(_FINAL_NORM)
        )
        for index in range(len(self.layers)):
            self.ffn(index)
        config = model.config.get_text_config()
        self.d_model: int = self.embedding.weight.shape[1]
        self.vocab_size: int = self.embedding.weight.shape[0]
        self._softcap: float | None = getattr(config, "final_logit_softcapping", None)
        self._folder = folder
        self._weights: WeightsIdentity | None = None
        self._watch = WeightsWatch(model) if folder is not None else None
        # Cohere multiplies its logits, and Granite divides them.
        self._factor, self._divisor = (
            _number(config, "logit_scale"),
            _number(config, "logits_scaling"),
        )

    def _need(self, part: Any, what: str, where: str) -> Any:
        if part is None:
            raise UnsupportedBackboneError(
                f"{type(self.model).__name__} ({self.name}): found no {what} (looked for {where}); "
                "supported are decoder-only models like Llama, Baichuan2, Qwen, Mistral and Gemma"
            )
        return part

    @property
    def num_layers(self) -> int:
        """The number of decoder layers."""
        return len(self.layers)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        return self.embedding.weight.dtype

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.embedding.weight.device

    def to(self, device: torch.device | str) -> Backbone:
        """Move the model to a device; returns the backbone itself."""
        self.model.to(device)
        return self

    def ffn(self, layer: int) -> nn.Module:
        """The FFN of one decoder layer.

        Raises:
            ValueError: If ``layer`` is out of range.
            UnsupportedBackboneError: If that layer has no FFN under a known name.
        """
        if not 0 <= layer < self.num_layers:
            raise SettingValueError(
                "layer", f"layer must be in 0..{self.num_layers - 1} for {self.name}, got {layer}"
            )
        part = _first(self.layers[layer], _FFN)
        return self._need(part, f"FFN in layer {layer}", " or ".join(_FFN))

    def hidden_states(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Final hidden states ``[N, T, D]``, after the last norm, of right-padded rows."""
        if attention_mask.is_meta:  # it has no values to read; of four dimensions, none are read
            rows, tokens = input_ids.shape
            attention_mask = attention_mask.new_zeros(rows, 1, tokens, tokens, dtype=self.dtype)
        out = self.decoder(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
        return out.last_hidden_state

    def logits(self, hidden: Tensor) -> Tensor:
        """Next-token logits ``[..., V]`` of final hidden states ``[..., D]``."""
        logits = self.head(hidden)
        if self._factor != 1:
            logits = logits * self._factor
        if self._divisor != 1:
            logits = logits / self._divisor
        if self._softcap:
            logits = torch.tanh(logits / self._softcap) * self._softcap
        return logits

    @property
    def logit_scale(self) -> float:
        """What logits are multiplied by behind the head; 1 but for a few families."""
        return self._factor / self._divisor

    @cached_property
    def stop_token_ids(self) -> tuple[int, ...]:
        """Tokens that end an answer: the tokenizer's, and those that the model itself names.

        Chat models name several: the end of a turn and the end of the text.
        """
        settings = getattr(self.model, "generation_config", None)
        return tuple(sorted({*stop_token_ids(self.tokenizer), *_end_ids(settings)}))

    @property
    def identity(self) -> Identity:
        """What decides everything that this backbone computes, as it is in memory now.

        All weights are hashed when it is first asked for. They are hashed again only if they have
        been changed since by other means than `backbone.edits`.
        """
        return Identity.of(self.weights, self.model, self.tokenizer)

    @property
    def weights(self) -> WeightsIdentity:
        """The part of the identity that the weights decide. What changes the weights sets it."""
        if self._watch is not None and self._watch.changed():
            self._weights = self._folder = None  # the files hold something else than the memory
        if self._weights is None:
            self.weights = found = WeightsIdentity.of(self.model, self._folder)
            return found
        return self._weights

    @weights.setter
    def weights(self, weights: WeightsIdentity) -> None:
        """Say what the weights are, after a change that has an identity of its own."""
        self._weights, self._watch = weights, WeightsWatch(self.model)

    def name_weights(
        self, weights: WeightsIdentity, before: WeightsIdentity, written: Iterable[Tensor]
    ) -> None:
        """Say what the weights are, after some of them were written; only these are looked at.

        Args:
            weights: The identity of all weights.
            before: The identity that the caller gave last. If the backbone has another one since,
                something else was changed as well, and all weights are looked at.
            written: The parameters that were written.
        """
        if self._watch is None or self._weights is not before:
            self.weights = weights
            return
        self._weights = weights
        self._watch.renew(written)

    @property
    def fingerprint(self) -> str:
        """The text that tells two backbones apart; artefacts hold it (`Identity.fingerprint`).

        It does not depend on the dtype in which a folder's weights were loaded, nor on the device.
        """
        return self.identity.fingerprint


def _number(config: Any, name: str) -> float:
    """A factor in the configuration; MPT has a word of the same name, which means nothing there."""
    value = getattr(config, name, None)
    return value if value and isinstance(value, int | float) else 1.0


def own_end_ids(model: Any) -> list[int]:
    """The ids that the model itself names as ends of a sequence: first those of generation."""
    settings = (getattr(model, "generation_config", None), model.config.get_text_config())
    return [id for each in settings for id in _end_ids(each)]


def _end_ids(settings: Any) -> list[int]:
    own = getattr(settings, "eos_token_id", None)
    return list(own) if isinstance(own, list | tuple) else [] if own is None else [own]


def _contiguous(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Make the head's input contiguous: for a slice, torch copies the head's weights per row."""
    return inputs[0].contiguous(), *inputs[1:]


def _first(module: nn.Module, names: tuple[str, ...]) -> Any:
    return next((part for name in names if (part := getattr(module, name, None)) is not None), None)


def _decoder(model: Any) -> Any:
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else None
    # Some models with their own code (Baichuan2) return the model itself, or have no such method.
    return getattr(model, "model", None) if decoder is None or decoder is model else decoder
