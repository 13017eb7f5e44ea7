"""DPR's encoders: BERT for questions and BERT for passages (Karpukhin et al. 2020, sec. 3.1).

Shapes: N texts, D dimensions, B texts of a batch, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from plumbing.quiet import without_loading_bar
from retrieval.encoders.model_folder import loading, model_folder
from retrieval.encoders.pretrained import PretrainedEncoder
from retrieval.encoders.settings import check_limit
from retrieval.passage import Passage


class DPREncoder(PretrainedEncoder):
    """transformers' DPR encoders behind the interface `retrieval.encoders.encoder.Encoder`.

    A passage's title is its first segment and its text the second; one without a title is a single
    segment, as in DPR's own code. The vector is that of the [CLS] token, as it is: scores are plain
    inner products.

    Args:
        settings: Of kind "dpr".
        device: Where it runs.
    """

    def encode_questions(self, questions: Sequence[str]) -> np.ndarray:
        """Vectors of questions, float32 ``[N, D]``."""
        model, tokenizer = self._question_model
        limit = self._settings.max_question_tokens
        check_limit(limit, model.config.max_position_embeddings, "max_question_tokens")
        texts = [(question, None) for question in questions]
        return self._encode(model, tokenizer, texts, limit)

    def encode_passages(self, passages: Sequence[Passage]) -> np.ndarray:
        """Vectors of passages, float32 ``[N, D]``."""
        model, tokenizer = self._passage_model
        limit = self._settings.max_passage_tokens
        check_limit(limit, model.config.max_position_embeddings, "max_passage_tokens")
        texts = [(p.title, p.text) if p.title else (p.text, None) for p in passages]
        return self._encode(model, tokenizer, texts, limit)

    @cached_property
    def _question_model(self) -> tuple[Any, Any]:
        from transformers import DPRQuestionEncoder

        return self._load(DPRQuestionEncoder, str(self._settings.question_model), "question_model")

    @cached_property
    def _passage_model(self) -> tuple[Any, Any]:
        from transformers import DPRContextEncoder

        return self._load(DPRContextEncoder, self._settings.passage_model, "passage_model")

    def _load(self, kind: Any, name: str, key: str) -> tuple[Any, Any]:
        from transformers import AutoTokenizer

        folder = model_folder(name, self._settings.revision)
        with loading(folder, kind.__name__, key):
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            with without_loading_bar():
                model, report = kind.from_pretrained(
                    folder, dtype=self._dtype, local_files_only=True, output_loading_info=True
                )
        if report["missing_keys"]:  # transformers would leave them random and only warn
            raise ValueError(
                f"{folder}: expected the weights of a {kind.__name__}, but "
                f"{len(report['missing_keys'])} are missing; set retriever.encoder.{key}"
            )
        return model.to(self._device).eval(), tokenizer

    @torch.inference_mode()
    def _encode(
        self, model: Any, tokenizer: Any, texts: Sequence[tuple[str, str | None]], max_tokens: int
    ) -> np.ndarray:
        vectors_ND = np.empty(
            (len(texts), model.config.projection_dim or model.config.hidden_size), np.float32
        )
        with self._lock:
            rows = _tokenize(tokenizer, texts, max_tokens)
        # The longest first: what does not fit into memory shows at once.
        order = sorted(range(len(rows)), key=lambda n: (-len(rows[n][0]), n))
        for start in range(0, len(order), self._settings.batch_size):
            chosen = order[start : start + self._settings.batch_size]
            batch = _pad([rows[n] for n in chosen], tokenizer.pad_token_id)
            batch = {name: tensor_BT.to(self._device) for name, tensor_BT in batch.items()}
            vectors_ND[chosen] = (
                model(**batch, return_dict=True).pooler_output.float().cpu().numpy()
            )
        return vectors_ND


def _tokenize(
    tokenizer: Any, texts: Sequence[tuple[str, str | None]], max_tokens: int
) -> list[tuple[list[int], list[int]]]:
    """Token ids and segment ids of each text."""
    rows: list[Any] = [None] * len(texts)
    for paired in (False, True):
        chosen = [n for n, (_, second) in enumerate(texts) if (second is not None) == paired]
        if not chosen:
            continue
        parts = zip(*(texts[n] for n in chosen), strict=True)
        columns = [list(part) for part in parts][: 2 if paired else 1]
        encoded = tokenizer(*columns, truncation=True, max_length=max_tokens)
        segments = encoded["token_type_ids"]
        for n, ids, types in zip(chosen, encoded["input_ids"], segments, strict=True):
            rows[n] = (ids, types)
    return rows


def _pad(rows: list[tuple[list[int], list[int]]], pad_id: int) -> dict[str, torch.Tensor]:
    def padded(lists: list[list[int]], value: int) -> torch.Tensor:
        return pad_sequence([torch.tensor(row) for row in lists], True, value)

    return {
        "input_ids": padded([ids for ids, _ in rows], pad_id),
        "token_type_ids": padded([types for _, types in rows], 0),
        "attention_mask": padded([[1] * len(ids) for ids, _ in rows], 0),
    }
