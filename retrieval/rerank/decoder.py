"""A decoder as a reranker: the score is the logit of "Yes" after a prompt.

This is how BAAI/bge-reranker-v2-gemma scores.

Shapes: N pairs, T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from plumbing.batches import pad
from retrieval.encoders.positions import check_positions, table_positions
from retrieval.rerank.cross_encoder import CrossEncoder, TokenizedPair

PROMPT = (  # the prompt that bge-reranker-v2-gemma was trained with
    "Given a query A and a passage B, determine whether the passage contains an answer to the "
    "query by providing a prediction of either 'Yes' or 'No'."
)


class DecoderCrossEncoder(CrossEncoder):
    """A causal language model that is asked if the passage answers the question.

    The model reads a line ``A: question``, a line ``B: passage``, and the prompt. The score is the
    raw logit of "Yes". ``max_tokens`` counts the tokens before the prompt, as in FlagEmbedding; the
    scores are those of FlagEmbedding.

    Args:
        model: As in `CrossEncoder`.
        tokenizer: As in `CrossEncoder`.
        max_tokens: As in `CrossEncoder`, without the prompt.
        tokens_at_once: As in `CrossEncoder`.
        origin: The name, revision and fingerprint of the frozen model, which are saved beside the
            adapter.

    Raises:
        ValueError: If a size is too small, or larger than the model can read.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        max_tokens: int = 256,
        tokens_at_once: int = 4096,
        origin: dict[str, str | None] | None = None,
    ) -> None:
        super().__init__(model, tokenizer, max_tokens, tokens_at_once)
        self.origin = origin or {}
        bos, pad = tokenizer.bos_token_id, tokenizer.pad_token_id
        self._before = [] if bos is None or bos == pad else [bos]
        self._line, self._prompt, yes = self._ids(["\n", PROMPT, "Yes"], max_tokens)
        self._yes = yes[0]
        room = table_positions(model)  # models without a table can read on behind their limit
        if room is not None:
            # As in FlagEmbedding, the prompt is not cut off the pair, and is then added to it; and
            # FlagEmbedding pads to a multiple of 8.
            beside = 2 * (len(self._line) + len(self._prompt))
            check_positions(max_tokens, room - room % 8 - beside, "max_tokens")

    def tokenize(self, pairs: Sequence[tuple[str, str]]) -> list[TokenizedPair]:
        """Tokenise pairs of a question and a passage's text (`CrossEncoder.tokenize`)."""
        questions = self._ids([f"A: {question}" for question, _ in pairs], self._question_limit())
        passages = self._ids([f"B: {passage}" for _, passage in pairs], self.max_tokens)
        longest = self.max_tokens + len(self._line) + len(self._prompt)
        tokenized = []
        for question, passage in zip(questions, passages, strict=True):
            first = [*self._before, *question, *self._line]
            passage = passage[: max(0, longest - len(first))]
            tokenized.append(
                TokenizedPair(
                    [*first, *passage, *self._line, *self._prompt],
                    (len(self._before), len(first) - len(self._line)),
                    (len(first), len(first) + len(passage)),
                )
            )
        return tokenized

    def run(self, pairs: Sequence[TokenizedPair]) -> Tensor:
        """Run the model on padded pairs, and return their scores ``[N]``."""
        # Padded on the left: the last position is every pair's own last, and the head of V outputs
        # runs there alone.
        value = self.tokenizer.pad_token_id or 0
        ids, mask = pad([pair.input_ids for pair in pairs], value, left=True)
        inputs = {"input_ids": ids, "attention_mask": mask}
        inputs["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
        inputs = {name: value.to(self.device) for name, value in inputs.items()}
        return self.model(**inputs, logits_to_keep=1, use_cache=False).logits[:, -1, self._yes]
