"""What the encoders made of pretrained models share: settings, device, number format, fingerprints.

Each kind of encoder has a file of its own, with its settings beside it; see
`retrieval.encoders.sentence` and `retrieval.encoders.dpr`.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from plumbing.devices import pick_device, pick_dtype
from plumbing.settings import check_choice, check_positive, check_types
from plumbing.storage.hashing import digest
from retrieval.encoders.encoder import Encoder
from retrieval.encoders.model_folder import MINILM, folder_fingerprint, model_folder
from retrieval.encoders.positions import check_positions, folder_positions

_DTYPES = ("auto", "float32", "bfloat16", "float16")
_FORMAT = 1  # of what the encoders make of a passage's title and text


@dataclass(frozen=True)
class PretrainedSettings(ABC):
    """Which models encode, and how. Making one touches neither a disk nor a model.

    Attributes:
        kind: The name of this kind of encoder; it is a part of the fingerprints.
        passage_model: "minilm" (embedded, a sentence-transformers model), a folder or a hub id.
        question_model: The model that encodes questions, named in the same way. None: the model of
            the passages encodes questions, too.
        revision: Branch, tag or commit of models on the hub.
        max_passage_tokens: Title and text together, special tokens included.
        max_question_tokens: Special tokens included.
        batch_size: Texts that are encoded at once.
        dtype: "auto": bfloat16 where the device multiplies it natively; or "float32", "bfloat16",
            "float16".
        device: "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1", …

    Raises:
        SettingValueError: If a value is mistyped or impossible.
    """

    kind: ClassVar[str]

    passage_model: str = MINILM
    question_model: str | None = None
    revision: str | None = None
    max_passage_tokens: int = 256
    max_question_tokens: int = 128
    batch_size: int = 64
    dtype: str = "auto"
    device: str = "auto"

    def __post_init__(self) -> None:
        check_types(self)
        check_positive(self, "max_passage_tokens", "max_question_tokens", "batch_size")
        check_choice("dtype", self.dtype, _DTYPES)

    @abstractmethod
    def load(self, device: str | None = None) -> Encoder:
        """Make the encoder; its weights are read when a text is first encoded.

        Args:
            device: Used instead of the settings' own, if it is given.

        Raises:
            ValueError: If PyTorch does not know the device.
        """

    def check_limits(self) -> None:
        """Check that the models can read as many tokens as the limits allow.

        This reads their configurations, and no weights.

        Raises:
            SettingValueError: If a model has fewer positions.
        """
        limits = {
            "max_passage_tokens": (self.passage_model, self.max_passage_tokens),
            "max_question_tokens": (
                self.question_model or self.passage_model,
                self.max_question_tokens,
            ),
        }
        for name, (model, limit) in limits.items():
            check_positions(limit, folder_positions(model_folder(model, self.revision)), name)

    def question_fingerprint(self) -> str:
        """Hash of everything, except rounding, that decides a question's vector."""
        return self._fingerprint(
            self.question_model or self.passage_model, self.max_question_tokens
        )

    def passage_fingerprint(self) -> str:
        """Hash of everything, except rounding, that decides a passage's vector."""
        return self._fingerprint(self.passage_model, self.max_passage_tokens)

    def _fingerprint(self, model: str, max_tokens: int) -> str:
        files = folder_fingerprint(model_folder(model, self.revision))
        return digest([_FORMAT, self.kind, files, max_tokens])


class PretrainedEncoder:
    """Base of the encoders. Weights are read when a text is first encoded.

    Args:
        settings: Which models, and how they run.
        device: Where they run; see `plumbing.devices.pick_device`.

    Raises:
        ValueError: If PyTorch knows no such device.
    """

    def __init__(self, settings: PretrainedSettings, device: str) -> None:
        self._settings = settings
        self._device = pick_device(device)
        self._dtype = pick_dtype(settings.dtype, self._device)
        self._lock = threading.Lock()  # tokenizers keep the limit of tokens as their state

    @property
    def rounding(self) -> str:
        """What decides the last digits: number format, kind of device, texts in a batch."""
        return f"{self._dtype} {self._device.type} {self._settings.batch_size}"

    @cached_property
    def question_fingerprint(self) -> str:
        """Hash of everything, except rounding, that decides a question's vector."""
        return self._settings.question_fingerprint()

    @cached_property
    def passage_fingerprint(self) -> str:
        """Hash of everything, except rounding, that decides a passage's vector."""
        return self._settings.passage_fingerprint()


class OneKindEncoder(PretrainedEncoder):
    """Base of the encoders whose models of questions and of passages are loaded in one way."""

    @cached_property
    def _passage_model(self) -> Any:
        return self._load(self._settings.passage_model, "passage_model")

    @cached_property
    def _question_model(self) -> Any:
        name = self._settings.question_model
        if name is None or name == self._settings.passage_model:
            return self._passage_model
        return self._load(name, "question_model")

    def _load(self, name: str, key: str) -> Any:
        """Load the model that the setting ``key`` names."""
        raise NotImplementedError
