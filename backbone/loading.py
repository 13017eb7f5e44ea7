"""Load a backbone by its name, or make one without weights where only shapes matter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from safetensors import SafetensorError

from backbone.contract import check_contract
from backbone.lora.settings import CONFIG
from backbone.model import Backbone
from plumbing.devices import DTYPES, pick_device, pick_dtype
from plumbing.mounts import SettingValueError, mounted
from plumbing.quiet import without_loading_bar, without_report_of_weights

EMBEDDED = "smollm2_135m"


def best_dtype(device: torch.device | str) -> torch.dtype:
    """bfloat16 where the processor multiplies it natively, float32 elsewhere."""
    return pick_dtype("auto", torch.device(device))


def load_backbone(
    name: str = EMBEDDED,
    dtype: str = "auto",
    device: str = "cpu",
    trust_remote_code: bool = False,
    revision: str | None = None,
) -> Backbone:
    """Load a backbone and its tokenizer, and check that it is what all other code takes it for.

    Args:
        name: "smollm2_135m" (embedded, needs no download), a Hugging Face hub id, or a folder.
        dtype: "auto" (what `best_dtype` says), "float32", "bfloat16" or "float16".
        device: "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1", …
        trust_remote_code: Whether a model may bring its own code (Baichuan2 needs it).
        revision: Branch, tag or commit on the hub.

    Raises:
        ValueError: If the dtype is unknown, if the model cannot be found or built, or if it is a
            LoRA adapter.
        UnsupportedBackboneError: If the model breaks the contract of `backbone.contract`.
    """
    from transformers import AutoTokenizer

    place = pick_device(device)
    chosen = pick_dtype(dtype, place)
    source: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    path = name
    if name == EMBEDDED:
        from backbone.embedded import embedded_backbone

        path, source = str(embedded_backbone()), {"local_files_only": True}
    if (Path(path) / CONFIG).is_file():
        raise _is_adapter(name, _settings_of_adapter(Path(path) / CONFIG))
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, **source)
        model, loading = _load(path, dtype=chosen, **source)
    except _UNLOADABLE as error:
        first_line = (str(error) or repr(error)).splitlines()[0]
        raise SettingValueError(
            "name",
            f"cannot load the backbone {name!r}: {first_line} Expected {EMBEDDED!r}, a hub id that "
            "this machine can reach, or a folder with config.json",
        ) from error
    if adapters := getattr(model, "peft_config", None):  # a repository on the hub
        raise _is_adapter(name, next(iter(adapters.values())).to_dict())
    backbone = Backbone(model, tokenizer, name, _loaded_from(path, model, revision)).to(place)
    check_contract(backbone, loading)
    return backbone


# What transformers raises about folders that hold no model, half of one, or a damaged one.
_UNLOADABLE = (
    *(OSError, ValueError, RuntimeError, SafetensorError),
    *(AssertionError, AttributeError, KeyError, TypeError),
)


def _load(path: str, **settings: Any) -> tuple[Any, dict[str, Any]]:
    """The model in a folder or on the hub, and what transformers reports about its weights."""
    from transformers import AutoModelForCausalLM

    # Our own check names a weight of another shape; transformers' error does not.
    settings |= {"output_loading_info": True, "ignore_mismatched_sizes": True}
    read: Any = AutoModelForCausalLM.from_pretrained
    with without_loading_bar(), without_report_of_weights():
        try:
            model, loading = read(path, **settings)
        except AssertionError:  # torch's: the padding token in config.json has no row
            model, loading = read(path, pad_token_id=None, **settings)  # padding never counts
    return model, loading


def _settings_of_adapter(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError:  # damaged, but an adapter all the same
        return None


def _is_adapter(name: str, config: Any) -> SettingValueError:
    base = config.get("base_model_name_or_path") if isinstance(config, dict) else None
    return SettingValueError(
        "name",
        f"{name!r} is a LoRA adapter of {base or 'another model'}, not a whole model: adapters "
        "must be merged first (PEFT's merge_and_unload, then save_pretrained with the tokenizer)",
        "set {} to the merged folder",
    )


def _loaded_from(path: str, model: Any, revision: str | None) -> Path | None:
    """The folder of the files that a model was loaded from, or None if it cannot be told."""
    from huggingface_hub import try_to_load_from_cache

    if Path(path).is_dir():
        return Path(path)
    commit = getattr(model.config, "_commit_hash", None) or revision
    config = try_to_load_from_cache(path, "config.json", revision=commit)
    return Path(config).parent if isinstance(config, str) else None


def meta_backbone(config: Any, name: str = "meta") -> Backbone:
    """A backbone on the meta device: it has shapes and parameter counts, but no weights."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return Backbone(AutoModelForCausalLM.from_config(config), None, name)


def backbone_shapes(
    name: str,
    dtype: torch.dtype,
    trust_remote_code: bool = False,
    revision: str | None = None,
) -> Backbone:
    """A backbone on the meta device, with its tokenizer: all that a plan needs, and no weights.

    Args:
        name: As in `load_backbone`. Of a folder only ``config.json`` and the tokenizer are read.
        dtype: The dtype of the weights that there would be.
        trust_remote_code: Whether a model may bring its own code.
        revision: Branch, tag or commit on the hub.

    Returns:
        The backbone; its tokenizer is None if there is none.

    Raises:
        SettingValueError: If the configuration cannot be found or built.
    """
    from transformers import AutoConfig, AutoTokenizer

    source: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    path = name
    if name == EMBEDDED:
        from backbone.embedded import embedded_backbone

        path, source = str(embedded_backbone()), {"local_files_only": True}
    try:
        config: Any = AutoConfig.from_pretrained(path, **source)
        config.dtype = dtype
        backbone = meta_backbone(config, name)
    except _UNLOADABLE as error:
        first_line = (str(error) or repr(error)).splitlines()[0]
        raise SettingValueError(
            "name",
            f"cannot read the configuration of the backbone {name!r}: {first_line} Expected "
            f"{EMBEDDED!r}, a hub id that this machine can reach, or a folder with config.json",
        ) from error
    try:
        backbone.tokenizer = AutoTokenizer.from_pretrained(path, **source)
    except _UNLOADABLE:
        backbone.tokenizer = None
    return backbone


def has_weights(name: str, revision: str | None = None) -> bool:
    """Whether a backbone's weights are on this machine, so that loading it downloads nothing."""
    from huggingface_hub import try_to_load_from_cache

    weights = ("model.safetensors", "pytorch_model.bin")
    files = [*weights, *(f"{name}.index.json" for name in weights)]
    if name == EMBEDDED:
        return True
    if Path(name).is_dir():
        return any((Path(name) / file).is_file() for file in files)
    found = (try_to_load_from_cache(name, file, revision=revision) for file in files)
    return any(isinstance(path, str) for path in found)


def training_dtype(config: DictConfig, on_gpu: bool) -> str:
    """The dtype in which a configuration's backbone is trained with: "auto" becomes what suits.

    Args:
        config: Has ``backbone``.
        on_gpu: Whether the Trainer will move the backbone to a GPU.
    """
    dtype: str = config.backbone.dtype
    if dtype != "auto":
        return dtype
    if on_gpu and not torch.cuda.is_available():
        return "bfloat16"  # every GPU on which a larger backbone fits multiplies it
    return str(best_dtype("cuda" if on_gpu else "cpu")).removeprefix("torch.")


def training_shapes(config: DictConfig, on_gpu: bool, known: Backbone | None = None) -> Backbone:
    """The backbone of a training on the meta device, in the dtype that it would have.

    Args:
        config: Has ``backbone``.
        on_gpu: As for `training_dtype`.
        known: One that was made before; it is taken if its dtype is this one.

    Raises:
        SettingValueError: If the configuration cannot be found or built.
    """
    source, dtype = config.backbone, DTYPES[training_dtype(config, on_gpu)]
    if known is not None and known.dtype == dtype:
        return known
    with mounted("backbone"):
        return backbone_shapes(source.name, dtype, source.trust_remote_code, source.revision)


def training_backbone(config: DictConfig) -> Backbone:
    """Load a configuration's backbone for training.

    It is loaded where ``backbone.device`` says. ``backbone.dtype=auto`` becomes the dtype that
    suits the device to which the Trainer will move it.
    """
    dtype = config.backbone.dtype
    on_gpu = config.trainer.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    if dtype == "auto" and on_gpu:
        dtype = str(best_dtype("cuda")).removeprefix("torch.")
    backbone: Backbone = instantiate(config.backbone, dtype=dtype)
    return backbone
