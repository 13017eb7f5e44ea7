"""DPR's encoders: BERT for questions and BERT for passages (Karpukhin et al. 2020, sec. 3.1).

Shapes: N texts, D dimensions, B texts in a batch, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch

from plumbing.batches import by_length, pad
from plumbing.mounts import SettingValueError
from plumbing.quiet import without_loading_bar
from retrieval.encoders.model_folder import loading, model_folder
from retrieval.encoders.positions import check_positions, check_special_tokens, positions
from retrieval.encoders.pretrained import PretrainedEncoder, PretrainedSettings
from retrieval.passage import Passage


@dataclass(frozen=True)
class DPRSettings(PretrainedSettings):
    """Settings of a `DPREncoder`, which needs a model for questions as well.

    Raises:
        SettingValueError: If there is none, or a value is mistyped or impossible.
    """

    kind: ClassVar[str] = "dpr"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.question_model is None:
            raise SettingValueError(
                "question_model", "a DPR encoder needs a model for questions, got null"
            )

    def load(self, device: str | None = None) -> DPREncoder:
        """Make the encoder; see `PretrainedSettings.load`."""
        return DPREncoder(self, device or self.device)


class DPREncoder(PretrainedEncoder):
    """transformers' DPR encoders behind the interface `retrieval.encoders.encoder.Encoder`.

    The title of a passage is the first segment and the text is the second. A passage without a
    title is a single segment, as in DPR's own code. The vector is that of the [CLS] token and is
    not normalised, so that scores are plain inner products.

    Args:
        settings: The models, and how they run.
        device: Where the encoder runs.
    """

    def encode_questions(self, questions: Sequence[str]) -> np.ndarray:
        """Encode questions: float32 ``[N, D]``."""
        model, tokenizer = self._question_model
        limit = self._settings.max_question_tokens
        check_positions(limit, positions(model), "max_question_tokens")
        check_special_tokens(limit, tokenizer, "max_question_tokens")
        texts = [(question, None) for question in questions]
        return self._encode(model, tokenizer, texts, limit)

    def encode_passages(self, passages: Sequence[Passage]) -> np.ndarray:
        """Encode passages: float32 ``[N, D]``."""
        model, tokenizer = self._passage_model
        limit = self._settings.max_passage_tokens
        check_positions(limit, positions(model), "max_passage_tokens")
        check_special_tokens(limit, tokenizer, "max_passage_tokens", pair=True)
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
            raise SettingValueError(
                key,
                f"{folder}: expected the weights of a {kind.__name__}, but "
                f"{len(report['missing_keys'])} are missing",
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
        lengths = [len(ids) for ids, _ in rows]
        for chosen in by_length(lengths, max_rows=self._settings.batch_size, longest_first=True):
            ids_BT, mask_BT = pad(
                [rows[n][0] for n in chosen], tokenizer.pad_token_id, device=self._device
            )
            segments_BT, _ = pad([rows[n][1] for n in chosen], 0, device=self._device)
            batch = {
                "input_ids": ids_BT,
                "token_type_ids": segments_BT,
                "attention_mask": mask_BT,
            }
            vectors_ND[chosen] = (
                model(**batch, return_dict=True).pooler_output.float().cpu().numpy()
            )
        return vectors_ND


def _tokenize(
    tokenizer: Any, texts: Sequence[tuple[str, str | None]], max_tokens: int
) -> list[tuple[list[int], list[int]]]:
    """Make the token ids and the segment ids of each text."""
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
