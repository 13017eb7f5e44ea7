"""An expert as a PEFT adapter folder, and back: the same logits on both sides.

``adapter_config.json`` and ``adapter_model.safetensors``, as ``PeftModel.from_pretrained`` reads
them and ``save_pretrained`` writes them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from backbone.final_ffn import FinalFFN
from backbone.lora.settings import CONFIG, WEIGHTS, AdapterError, check_absent
from backbone.projections import TARGETS
from dmoe.experts.expert import Expert, ExpertError, ExpertSpec, check_expert
from plumbing.storage.folders import new_folder

_PREFIX = "base_model.model."
# Settings of a LoraConfig under which an adapter computes something else than B A x.
_PLAIN: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none",),
    "use_dora": (False, None),
    "fan_in_fan_out": (False, None),
    "modules_to_save": (None, []),
    "rank_pattern": ({}, None),
    "alpha_pattern": ({}, None),
    "lora_bias": (False, None),
    "alora_invocation_tokens": (None,),
}


def export_adapter(
    folder: str | Path, expert: Mapping[str, Tensor], spec: ExpertSpec, ffn: FinalFFN
) -> None:
    """Write an expert as a PEFT adapter, by one rename: half an adapter is never seen.

    Args:
        folder: Where; must not exist.
        expert: One expert.
        spec: Its settings.
        ffn: The final FFN that it belongs to.

    Raises:
        AdapterError: If the folder exists.
        ExpertError: If the expert does not fit.
    """
    check_expert(expert, spec, ffn.sizes)
    names = _module_names(ffn)
    tensors = {
        _key(names, name): tensor.detach().cpu().contiguous() for name, tensor in expert.items()
    }
    check_absent(folder)
    with new_folder(Path(folder)) as part:
        save_file(tensors, part / WEIGHTS, metadata={"format": "pt"})
        config = json.dumps(_config(spec, ffn, names), indent=2, sort_keys=True)
        (part / CONFIG).write_text(config + "\n", encoding="utf-8")


def import_adapter(folder: str | Path, ffn: FinalFFN) -> tuple[Expert, ExpertSpec]:
    """Read a PEFT adapter of the final FFN.

    Args:
        folder: What ``save_pretrained`` or `export_adapter` wrote.
        ffn: The final FFN of the backbone that it belongs to.

    Returns:
        The expert, float32, and its settings.

    Raises:
        AdapterError: If it is missing or damaged, does more than LoRA, or stands elsewhere than on
            the final FFN.
        ExpertError: If its tensors do not fit the backbone.
    """
    folder = Path(folder)
    config, tensors = _read(folder)
    for key, plain in _PLAIN.items():
        if config.get(key, plain[0]) not in plain:
            raise AdapterError(
                f"{folder / CONFIG}: expected plain LoRA, got {key}={config[key]!r}; train the "
                "adapter without it"
            )
    places = {_key(_module_names(ffn), f"{t}.{m}"): f"{t}.{m}" for t in TARGETS
              if t in ffn.projections for m in ("lora_A", "lora_B")}  # fmt: skip
    elsewhere = [key for key in tensors if key not in places]
    if elsewhere or not tensors:
        raise AdapterError(
            f"{folder / WEIGHTS}: expected tensors of the final FFN alone, such as "
            f"{next(iter(places))}, got {elsewhere[0] if elsewhere else 'none'}; train the adapter "
            f"with layers_to_transform=[{ffn.backbone.num_layers - 1}] on the FFN"
        )
    expert = {places[key]: tensor.float() for key, tensor in tensors.items()}
    spec = _spec(folder, config, expert)
    check_expert(expert, spec, ffn.sizes)
    return expert, spec


def _spec(folder: Path, config: Mapping[str, Any], expert: Expert) -> ExpertSpec:
    try:
        rank, alpha = int(config["r"]), float(config["lora_alpha"])
        if config.get("use_rslora"):  # which divides by sqrt(rank) instead
            alpha *= math.sqrt(rank)
        return ExpertSpec(rank, alpha, [t for t in TARGETS if f"{t}.lora_A" in expert])
    except (KeyError, TypeError, ExpertError) as error:
        raise AdapterError(
            f"{folder / CONFIG}: expected a positive r and lora_alpha, got {config.get('r')!r} and "
            f"{config.get('lora_alpha')!r}; export the adapter again"
        ) from error


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    missing = [name for name in (CONFIG, WEIGHTS) if not (folder / name).is_file()]
    if missing:
        raise AdapterError(
            f"{folder}: expected a PEFT adapter, found no {missing[0]}; give a folder that PEFT's "
            "save_pretrained wrote"
        )
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        tensors = load_file(folder / WEIGHTS)
    except (ValueError, SafetensorError) as error:
        raise AdapterError(f"{folder} is damaged ({error}); export the adapter again") from error
    if not isinstance(config, dict):
        raise AdapterError(f"{folder / CONFIG}: expected an object; export the adapter again")
    return config, tensors


def _module_names(ffn: FinalFFN) -> dict[str, str]:
    """Of each projection, its module's name in the model."""
    modules = {id(part): name for name, part in ffn.backbone.model.named_modules()}
    return {target: modules[id(part)] for target, part in ffn.projections.items()}


def _key(names: Mapping[str, str], tensor: str) -> str:
    target, _, matrix = tensor.partition(".")
    return f"{_PREFIX}{names[target]}.{matrix}.weight"


def _config(spec: ExpertSpec, ffn: FinalFFN, names: Mapping[str, str]) -> dict[str, Any]:
    alpha = int(spec.alpha) if spec.alpha == int(spec.alpha) else spec.alpha
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": ffn.backbone.name,
        "r": spec.rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "target_modules": [names[target].rpartition(".")[2] for target in spec.targets],
        "layers_to_transform": [ffn.backbone.num_layers - 1],
    }
