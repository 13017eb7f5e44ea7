"""The fingerprint of version 0.1, by which the artefacts of that version still open."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch

# Settings that change what the same weights compute, by the names that the families give them.
_COMPUTED = (
    *("hidden_act", "hidden_activation", "rms_norm_eps", "layer_norm_eps", "attention_bias"),
    *("rope_theta", "rope_scaling", "rope_parameters", "partial_rotary_factor", "head_dim"),
    *("num_attention_heads", "num_key_value_heads", "query_pre_attn_scalar", "sliding_window"),
    *("layer_types", "attn_logit_softcapping", "final_logit_softcapping", "num_experts_per_tok"),
)


def sampled_fingerprint(model: Any) -> str:
    """SHA-256 of some settings, of the names and shapes of the weights, and of a sample of them.

    The sample has about 1,024 values of each weight. It is read in bfloat16, so that a model has
    the same fingerprint in float32 and in bfloat16; in float16 it has another. A changed row of an
    embedding is not noticed, and neither is another tokenizer. So no new artefact has it.
    """
    settings = model.config.get_text_config().to_dict()
    computed = {key: settings[key] for key in _COMPUTED if key in settings}
    digest = hashlib.sha256(json.dumps(computed, sort_keys=True, default=str).encode())
    for name, parameter in model.named_parameters():
        digest.update(f"{name}{list(parameter.shape)}".encode())
        flat = parameter.detach().reshape(-1)
        sample = flat[:: (flat.numel() // 1024) | 1].to(torch.bfloat16).cpu()
        digest.update(sample.view(torch.int16).numpy().tobytes())
    return digest.hexdigest()
