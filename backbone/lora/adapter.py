"""One PEFT LoRA adapter beside a backbone that stays as it is.

PEFT replaces modules of the model by its own. Here PEFT's modules are in the model only while the
adapter is attached. Otherwise the model has its own modules, as all other methods expect.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from backbone.lora.folder import read_config
from backbone.lora.record import AdapterRecord, check_record
from backbone.lora.settings import AdapterSettingError, check_absent, check_lora
from backbone.lora.targets import CHOICES, lora_targets
from backbone.model import Backbone
from plumbing.quiet import without_warning_of_old_name
from plumbing.storage.folders import new_folder


@dataclass(frozen=True)
class LoraSettings:
    """The settings of an adapter.

    Attributes:
        rank: R, the inner width of the factors (DMoE sec. 4.3: 4).
        alpha: The outputs are scaled by ``alpha / rank`` (sec. 4.3: 16).
        targets: The linear maps that it adapts in every layer, as in `lora_targets`.

    Raises:
        AdapterError: If a value is out of range.
    """

    rank: int = 4
    alpha: float = 16.0
    targets: Sequence[str] = ("gate", "up", "down")

    def __post_init__(self) -> None:
        check_lora(self, CHOICES, AdapterSettingError)


class LoraAdapter:
    """An adapter, and its places in the model. `new` and `load` make one.

    Args:
        backbone: The frozen model.
        wrap: A function that puts PEFT's modules into the model and returns the ``PeftModel``.
        record: What `check_record` returned, or None for a new adapter.

    Attributes:
        record: What is known about the adapter's training.
        parameters: The factors by PEFT's names. They are float32 beside a bfloat16 backbone.
    """

    def __init__(
        self,
        backbone: Backbone,
        wrap: Callable[[Any], Any],
        record: Mapping[str, Any] | None = None,
    ) -> None:
        model = backbone.model
        self._backbone, self._fingerprint = backbone, backbone.fingerprint
        self.record: Mapping[str, Any] = {} if record is None else record
        own = [(m, name, child) for m in model.modules() for name, child in m.named_children()]
        with without_warning_of_old_name():
            self._peft = wrap(model)
        now = [getattr(parent, name) for parent, name, _ in own]
        self._places = [
            (*place, module)
            for place, module in zip(own, now, strict=True)
            if place[2] is not module
        ]
        self.parameters: dict[str, nn.Parameter] = {
            name: parameter for name, parameter in model.named_parameters() if "lora_" in name
        }
        self._detach()
        vars(model).pop("peft_config", None)  # otherwise PEFT would take the model for its own

    @classmethod
    def new(cls, backbone: Backbone, settings: LoraSettings) -> LoraAdapter:
        """An untrained adapter, whose output is zero.

        PyTorch's global generator draws its random factors.

        Raises:
            UnsupportedBackboneError: If the backbone lacks one of the targets.
        """
        from peft import LoraConfig, get_peft_model

        targets = lora_targets(backbone, settings.targets)
        config = LoraConfig(
            r=settings.rank,
            lora_alpha=settings.alpha,  # type: ignore[arg-type]  # PEFT takes fractions as well
            target_modules=targets.modules,
            target_parameters=targets.parameters or None,
            lora_dropout=0.0,
            task_type="CAUSAL_LM",
        )

        def wrap(model: Any) -> Any:
            wrapped = get_peft_model(model, config)
            config.base_model_name_or_path = backbone.name
            return wrapped

        return cls(backbone, wrap)

    @classmethod
    def load(cls, folder: str | Path, backbone: Backbone) -> LoraAdapter:
        """Open an adapter that `save` wrote. It cannot be trained further.

        Raises:
            AdapterError: If it is missing or damaged, or if it was trained for another backbone.
        """
        folder = Path(folder)
        record = check_record(folder, backbone)
        read_config(folder, also=["target_parameters"])  # the experts of a mixture
        from peft import PeftModel

        return cls(backbone, lambda model: PeftModel.from_pretrained(model, str(folder)), record)

    @property
    def alpha(self) -> float:
        """The numerator of LoRA's scale."""
        return float(self._peft.peft_config["default"].lora_alpha)

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Let the adapter act inside the block."""
        for parent, name, _, adapted in self._places:
            setattr(parent, name, adapted)
        try:
            yield
        finally:
            self._detach()

    def save(self, folder: str | Path, prompt: str | None = None) -> None:
        """Write an adapter folder that PEFT reads, with the backbone's name and fingerprint.

        Args:
            folder: The new folder. It appears complete, by one rename.
            prompt: The prompt that it was trained under, as in `AdapterRecord`.

        Raises:
            AdapterError: If the folder exists already.
        """
        check_absent(folder)
        with new_folder(Path(folder)) as part:
            with self.attached():
                self._peft.save_pretrained(str(part), save_embedding_layers=False)
            AdapterRecord(self._backbone.name, self._fingerprint, prompt).write(part)

    def _detach(self) -> None:
        for parent, name, module, _ in self._places:
            setattr(parent, name, module)
