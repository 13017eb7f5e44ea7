"""PEFT's adapter folders: which files, which settings, and what the settings may say.

`FIELDS` has every setting of PEFT's ``LoraConfig``, with its type and the values under which an
adapter is plain: ``α/r · B A x`` beside base weights that stay as they are. A setting that PEFT has
got since then is refused unless it is off.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from backbone.lora.settings import CONFIG, WEIGHTS, AdapterError
from plumbing.mounts import SettingValueError
from plumbing.settings import check_fits

_Names = Sequence[str] | str | None
_Section = Mapping[str, Any] | None
_NAMED = re.compile(r"(\.lora_[AB])\.([^.]+)\.weight$")  # with the adapter's own name
_DEFAULT = "default"  # the only such name that PEFT reads past
_PAIR = re.compile(r"\.lora_([AB])\.(?=weight$)")
_OFF: tuple[Any, ...] = (None, False, {}, [])


@dataclass(frozen=True)
class Field:
    """A setting of an adapter.

    Attributes:
        type: What it may be.
        why: Why an adapter is not plain with other values than ``plain``. Empty: all values are.
        plain: The values under which an adapter is plain.
    """

    type: Any
    why: str = ""
    plain: tuple[Any, ...] = _OFF


_BASE = "the base weights are changed as well"
_ELSEWHERE = "other weights than those of LoRA are trained"
_LAYER = "the adapter computes something else than B A x"

FIELDS: dict[str, Field] = {
    "peft_type": Field(str, "only LoRA is read", ("LORA",)),
    "task_type": Field(str | None, "only language models are adapted", ("CAUSAL_LM", None)),
    "r": Field(int),
    "lora_alpha": Field(float),
    "use_rslora": Field(bool | None),
    "lora_dropout": Field(float),  # none but in training
    # Which modules are adapted: `check_places`.
    "target_modules": Field(_Names),
    "exclude_modules": Field(_Names),
    "layers_to_transform": Field(Sequence[int] | int | None),
    "layers_pattern": Field(_Names),
    "target_parameters": Field(Sequence[str] | None, "it adapts parameters that are no linear map"),
    "rank_pattern": Field(_Section, "modules differ in their rank"),
    "alpha_pattern": Field(_Section, "modules differ in their alpha"),
    # What the factors begin with matters where PEFT takes it off the base weights.
    "init_lora_weights": Field(
        bool | str | None, _BASE, (True, False, None, "gaussian", "eva", "orthogonal")
    ),
    "eva_config": Field(_Section),
    "loftq_config": Field(_Section),  # read if init_lora_weights is loftq
    "corda_config": Field(_Section, _BASE),
    "lora_ga_config": Field(_Section, _BASE),
    "kasa_config": Field(_Section, _BASE),
    "layer_replication": Field(Sequence[Any] | None, "the layers are repeated"),
    "bias": Field(Literal["none", "all", "lora_only"], _ELSEWHERE, ("none",)),
    "lora_bias": Field(bool | None, _ELSEWHERE),
    "modules_to_save": Field(Sequence[str] | None, _ELSEWHERE),
    "trainable_token_indices": Field(
        Sequence[int] | Mapping[str, Sequence[int]] | None, _ELSEWHERE
    ),
    "ensure_weight_tying": Field(bool | None),  # of what modules_to_save and others train
    "fan_in_fan_out": Field(bool | None, "the weights are stored the other way round"),
    "use_dora": Field(bool | None, _LAYER),
    "use_qalora": Field(bool | None, _LAYER),
    "qalora_group_size": Field(int | None),
    "use_bdlora": Field(_Section, _LAYER),
    "velora_config": Field(_Section, _LAYER),
    "monteclora_config": Field(_Section, _LAYER),
    "arrow_config": Field(_Section, "it routes among several adapters"),
    "alora_invocation_tokens": Field(Sequence[int] | None, "it acts behind some tokens alone"),
    "megatron_config": Field(_Section, "the layers are Megatron's"),
    "megatron_core": Field(str | None),
    # About the adapter, without effect on what it computes.
    "auto_mapping": Field(_Section),
    "peft_version": Field(str | None),
    "base_model_name_or_path": Field(str | None),
    "revision": Field(str | None),
    "inference_mode": Field(bool | None),
    "runtime_config": Field(_Section),
}


def check_files(folder: Path, what: str, remedy: str, more: Sequence[str] = ()) -> None:
    """Check that a folder has the files of an adapter.

    Args:
        folder: The folder.
        what: What is expected, as in "a PEFT adapter".
        remedy: What to do if a file is missing.
        more: Further files that are needed.

    Raises:
        AdapterError: If one is missing.
    """
    for name in (CONFIG, WEIGHTS, *more):
        if not (folder / name).is_file():
            raise AdapterError(f"{folder}: expected {what}, found no {name}; {remedy}")


def read_config(folder: Path, also: Sequence[str] = ()) -> dict[str, Any]:
    """Read the settings of an adapter, and check that they are those of plain LoRA.

    Args:
        folder: The adapter's folder.
        also: Settings that may have any value of their type.

    Raises:
        AdapterError: If the file is damaged, or a setting is mistyped, not plain or unknown.
    """
    path = folder / CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise AdapterError(f"{path} is damaged ({error}); export the adapter again") from error
    if not isinstance(config, dict):
        raise AdapterError(f"{path}: expected an object; export the adapter again")
    # The kind of adapter comes first, since each kind has settings of its own.
    for key in sorted(
        {"peft_type", "r", "lora_alpha", *config}, key=lambda key: key != "peft_type"
    ):
        if key not in config:
            raise AdapterError(f"{path}: expected a value for {key}, got none; export it again")
        field, value = FIELDS.get(key), config[key]
        if field is None:
            if value not in _OFF:
                raise AdapterError(
                    f"{path}: expected plain LoRA, got {key}={value!r}, which is not known here; "
                    "train the adapter without it"
                )
            continue
        try:
            check_fits(key, value, field.type)
        except SettingValueError as error:
            raise AdapterError(f"{path}: {error}, or export the adapter again") from error
        if field.why and key not in also and value not in field.plain:
            raise AdapterError(
                f"{path}: expected plain LoRA, got {key}={value!r}: {field.why}; train the adapter "
                "without it"
            )
    return config


def read_factors(folder: Path) -> dict[str, Tensor]:
    """Read the tensors of an adapter by PEFT's names, without the adapter's own name in them.

    PEFT writes ``….lora_A.weight``. Other tools write what the model calls the same tensor while
    the adapter is in it, such as ``….lora_A.default.weight``. Behind another name than "default"
    PEFT would look for nothing, and begin anew.

    Raises:
        AdapterError: If the file is damaged, if it holds several adapters or half a pair of
            factors, or if its names are such that PEFT would not read it.
    """
    path = folder / WEIGHTS
    try:
        tensors = load_file(path)
    except (ValueError, SafetensorError) as error:
        raise AdapterError(f"{folder} is damaged ({error}); export the adapter again") from error
    found: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        named = _NAMED.search(key)
        if named and named[2] != _DEFAULT:
            raise AdapterError(
                f"{path}: expected tensors such as …{named[1]}.weight, got {key} with the name of "
                f"the adapter, under which PEFT does not find it; take .{named[2]} out of the names"
            )
        plain = _NAMED.sub(r"\1.weight", key)
        if plain in found:
            raise AdapterError(
                f"{path}: expected one adapter, got several tensors for {plain}; save each adapter "
                "in a folder of its own"
            )
        found[plain] = tensor
    for key in found:
        other = _PAIR.sub(lambda part: ".lora_B." if part[1] == "A" else ".lora_A.", key)
        if other not in found:
            raise AdapterError(
                f"{path}: expected {other} beside {key}, got none; export the adapter again"
            )
    return found


def check_places(
    path: Path, config: Mapping[str, Any], model: nn.Module, held: Iterable[str]
) -> None:
    """Check that PEFT would read the tensors of an adapter, and draw no others.

    Args:
        path: The file of the settings, for messages.
        config: What `read_config` returned.
        model: The model, without an adapter in it.
        held: The names of the modules whose factors the adapter has.

    Raises:
        AdapterError: If the settings leave out a module whose factors are there, or if they adapt
            a module whose factors are not there but drawn at random.
    """
    from peft import LoraConfig
    from peft.tuners.tuners_utils import check_target_module_exists

    chosen = config.get("target_modules")
    names = ("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of settings that make no difference here
            settings = LoraConfig(**{name: config[name] for name in names if name in config})
    except (TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise AdapterError(f"{path}: PEFT refuses it ({reason}); export it again") from error
    everything = isinstance(chosen, str) and chosen.lower() == "all-linear"

    def is_adapted(name: str) -> bool:
        return everything or bool(chosen and check_target_module_exists(settings, name))

    for name in held:
        if not is_adapted(name):
            raise AdapterError(
                f"{path}: expected target_modules and the like to choose {name}, whose factors the "
                f"adapter has, got target_modules={chosen!r}; export the adapter again"
            )
    if config.get("init_lora_weights", True) in (False, "orthogonal"):
        linear = (name for name, part in model.named_modules() if isinstance(part, nn.Linear))
        for name in linear:
            if name not in held and not everything and is_adapted(name):
                raise AdapterError(
                    f"{path}: expected factors of {name}, which target_modules choose, got none, "
                    "and PEFT would draw them at random; export the adapter again"
                )
