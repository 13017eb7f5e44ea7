"""SGPT's encoder: a decoder whose states are averaged by position (Muennighoff 2022, SGPT-BE).

DMoE's dense router is SGPT (appendix A.4, Table 7). A decoder's state knows of the tokens before it
alone, so later states know more and count more: the state of token i, from 1 on, has the weight i.
Questions stand in square brackets and passages in braces, so that the model knows which is which.

Shapes: N texts, D dimensions, B texts in a batch, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from plumbing.batches import by_length, pad
from plumbing.mounts import SettingValueError
from plumbing.quiet import without_loading_bar
from retrieval.encoders.model_folder import loading, model_folder
from retrieval.encoders.positions import check_positions, positions
from retrieval.encoders.pretrained import PretrainedEncoder, PretrainedSettings
from retrieval.passage import Passage

QUESTION, PASSAGE = "[]", "{}"  # the tokens before and behind a text


@dataclass(frozen=True)
class SGPTSettings(PretrainedSettings):
    """Settings of an `SGPTEncoder`.

    Raises:
        SettingValueError: If a value is mistyped or impossible.
    """

    kind: ClassVar[str] = "sgpt"

    def load(self, device: str | None = None) -> SGPTEncoder:
        """Make the encoder; see `PretrainedSettings.load`."""
        return SGPTEncoder(self, device or self.device)


class SGPTEncoder(PretrainedEncoder):
    """A decoder with position-weighted pooling behind `retrieval.encoders.encoder.Encoder`.

    The model reads the title of a passage, a space, and the text, as its authors evaluate it. The
    brackets count as tokens, and are added after a long text has been cut, so that they always
    stand. Vectors have length 1, so that their inner product is the cosine.

    Args:
        settings: The model, and how it runs.
        device: Where the encoder runs.
    """

    def __init__(self, settings: PretrainedSettings, device: str) -> None:
        super().__init__(settings, device)
        self._loaded: dict[str, tuple[Any, Any]] = {}

    def encode_questions(self, questions: Sequence[str]) -> np.ndarray:
        """Encode questions: float32 ``[N, D]``."""
        settings = self._settings
        named = settings.question_model is not None
        name = settings.question_model or settings.passage_model
        loaded = self._load(name, "question_model" if named else "passage_model")
        return self._encode(loaded, questions, QUESTION, settings.max_question_tokens, "question")

    def encode_passages(self, passages: Sequence[Passage]) -> np.ndarray:
        """Encode passages: float32 ``[N, D]``."""
        texts = [f"{passage.title} {passage.text}".strip() for passage in passages]
        loaded = self._load(self._settings.passage_model, "passage_model")
        return self._encode(loaded, texts, PASSAGE, self._settings.max_passage_tokens, "passage")

    def _load(self, name: str, key: str) -> tuple[Any, Any]:
        """The model of this name and its tokenizer, which are read once."""
        if name in self._loaded:
            return self._loaded[name]
        from transformers import AutoModel, AutoTokenizer

        folder = model_folder(name, self._settings.revision)
        with loading(folder, "decoder of SGPT", key):
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            with without_loading_bar():
                model = AutoModel.from_pretrained(
                    folder, dtype=self._dtype, local_files_only=True, trust_remote_code=False
                )
        self._loaded[name] = model.to(self._device).eval(), tokenizer
        return self._loaded[name]

    @torch.inference_mode()
    def _encode(
        self, loaded: tuple[Any, Any], texts: Sequence[str], form: str, limit: int, what: str
    ) -> np.ndarray:
        model, tokenizer = loaded
        key = f"max_{what}_tokens"
        check_positions(limit, positions(model), key)
        if limit <= len(form):
            raise SettingValueError(
                key, f"{key} must be at least {len(form) + 1}, two for the brackets, got {limit}"
            )
        vectors_ND = np.empty((len(texts), model.config.hidden_size), np.float32)
        with self._lock:
            first, last = (tokenizer(sign, add_special_tokens=False)["input_ids"] for sign in form)
            room = limit - len(first) - len(last)
            rows = [
                [*first, *tokenizer(text, add_special_tokens=False)["input_ids"][:room], *last]
                for text in texts
            ]
        sizes = [len(row) for row in rows]
        for chosen in by_length(sizes, max_rows=self._settings.batch_size, longest_first=True):
            ids_BT, mask_BT = pad([rows[n] for n in chosen], 0, device=self._device)
            states_BTD = model(input_ids=ids_BT, attention_mask=mask_BT).last_hidden_state
            vectors_ND[chosen] = pooled(states_BTD.float(), mask_BT).cpu().numpy()
        return vectors_ND


def pooled(states_BTD: Tensor, mask_BT: Tensor) -> Tensor:
    """The position-weighted mean of the states, at length 1: ``[B, D]``.

    Args:
        states_BTD: The states of the final layer.
        mask_BT: 1 at tokens, 0 at padding, which is on the right.
    """
    places_T = torch.arange(1, mask_BT.shape[1] + 1, device=mask_BT.device)
    weights_BT = (mask_BT * places_T).to(states_BTD.dtype)
    mean_BD = torch.einsum("bt,btd->bd", weights_BT, states_BTD) / weights_BT.sum(1)[:, None]
    return functional.normalize(mean_BD, dim=-1)
