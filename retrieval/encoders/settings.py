"""Encoders of dense retrieval: one interface, whichever model is behind it.

A question and a passage each become one vector; their inner product is the passage's score. Two
kinds of models are built in: ``sentence``, any sentence-transformers model, and ``dpr``, DPR's pair
of BERT encoders (Karpukhin et al. 2020), which GenPoE retrieves with.

Shapes: N texts, D dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass

from plumbing.settings import check_types
from plumbing.storage.hashing import digest
from retrieval.encoders.encoder import Encoder
from retrieval.encoders.model_folder import MINILM, folder_fingerprint, model_folder

KINDS = ("sentence", "dpr")
_DTYPES = ("auto", "float32", "bfloat16", "float16")
_FORMAT = 1  # of what the encoders make of a passage's title and text


@dataclass(frozen=True)
class EncoderSettings:
    """Which models encode, and how. Making one touches neither disk nor model.

    Attributes:
        kind: "sentence" or "dpr".
        passage_model: "minilm" (embedded, a sentence-transformers model), a folder or a hub id.
        question_model: Likewise; None: the same model encodes questions (not with "dpr").
        revision: Branch, tag or commit of models on the hub.
        max_passage_tokens: Title and text together, special tokens included.
        max_question_tokens: Special tokens included.
        batch_size: Texts that are encoded at once.
        dtype: "auto": bfloat16 where the device multiplies it natively; or "float32", "bfloat16",
            "float16".
        device: "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1", …

    Raises:
        ValueError: If a value is mistyped or impossible.
    """

    kind: str = "sentence"
    passage_model: str = MINILM
    question_model: str | None = None
    revision: str | None = None
    max_passage_tokens: int = 256
    max_question_tokens: int = 128
    batch_size: int = 64
    dtype: str = "auto"
    device: str = "auto"

    def __post_init__(self) -> None:
        check_types(self, "retriever.encoder")
        if self.kind not in KINDS:
            raise ValueError(
                f"kind must be one of {', '.join(KINDS)}, got {self.kind!r}; "
                "set retriever.encoder.kind"
            )
        if self.kind == "dpr" and self.question_model is None:
            raise ValueError(
                "a DPR encoder has a model for questions; set retriever.encoder.question_model"
            )
        for name in ("max_passage_tokens", "max_question_tokens", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"{name} must be positive, got {getattr(self, name)}; "
                    f"set retriever.encoder.{name}"
                )
        if self.dtype not in _DTYPES:
            raise ValueError(
                f"dtype must be one of {', '.join(_DTYPES)}, got {self.dtype!r}; "
                "set retriever.encoder.dtype"
            )

    def load(self, device: str | None = None) -> Encoder:
        """The encoder; its weights are read when a text is first encoded.

        Args:
            device: Instead of the settings' own.

        Raises:
            ValueError: If a model cannot be found or is of another kind.
        """
        if self.kind == "dpr":
            from retrieval.encoders.dpr import DPREncoder

            return DPREncoder(self, device or self.device)
        from retrieval.encoders.sentence import SentenceEncoder

        return SentenceEncoder(self, device or self.device)

    def question_fingerprint(self) -> str:
        """See `Encoder`."""
        return self._fingerprint(
            self.question_model or self.passage_model, self.max_question_tokens
        )

    def passage_fingerprint(self) -> str:
        """See `Encoder`."""
        return self._fingerprint(self.passage_model, self.max_passage_tokens)

    def _fingerprint(self, model: str, max_tokens: int) -> str:
        files = folder_fingerprint(model_folder(model, self.revision))
        return digest([_FORMAT, self.kind, files, max_tokens])


def check_limit(
    limit: int, positions: int | None, name: str, key: str = "retriever.encoder"
) -> None:
    """Check that a model has a position for every token that it may get.

    Raises:
        ValueError: If it has fewer.
    """
    if positions is not None and limit > positions:
        raise ValueError(
            f"{name} must be at most {positions}, the positions that the model has, got {limit}; "
            f"set {key}.{name}"
        )
