"""An encoder as a reranker, which scores with a classifier and, optionally, token similarities.

Shapes: N pairs, T tokens, D hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from plumbing.batches import pad
from plumbing.mounts import SettingValueError
from retrieval.encoders.positions import check_positions, positions
from retrieval.rerank.cross_encoder import CrossEncoder, TokenizedPair


class EncoderCrossEncoder(CrossEncoder):
    """A sequence classifier with one output, such as BERT's, XLM-R's or MiniLM's.

    The model reads ``[CLS] question [SEP] passage [SEP]``, with the special tokens that its
    tokenizer puts around and between two segments. The score is the output of the classifier plus
    ``interaction`` times the `token_interaction` of the last layer's states. With a sentence
    encoder, whose states are similar for tokens of similar meaning, this term ranks passages even
    before any training, while a new classifier has to learn everything.

    Args:
        model: As in `CrossEncoder`.
        tokenizer: As in `CrossEncoder`.
        max_tokens: As in `CrossEncoder`.
        tokens_at_once: As in `CrossEncoder`.
        interaction: The scale of the second term. With 0, the score is the classifier's output
            alone, as in published rerankers.

    Raises:
        ValueError: If a setting is out of range, or if the model has more than one output.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        max_tokens: int = 256,
        tokens_at_once: int = 4096,
        interaction: float = 0.0,
    ) -> None:
        super().__init__(model, tokenizer, max_tokens, tokens_at_once)
        if model.config.num_labels != 1:
            raise ValueError(
                f"a reranker has one output, this model has {model.config.num_labels}; load it "
                "with num_labels=1"
            )
        check_positions(max_tokens, positions(model), "max_tokens")
        if interaction < 0:
            raise SettingValueError(
                "interaction", f"interaction must be 0 or positive, got {interaction}"
            )
        self.interaction = interaction
        self._before, self._between, self._after = _frame(tokenizer)
        self._segments = getattr(model.config, "type_vocab_size", 1) > 1

    def tokenize(self, pairs: Sequence[tuple[str, str]]) -> list[TokenizedPair]:
        """Tokenise pairs of a question and a passage's text (`CrossEncoder.tokenize`)."""
        questions = self._ids([question for question, _ in pairs], self._question_limit())
        passages = self._ids([passage for _, passage in pairs], self.max_tokens)
        frame = len(self._before) + len(self._between) + len(self._after)
        tokenized = []
        for question, passage in zip(questions, passages, strict=True):
            passage = passage[: max(0, self.max_tokens - frame - len(question))]
            first = [*self._before, *question, *self._between]
            tokenized.append(
                TokenizedPair(
                    [*first, *passage, *self._after],
                    (len(self._before), len(self._before) + len(question)),
                    (len(first), len(first) + len(passage)),
                )
            )
        return tokenized

    def run(self, pairs: Sequence[TokenizedPair]) -> Tensor:
        """Run the model on padded pairs, and return their scores ``[N]``."""
        ids, mask = pad([pair.input_ids for pair in pairs], self.tokenizer.pad_token_id)
        inputs = {"input_ids": ids, "attention_mask": mask}
        if self._segments:
            starts = torch.tensor([[pair.passage[0]] for pair in pairs])
            inputs["token_type_ids"] = (torch.arange(ids.shape[1]) >= starts).long() * mask
        inputs = {name: value.to(self.device) for name, value in inputs.items()}
        if not self.interaction:
            return self.model(**inputs).logits[:, 0]
        output = self.model(**inputs, output_hidden_states=True)
        term = token_interaction(
            output.hidden_states[-1],
            _within([pair.question for pair in pairs], ids.shape[1]).to(self.device),
            _within([pair.passage for pair in pairs], ids.shape[1]).to(self.device),
        )
        return output.logits[:, 0].float() + self.interaction * term


def token_interaction(states_NTD: Tensor, question_NT: Tensor, passage_NT: Tensor) -> Tensor:
    """The mean, over the question's tokens, of the cosine with the passage's most similar token.

    This is the late interaction of ColBERT (Khattab and Zaharia 2020, eq. 3), but with a mean
    instead of a sum, and with states that have seen both texts.

    Args:
        states_NTD: The states of the encoder's last layer.
        question_NT: True for the tokens of the question.
        passage_NT: True for the tokens of the passage.

    Returns:
        One number from -1 to 1 for each pair, ``[N]``, in float32. It is -1 if the passage has no
        tokens, and 0 if the question has none.
    """
    with torch.autocast(states_NTD.device.type, enabled=False):  # a tenth of a percent of the work
        states = torch.nn.functional.normalize(states_NTD.float(), dim=-1)
        # The questions come first, so the rows after the longest one are not needed.
        width = int(question_NT.any(0).nonzero().max()) + 1 if question_NT.any() else 0
        cosines = states[:, :width] @ states.transpose(1, 2)
        best = cosines.masked_fill(~passage_NT[:, None], -1.0).amax(-1)
        question = question_NT[:, :width].float()
        return (best * question).sum(1) / question.sum(1).clamp(min=1)


def _within(spans: Sequence[tuple[int, int]], width: int) -> Tensor:
    """True for the positions inside each pair's span, ``[N, T]``."""
    places = torch.arange(width)
    first, last = torch.tensor(spans).T[..., None]
    return (places >= first) & (places < last)


def _frame(tokenizer: Any) -> tuple[list[int], list[int], list[int]]:
    """The special tokens before, between and after two segments, found by tokenising a sample."""
    first, second = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("a", "b"))
    whole = tokenizer("a", "b")["input_ids"]
    for start in range(len(whole)):
        if whole[start : start + len(first)] == first:
            middle = start + len(first)
            for end in range(middle, len(whole)):
                if whole[end : end + len(second)] == second:
                    return whole[:start], whole[middle:end], whole[end + len(second) :]
    raise ValueError(
        "the tokenizer does not put two segments one after the other; use a reranker whose "
        "tokenizer does"
    )
