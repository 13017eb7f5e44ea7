"""Rerankers that score: those that were trained here, and published ones through FlagEmbedding."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from plumbing.devices import pick_device, pick_dtype
from plumbing.mounts import SettingValueError
from plumbing.progress import progress
from plumbing.settings import typed
from plumbing.storage.hashing import digest
from retrieval.encoders.model_folder import folder_fingerprint, model_folder
from retrieval.passage import Passage, passage_text
from retrieval.rerank.folder import load_cross_encoder

_FORMAT = 1  # of what makes a score of a pair: part of the fingerprints
_PAIRS_AT_ONCE = 4096  # tokenised and sorted by length together: what bounds memory


def no_reranker() -> None:
    """None: the order of the retriever stands (``reranker=none``)."""


class TrainedReranker:
    """A reranker out of a folder that ``scripts/train_reranker.py`` wrote; a `Reranker`.

    Args:
        path: The folder.
        device: "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1", …
        dtype: "auto" (bfloat16 where the device multiplies it), "float32", "bfloat16" or "float16".
        tokens_at_once: Padded tokens of one run of the model; changes the speed only.
        attention: transformers' ``attn_implementation``; changes the speed only.

    Raises:
        RerankerError: If the folder holds none.
        IndexFolderError: If a file is damaged.
        ValueError: If a setting is mistyped or unknown.
    """

    @typed
    def __init__(
        self,
        path: str | Path,
        device: str = "auto",
        dtype: str = "auto",
        tokens_at_once: int = 8192,
        attention: str = "sdpa",
    ) -> None:
        where = pick_device(device)
        number = pick_dtype(dtype, where)
        model, manifest = load_cross_encoder(Path(path), number, tokens_at_once, attention)
        self._model = model.to(where)
        self._fingerprint = digest({"format": _FORMAT, "manifest": manifest, "dtype": str(number)})

    @property
    def fingerprint(self) -> str:
        """Hash of the files' checksums, the settings and the dtype."""
        return self._fingerprint

    @torch.inference_mode()
    def score(self, pairs: Sequence[tuple[str, Passage]]) -> list[float]:
        """One raw score a pair, in their order."""
        texts = [(question, passage_text(passage)) for question, passage in pairs]
        parts = range(0, len(texts), _PAIRS_AT_ONCE)
        scores: list[float] = []
        # One part alone is done at once, and is no reason for a bar.
        starts = progress(parts, "Scoring pairs") if len(parts) > 1 else iter(parts)
        for first in starts:
            tokenized = self._model.tokenize(texts[first : first + _PAIRS_AT_ONCE])
            scores += self._model(tokenized).tolist()
        return scores


class FlagEmbeddingReranker:
    """A published reranker, scored by FlagEmbedding; a `Reranker`.

    Args:
        name: A hub id, such as "BAAI/bge-reranker-v2-gemma" or "BAAI/bge-reranker-v2-m3", or a
            folder.
        kind: "decoder" (raw logit of "Yes") or "encoder" (raw output of the head).
        device: "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1", …
        dtype: Of a decoder "auto", "float32" or "bfloat16"; of an encoder FlagEmbedding computes in
            float16 on a GPU unless it is "float32", and always in float32 on the CPU.
        max_tokens: Of question and passage; longer passages are cut.
        batch_size: Pairs at once. A decoder's logits of every token and word are in memory:
            0.5 MB a token in bfloat16 for Gemma's 256,000 words.
        revision: Branch, tag or commit on the hub.

    Raises:
        ValueError: If there is no such model, or a setting is unknown or out of range.
    """

    @typed
    def __init__(
        self,
        name: str,
        kind: str,
        device: str = "auto",
        dtype: str = "auto",
        max_tokens: int = 512,
        batch_size: int = 16,
        revision: str | None = None,
    ) -> None:
        if kind not in ("decoder", "encoder"):
            raise SettingValueError("kind", f"kind must be decoder or encoder, got {kind!r}")
        if batch_size < 1:
            raise SettingValueError("batch_size", f"batch_size must be positive, got {batch_size}")
        if max_tokens < 16:
            raise SettingValueError(
                "max_tokens", f"max_tokens must be at least 16, got {max_tokens}"
            )
        where = pick_device(device)
        number = pick_dtype(dtype, where)
        folder = model_folder(name, revision)
        settings = {"max_length": max_tokens, "batch_size": batch_size, "normalize": False}
        self._model = _flag_model(folder, kind, where, number, settings)
        self._fingerprint = digest(
            {
                "format": _FORMAT,
                "weights": folder_fingerprint(folder),
                "kind": kind,
                "dtype": str(number),
                "max_tokens": max_tokens,
                "FlagEmbedding": importlib.metadata.version("FlagEmbedding"),
            }
        )

    @property
    def fingerprint(self) -> str:
        """Hash of the model's files and the settings."""
        return self._fingerprint

    def score(self, pairs: Sequence[tuple[str, Passage]]) -> list[float]:
        """One raw score a pair, in their order."""
        if not pairs:  # FlagEmbedding looks at the first one
            return []
        texts = [(question, passage_text(passage)) for question, passage in pairs]
        return [float(score) for score in self._model.compute_score(texts)]


def _flag_model(
    folder: Path, kind: str, device: torch.device, dtype: torch.dtype, settings: dict[str, Any]
) -> Any:
    from FlagEmbedding import FlagLLMReranker, FlagReranker

    settings = {**settings, "devices": str(device)}
    if kind == "decoder":
        return FlagLLMReranker(str(folder), use_bf16=dtype == torch.bfloat16, **settings)
    return FlagReranker(str(folder), use_fp16=dtype != torch.float32, **settings)
