"""The encoder of any sentence-transformers model; all-MiniLM-L6-v2 is one.

Shapes: N texts, D dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from plumbing.mounts import SettingValueError
from plumbing.quiet import without_loading_bar
from retrieval.encoders.model_folder import loading, model_folder
from retrieval.encoders.positions import check_positions, check_special_tokens, positions
from retrieval.encoders.pretrained import OneKindEncoder, PretrainedSettings
from retrieval.passage import Passage, passage_text

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


@dataclass(frozen=True)
class SentenceSettings(PretrainedSettings):
    """Settings of a `SentenceEncoder`; the default is the embedded all-MiniLM-L6-v2.

    Raises:
        SettingValueError: If a value is mistyped or impossible.
    """

    kind: ClassVar[str] = "sentence"

    def load(self, device: str | None = None) -> SentenceEncoder:
        """Make the encoder; see `PretrainedSettings.load`."""
        return SentenceEncoder(self, device or self.device)


class SentenceEncoder(OneKindEncoder):
    """A sentence-transformers model behind the interface `retrieval.encoders.encoder.Encoder`.

    The model reads the title of a passage, a line break, and the text. The prompts that a model
    names for queries and documents are used. Vectors have length 1, so that their inner product is
    the cosine, unless the model says that it was trained for the plain inner product.

    Only the transformer runs in the reduced dtype. Pooling, dense layers and normalisation are in
    float32, because rounding to bfloat16 there would coarsen every score. A model of static
    embeddings has no dtype that could be reduced, and no limit of tokens.

    Args:
        settings: The models, and how they run.
        device: Where the encoder runs.
    """

    def encode_questions(self, questions: Sequence[str]) -> np.ndarray:
        """Encode questions: float32 ``[N, D]``."""
        model, limit = self._question_model, self._settings.max_question_tokens
        _check_limit(model, limit, "max_question_tokens")
        return self._encode(model, model.encode_query, list(questions), limit)

    def encode_passages(self, passages: Sequence[Passage]) -> np.ndarray:
        """Encode passages: float32 ``[N, D]``."""
        model, limit = self._passage_model, self._settings.max_passage_tokens
        _check_limit(model, limit, "max_passage_tokens")
        texts = [passage_text(passage) for passage in passages]
        return self._encode(model, model.encode_document, texts, limit)

    def _load(self, name: str, key: str) -> SentenceTransformer:
        from sentence_transformers import SentenceTransformer

        folder = model_folder(name, self._settings.revision)
        with loading(folder, "sentence-transformers model", key), without_loading_bar():
            model = SentenceTransformer(
                str(folder),
                device=str(self._device),
                local_files_only=True,
                trust_remote_code=False,
                model_kwargs={"dtype": torch.float32},
            )
        if model.similarity_fn_name not in ("cosine", "dot"):
            raise SettingValueError(
                key,
                f"{name}: expected a model of cosine or inner products, got one of "
                f"{model.similarity_fn_name}",
                "set {} to another model",
            )
        if _transformer(model) is not None:
            model[0].to(self._dtype)
            model[0].register_forward_hook(_to_float32)
        return model

    def _encode(
        self, model: SentenceTransformer, encode: Any, texts: list[str], max_tokens: int
    ) -> np.ndarray:
        with self._lock:
            if _transformer(model) is not None:
                model.max_seq_length = max_tokens
            vectors_ND = encode(
                texts,
                batch_size=self._settings.batch_size,  # it sorts the texts by length
                show_progress_bar=False,
                convert_to_numpy=True,
                normalize_embeddings=model.similarity_fn_name == "cosine",
            )
        if not texts:
            return np.empty((0, model.get_embedding_dimension() or 0), np.float32)
        return np.ascontiguousarray(vectors_ND, dtype=np.float32)


def _transformer(model: SentenceTransformer) -> Any:
    """The transformer of a model; None for a model of static embeddings, which has none."""
    return getattr(model[0], "auto_model", None)


def _check_limit(model: SentenceTransformer, limit: int, name: str) -> None:
    if (transformer := _transformer(model)) is not None:
        check_positions(limit, positions(transformer), name)
        check_special_tokens(limit, model.tokenizer, name)


def _to_float32(module: Any, inputs: Any, features: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value.float() if torch.is_tensor(value) and value.is_floating_point() else value
        for name, value in features.items()
    }
