"""The rerankers: those that were trained here, and published ones through FlagEmbedding."""

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
from retrieval.encoders.positions import check_positions, positions
from retrieval.passage import Passage, passage_text
from retrieval.rerank.decoder import DecoderCrossEncoder
from retrieval.rerank.folder import load_cross_encoder

_FORMAT = 1  # version of the way that a pair is scored; part of the fingerprints
_PAIRS_AT_ONCE = 4096  # pairs that are tokenised and sorted by length together; bounds the memory


def no_reranker() -> None:
    """Return None, which keeps the order of the retriever (``reranker=none``)."""


class TrainedReranker:
    """A reranker from a folder that ``scripts/train_reranker.py`` wrote; a `Reranker`.

    Args:
        path: The folder.
        device: "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1", …
        dtype: "float32", "bfloat16", "float16", or "auto", which means bfloat16 if the device can
            multiply it.
        tokens_at_once: The largest number of padded tokens in one run of the model. It changes only
            the speed.
        attention: transformers' ``attn_implementation``. It changes only the speed.

    Raises:
        RerankerError: If the folder contains no reranker.
        FolderError: If a file is damaged.
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
        """One raw score for each pair, in the order of the pairs."""
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
    """A published reranker, which FlagEmbedding runs; a `Reranker`.

    A decoder whose tokenizer has no padding token is run by `DecoderCrossEncoder`, which gives the
    same scores, because FlagEmbedding cannot pad then.

    Args:
        name: A hub id, such as "BAAI/bge-reranker-v2-gemma" or "BAAI/bge-reranker-v2-m3", or a
            folder.
        kind: "decoder" (the score is the raw logit of "Yes") or "encoder" (the score is the raw
            output of the head).
        device: "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1", …
        dtype: For a decoder "auto", "float32" or "bfloat16". For an encoder, "float32" is used as
            it is, and any other value lets FlagEmbedding compute in float16 on a GPU. On the CPU,
            an encoder always computes in float32.
        max_tokens: The largest number of tokens of a question and a passage together. A passage
            that is too long is cut.
        batch_size: The number of pairs that are scored at once. A decoder keeps the logits of every
            token in memory: 0.5 MB for each token in bfloat16 with Gemma's vocabulary of 256,000.
        revision: A branch, tag or commit on the hub.

    Raises:
        ValueError: If there is no such model, if a setting is unknown or out of range, or if
            ``max_tokens`` is more than the model can read.
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
        """One raw score for each pair, in the order of the pairs."""
        if not pairs:  # FlagEmbedding fails without a first pair
            return []
        texts = [(question, passage_text(passage)) for question, passage in pairs]
        return [float(score) for score in self._model.compute_score(texts)]


def _flag_model(
    folder: Path, kind: str, device: torch.device, dtype: torch.dtype, settings: dict[str, Any]
) -> Any:
    from FlagEmbedding import FlagLLMReranker, FlagReranker

    given = {**settings, "devices": str(device)}
    max_tokens = settings["max_length"]
    if kind == "encoder":
        flag = FlagReranker(str(folder), use_fp16=dtype != torch.float32, **given)
        check_positions(max_tokens, positions(flag.model), "max_tokens")
        return flag
    flag = FlagLLMReranker(str(folder), use_bf16=dtype == torch.bfloat16, **given)
    ours = DecoderCrossEncoder(flag.model, flag.tokenizer, max_tokens)  # it checks the limit
    return flag if flag.tokenizer.pad_token is not None else _Ours(ours.to(device).eval())


class _Ours:
    """Our own scorer in place of FlagEmbedding's, which needs a padding token."""

    def __init__(self, model: DecoderCrossEncoder) -> None:
        self._model = model

    @torch.inference_mode()
    def compute_score(self, texts: Sequence[tuple[str, str]]) -> list[float]:
        scores: list[float] = self._model(self._model.tokenize(texts)).tolist()
        return scores
