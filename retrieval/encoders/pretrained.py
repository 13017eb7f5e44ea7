"""What the encoders made of pretrained models share: device, number format, fingerprints."""

from __future__ import annotations

import threading
from functools import cached_property
from typing import TYPE_CHECKING

from plumbing.devices import pick_device, pick_dtype

if TYPE_CHECKING:
    from retrieval.encoders.settings import EncoderSettings


class PretrainedEncoder:
    """Base of encoders; weights are read when a text is first encoded.

    Args:
        settings: Which models, and how they run.
        device: Where they run; see `plumbing.devices.pick_device`.

    Raises:
        ValueError: If PyTorch knows no such device.
    """

    def __init__(self, settings: EncoderSettings, device: str) -> None:
        self._settings = settings
        self._device = pick_device(device)
        self._dtype = pick_dtype(settings.dtype, self._device)
        self._lock = threading.Lock()  # tokenizers keep the limit of tokens as their state

    @property
    def rounding(self) -> str:
        """What decides the last digits: number format, kind of device, texts a batch."""
        return f"{self._dtype} {self._device.type} {self._settings.batch_size}"

    @cached_property
    def question_fingerprint(self) -> str:
        """Hash of all that decides a question's vector but rounding."""
        return self._settings.question_fingerprint()

    @cached_property
    def passage_fingerprint(self) -> str:
        """The same for a passage's vector."""
        return self._settings.passage_fingerprint()
