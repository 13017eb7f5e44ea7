"""One batch that is being decoded: its KV cache, and the experts that act in each of its rows.

Shapes: B rows, T prompt tokens, N new tokens read at once, A answer tokens, P positions, D d_model,
V vocabulary.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from backbone.decoding import back_to_prompt
from backbone.final_ffn import FinalFFN, Residual, keep_residual
from backbone.kv_cache import make_cache
from backbone.tokens import decode, encode_answer, known_token
from dmoe.decoding.router import RoutingRequest, last_tokens
from dmoe.decoding.steps import Routing, Step
from dmoe.decoding.trigger import NewToken, token_uncertainty
from plumbing.batches import pad
from qa.acting import LastRead
from retrieval.retriever import Hit


@dataclass(frozen=True, slots=True)
class _Settled:
    """The logits of a position, after the rows that triggered were decoded again."""

    logits_BV: Tensor
    uncertainty: list[float]
    routed: dict[int, tuple[Hit, ...]]


class Session:
    """Decodes one batch greedily, or scores given answers, with experts routed on the way.

    The KV cache is never recomputed. The residual stream of the last position is kept, and at a
    trigger only the final FFN, the norm and the head read it once more.

    Args:
        final: The final FFN of the frozen model. Nothing is left on the model between two steps.
        routing: How experts are chosen.
        prompt_ids: ``[B, T]``, left-padded.
        prompt_mask: ``[B, T]``, 0 at padding.
        requests: What is asked of the router for each row. Its query is the text that the query at
            a trigger begins with, such as the question.
    """

    def __init__(
        self,
        final: FinalFFN,
        routing: Routing,
        prompt_ids: Tensor,
        prompt_mask: Tensor,
        requests: Sequence[RoutingRequest],
    ) -> None:
        self._backbone = final.backbone
        self._routing = routing
        self._prompt = prompt_ids, prompt_mask
        self._padded = not bool(prompt_mask.all())
        self._requests = requests
        self._final = final
        self._residual = Residual()
        self.cache: Any = None
        self._forget()

    def _forget(self) -> None:
        """Return to the state before the first new token."""
        rows = len(self._requests)
        self._active = self._routing.begin(self._final, rows)
        self._new: list[list[int]] = [[] for _ in range(rows)]
        self._tokens = self._prompt[0]  # what is in the cache, or is to be read

    @torch.inference_mode()
    def stream(self, max_new_tokens: int, stop_ids: Collection[int]) -> Iterator[Step]:
        """Decode each row greedily until a stop token, which is yielded, or until the last step.

        Args:
            max_new_tokens: The most tokens of a row.
            stop_ids: Tokens that end a row.

        Yields:
            The tokens of all unfinished rows, position by position.
        """
        self._forget()
        self.cache = make_cache(self._backbone.model)
        ids_BN, mask = self._prompt
        running = list(range(len(self._requests)))
        for position in range(max_new_tokens):
            hidden_BPD = self._read(ids_BN, mask)
            settled = self._settle(self._logits(hidden_BPD[:, 0]), running, 0)
            token_B = settled.logits_BV.max(-1).indices  # in bfloat16, argmax takes 4 times as long
            tokens, active = token_B.tolist(), self._active.ids
            for row in running:
                self._new[row].append(tokens[row])
                yield self._step(row, position, settled, active[row])
            running = [row for row in running if tokens[row] not in stop_ids]
            if not running:
                return
            ids_BN = token_B[:, None]  # rows that have ended go on, but are not yielded
            mask = torch.cat([mask, mask.new_ones(len(tokens), 1)], 1)

    @torch.inference_mode()
    def score(self, answers: Sequence[str]) -> list[float]:
        """Score given answers after the prompts, under the model that routes as it decodes.

        At each token of an answer the same happens as while decoding: its uncertainty may trigger,
        and the query holds the tokens of the answer before it. All tokens pass the backbone at
        once, and only what follows the final attention runs token by token.

        Args:
            answers: One answer for each row.

        Returns:
            The mean negative log-likelihood of each answer over its tokens and the end of sequence,
            in nats.
        """
        self._forget()
        rows = [encode_answer(self._backbone.tokenizer, answer) for answer in answers]
        labels_BA, mask_BA = pad(rows, 0, device=self._prompt[0].device)
        hidden_BAD = self._read_answers(labels_BA, mask_BA)
        total_B = torch.zeros(len(rows), device=labels_BA.device)
        for t in range(labels_BA.shape[1]):
            running = [row for row, ids in enumerate(rows) if t < len(ids)]
            hidden_BD = hidden_BAD[:, t]  # of no expert
            if active := [row for row in running if self._active.ids[row]]:
                index = torch.tensor(active, device=labels_BA.device)
                hidden_BD[index] = self._under_experts(index, t)
            logits_BV = self._settle(self._logits(hidden_BD), running, t).logits_BV
            nll_B = functional.cross_entropy(logits_BV.float(), labels_BA[:, t], reduction="none")
            total_B += nll_B * mask_BA[:, t]
            for row in running:
                self._new[row].append(rows[row][t])
        return (total_B / mask_BA.sum(1)).tolist()

    def _settle(self, logits_BV: Tensor, running: list[int], position: int) -> _Settled:
        """Trigger, route, and decode those rows again whose experts changed (eq. 4-6)."""
        uncertainty = token_uncertainty(logits_BV).tolist()
        tokens = [NewToken(len(self._new[row]), self._requests[row].query) for row in running]
        fires = self._routing.trigger.fires([uncertainty[row] for row in running], tokens)
        fired = [row for row, fire in zip(running, fires, strict=True) if fire]
        if not fired:
            return _Settled(logits_BV, uncertainty, {})
        requests = [self._request(row) for row in fired]
        hits = self._routing.router.route(requests, self._routing.experts)
        ids = [[hit.passage_id for hit in row_hits] for row_hits in hits]
        weights = [self._routing.weigh(row_hits) for row_hits in hits]
        self._redecode(logits_BV, self._active.swap(fired, ids, weights), position)
        routed = {row: tuple(row_hits) for row, row_hits in zip(fired, hits, strict=True)}
        return _Settled(logits_BV, uncertainty, routed)

    def _redecode(self, logits_BV: Tensor, rows: list[int], position: int) -> None:
        """Replace the logits of some rows by the logits under the experts that act there now."""
        if rows:
            index = torch.tensor(rows, device=logits_BV.device)
            logits_BV[index] = self._logits(self._under_experts(index, position))

    def _under_experts(self, rows_b: Tensor, position: int) -> Tensor:
        """Compute the final hidden states ``[b, D]`` of some rows, under their experts of now."""
        with self._active.attached(rows_b, position):
            return self._final.hidden(self._residual.hidden_BPD[rows_b, position])

    def _request(self, row: int) -> RoutingRequest:
        """Make the query of eq. 5: the task input and the text before the token that triggered."""
        tokenizer = self._backbone.tokenizer
        task, ids = self._requests[row].query, self._new[row]
        new = decode(tokenizer, ids)
        # SentencePiece's tokenizers decode without the space before the first word.
        tokens = (token for id in ids if (token := known_token(tokenizer, id)) is not None)
        begins_word = new and next(tokens).startswith("▁")
        if begins_word and not (new[0].isspace() or task[-1:].isspace()):
            task += " "
        query = last_tokens(tokenizer, task + new, self._routing.max_query_tokens)
        return replace(self._requests[row], query=query)

    def _read(self, ids_BN: Tensor, mask: Tensor, positions: int = 1) -> Tensor:
        """Compute final hidden states ``[B, P, D]`` of the last positions; the cache grows by N."""
        start = mask.shape[1] - ids_BN.shape[1]
        places: dict[str, Tensor] = {}
        if self._padded:  # without padding the model's own positions are the same, and cost nothing
            positions_BN = (mask.cumsum(1) - 1).clamp(min=0)[:, start:]
            places = {"attention_mask": mask, "position_ids": positions_BN}
        self._tokens = torch.cat([self._tokens[:, :start], ids_BN], 1)
        with keep_residual(self._final, positions) as self._residual:
            read = LastRead(self._tokens, mask, positions, self._residual)
            with self._active.watching(read), self._active.attached():
                output = self._backbone.decoder(
                    input_ids=ids_BN, past_key_values=self.cache, use_cache=True, **places
                )
        self.cache = output.past_key_values
        return output.last_hidden_state[:, -positions:]

    def _read_answers(self, labels_BA: Tensor, mask_BA: Tensor) -> Tensor:
        """Compute the hidden states ``[B, A, D]`` that predict the answers, with no expert active.

        The cache is cut back to the prompt, whose last token predicts the first label.
        """
        prompt_ids, prompt_mask = self._prompt
        start, self.cache = back_to_prompt(self.cache, prompt_ids.shape[1])
        ids = torch.cat([prompt_ids[:, start:], labels_BA[:, :-1]], 1)
        mask = torch.cat([prompt_mask, mask_BA[:, :-1]], 1)
        return self._read(ids, mask, positions=labels_BA.shape[1])

    def _logits(self, hidden_BD: Tensor) -> Tensor:
        return self._backbone.logits(hidden_BD)

    def _step(self, row: int, position: int, settled: _Settled, active: tuple[str, ...]) -> Step:
        token_id = self._new[row][-1]
        routed = settled.routed.get(row, ())
        return Step(
            row=row,
            position=position,
            token_id=token_id,
            token=decode(self._backbone.tokenizer, [token_id], skip_special_tokens=False),
            uncertainty=settled.uncertainty[row],
            triggered=row in settled.routed,
            routed=routed,
            weights=tuple(self._routing.weigh(routed)),
            active=active,
        )
