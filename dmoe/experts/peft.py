"""Writes an expert as a PEFT adapter folder, and reads one back; the logits stay the same.

The folder holds ``adapter_config.json`` and ``adapter_model.safetensors``, in the form that PEFT's
``save_pretrained`` writes and ``PeftModel.from_pretrained`` reads.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from backbone.final_ffn import FinalFFN
from backbone.lora.folder import check_files, check_places, read_config, read_factors
from backbone.lora.record import RECORD, AdapterRecord, check_record
from backbone.lora.settings import CONFIG, WEIGHTS, AdapterError, check_absent
from backbone.projections import TARGETS
from dmoe.experts.expert import Expert, ExpertError, ExpertSpec, check_expert
from dmoe.experts.modules import as_maps, from_maps, map_names, of_least_rank, stores_transposed
from plumbing.storage.folders import new_folder

_PREFIX = "base_model.model."


def export_adapter(
    folder: str | Path,
    expert: Mapping[str, Tensor],
    spec: ExpertSpec,
    ffn: FinalFFN,
    record: AdapterRecord | None = None,
) -> None:
    """Write an expert as a PEFT adapter.

    The folder gets its name by one rename at the end, so nobody ever sees half an adapter.

    Args:
        folder: The new folder; it must not exist yet.
        expert: One expert.
        spec: The expert's settings.
        ffn: The final FFN that the expert belongs to.
        record: What the expert was trained with. It is written into the folder, unless it is None.

    Raises:
        AdapterError: If the folder exists.
        ExpertError: If the expert does not fit the settings or the FFN.
    """
    check_expert(expert, spec, ffn.sizes)
    maps, joined = as_maps(expert, spec, ffn)
    tensors = {_key(name): tensor.detach().cpu().contiguous() for name, tensor in maps.items()}
    check_absent(folder)
    with new_folder(Path(folder)) as part:
        save_file(tensors, part / WEIGHTS, metadata={"format": "pt"})
        names = [_target(ffn, name.rpartition(".")[0]) for name in maps]
        config = json.dumps(_config(joined, ffn, [*dict.fromkeys(names)]), indent=2, sort_keys=True)
        (part / CONFIG).write_text(config + "\n", encoding="utf-8")
        if record is not None:
            record.write(part)


def import_adapter(folder: str | Path, ffn: FinalFFN) -> tuple[Expert, ExpertSpec]:
    """Read a PEFT adapter of the final FFN.

    Args:
        folder: The folder that ``save_pretrained`` or `export_adapter` wrote.
        ffn: The final FFN of the backbone that the adapter belongs to.

    Returns:
        The expert, in float32, and its settings.

    Raises:
        AdapterError: If the adapter is missing or damaged, does more than plain LoRA, or changes
            other parts of the model than the final FFN; or if its record names another backbone.
        ExpertError: If the adapter's tensors do not fit the backbone.
    """
    folder = Path(folder)
    check_files(folder, "a PEFT adapter", "give a folder that PEFT's save_pretrained wrote")
    # PEFT goes by the kind of the module, whatever the adapter says of fan-in and fan-out.
    config, tensors = read_config(folder, also=["fan_in_fan_out"]), read_factors(folder)
    if (folder / RECORD).is_file():  # PEFT itself writes none
        check_record(folder, ffn.backbone)
    maps = [f"{name}.{matrix}" for name in map_names(ffn) for matrix in ("lora_A", "lora_B")]
    places = {_key(name): name for name in maps}
    elsewhere = [key for key in tensors if key not in places]
    if elsewhere or not tensors:
        raise AdapterError(
            f"{folder / WEIGHTS}: expected tensors of the final FFN alone, such as "
            f"{next(iter(places))}, got {elsewhere[0] if elsewhere else 'none'}; train the adapter "
            f"with layers_to_transform=[{ffn.backbone.num_layers - 1}] on the FFN"
        )
    held = {places[key].rpartition(".")[0] for key in tensors}
    check_places(folder / CONFIG, config, ffn.backbone.model, sorted(held))
    expert = from_maps({places[key]: tensor.float() for key, tensor in tensors.items()}, ffn)
    expert, spec = of_least_rank(expert, _spec(folder, config, expert), ffn)
    try:
        check_expert(expert, spec, ffn.sizes)
    except ExpertError as error:
        raise ExpertError(f"{folder / WEIGHTS}: {error}") from error
    return expert, spec


def _spec(folder: Path, config: Mapping[str, Any], expert: Expert) -> ExpertSpec:
    try:
        rank, alpha = config["r"], float(config["lora_alpha"])
        if config.get("use_rslora"):  # rank-stabilized LoRA divides alpha by sqrt(rank) instead
            alpha *= math.sqrt(max(rank, 0))
        return ExpertSpec(rank, alpha, [t for t in TARGETS if f"{t}.lora_A" in expert])
    except ExpertError as error:
        raise AdapterError(
            f"{folder / CONFIG}: expected a positive r and lora_alpha, got {config.get('r')!r} and "
            f"{config.get('lora_alpha')!r}; export the adapter again"
        ) from error


def _key(name: str) -> str:
    return f"{_PREFIX}{name}.weight"


def _target(ffn: FinalFFN, name: str) -> str:
    """The end of a map's name by which PEFT finds it and no other map of the layer."""
    end = name.rpartition(".")[2]
    layer = ffn.backbone.layers[-1]
    alike = [other for other, _ in layer.named_modules() if other.rpartition(".")[2] == end]
    return end if len(alike) == 1 else ".".join(name.split(".")[-2:])  # GPT-2's c_proj


def _config(spec: ExpertSpec, ffn: FinalFFN, maps: list[str]) -> dict[str, Any]:
    alpha = int(spec.alpha) if spec.alpha == int(spec.alpha) else spec.alpha
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": ffn.backbone.name,
        "r": spec.rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": stores_transposed(ffn),
        "inference_mode": True,
        "target_modules": maps,
        "layers_to_transform": [ffn.backbone.num_layers - 1],
    }
