"""A teacher that has the passage in its prompt, and how far the hypernetwork is from it.

Context distillation: what the frozen backbone says with the passage in its prompt, the backbone
with the passage's expert is to say without. The teacher reads each question once, before the
training; of what it says, the most likely tokens at each position of the answer are kept.

Shapes: N questions, A answer positions of all questions together, V vocabulary, K tokens kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from backbone.decoding import check_room
from backbone.final_ffn import FinalFFN
from backbone.likelihood import AnswerLogits
from genpoe.training.answer_states import STREAM, read_answers
from genpoe.training.frozen_states import FrozenStates, Remaining, cached_states
from plumbing.storage.hashing import digest

_SMALLEST = 1e-6  # probability; what is left beside the K tokens may round to 0 or below


def top_k_divergence(logits_AV: Tensor, tokens_AK: Tensor, log_probs_AK: Tensor) -> Tensor:
    """The divergence of the student from the teacher at each position, in nats: ``[A]``.

    It is ``Σ_k p_k (log p_k − log q_k) + p_rest (log p_rest − log q_rest)``: the Kullback-Leibler
    divergence if all tokens but the K are taken as one. It is at most that of all tokens.

    Args:
        logits_AV: What the student says.
        tokens_AK: The teacher's most likely tokens.
        log_probs_AK: The logarithms of their probabilities p.
    """
    student_AK = logits_AV.log_softmax(-1).gather(1, tokens_AK)
    p_AK, q_AK = log_probs_AK.exp(), student_AK.exp()
    kept_A = (p_AK * (log_probs_AK - student_AK)).sum(1)
    p_A, q_A = ((1 - each.sum(1)).clamp(min=_SMALLEST) for each in (p_AK, q_AK))
    return kept_A + p_A * (p_A / q_A).log()


class Teacher:
    """What the frozen backbone says at the answers if it reads the passages in the prompts.

    It is kept beside the states at answers, and computed once, also if it is interrupted; see
    `genpoe.training.frozen_states.cached_states`.

    Args:
        final: The last FFN of the backbone, with its norms.
        questions: The token ids of each question's prompt, with the passages, and of its answer.
        top_k: K, how many tokens are kept at each position.
        folder: The folder of all caches.
        progress: Wraps the list of batches, for a progress bar.

    Raises:
        FrozenStatesError: If the disk is too full, or if the cache is damaged.
        ValueError: If a prompt is longer than the backbone can read.
    """

    def __init__(
        self,
        final: FinalFFN,
        questions: Sequence[tuple[Sequence[int], Sequence[int]]],
        top_k: int,
        folder: Path,
        progress: Callable[[Sequence[Any]], Any] = iter,
    ) -> None:
        backbone = final.backbone
        self._top_k = min(top_k, backbone.vocab_size)
        ids = [([*map(int, prompt)], [*map(int, answer)]) for prompt, answer in questions]
        check_room(backbone, max(len(prompt) + len(answer) for prompt, answer in ids), 0)
        decisive = [backbone.fingerprint, str(backbone.dtype), "teacher", self._top_k, digest(ids)]
        home = folder / digest(decisive)[:32]
        # Token ids below 2^24 are exact in float32.
        (self._said,) = cached_states(
            [home],
            [len(answer) for _, answer in ids],
            2 * self._top_k,
            torch.float32,
            lambda missing, remaining: self._compute(final, ids, missing[home], remaining),
            progress,
        )

    def _compute(
        self,
        final: FinalFFN,
        questions: Sequence[tuple[list[int], list[int]]],
        said: FrozenStates,
        remaining: Remaining,
    ) -> None:
        for batch in read_answers(final, [STREAM], questions, remaining):
            stream_AD = torch.cat([found[STREAM] for _, found in batch])
            with torch.no_grad():
                logits_AV = final.backbone.logits(final.hidden(stream_AD)).float()
                log_probs_AK, tokens_AK = logits_AV.log_softmax(-1).topk(self._top_k)
            both = torch.cat([log_probs_AK, tokens_AK.float()], 1)
            lengths = [len(found[STREAM]) for _, found in batch]
            for (index, _), part in zip(batch, both.split(lengths), strict=True):
                said.write(index, part)

    def divergence(self, examples_N: Tensor, student: AnswerLogits) -> Tensor:
        """The mean of `top_k_divergence` over each question's answer: ``[N]``.

        Args:
            examples_N: The indices of the questions.
            student: What the model with the experts says.
        """
        said_NA = self._said.rows(examples_N)
        device, counts_N = student.logits_AV.device, student.counts_N.cpu()
        inside_NA = torch.arange(said_NA.shape[1]) < counts_N[:, None]
        said_AK = said_NA[inside_NA].to(device)
        log_probs_AK, tokens_AK = said_AK[:, : self._top_k], said_AK[:, self._top_k :].long()
        return student.mean(top_k_divergence(student.logits_AV, tokens_AK, log_probs_AK))
