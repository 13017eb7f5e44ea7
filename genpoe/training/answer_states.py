"""What a training needs of the questions if the experts stand beside the last FFN.

Nothing behind the last attention mixes positions, and nothing below the last FFN depends on an
expert. So the residual streams at the positions that predict an answer are all that the model has
to compute, once for all epochs; with them are kept the earlier states that the experts look at.
`genpoe.training.frozen_states` keeps every position instead, for experts in any layer.

Shapes: N questions, T tokens, L tokens without the last one, A answer positions, D d_model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from backbone.final_ffn import FinalFFN
from backbone.likelihood import IGNORE
from backbone.split import Trunk
from backbone.token_tree import TokenTree
from genpoe.experts import Around
from genpoe.training.frozen_states import FrozenStates, Remaining, cached_states
from plumbing.storage.hashing import digest

STREAM = -1  # stands for the residual stream before the last FFN, beside the indices of layers
_TREE_TOKENS = 384  # nodes of one tree, in which questions share their beginnings
_TREES = 4  # trees in one forward pass


@dataclass(frozen=True)
class AtAnswers:
    """What is known of a batch's questions where their answers are predicted.

    The A positions are the last ones of each row; rows with shorter answers have zeros before.

    Attributes:
        stream_NAD: The residual stream before the last FFN.
        around: What the experts see.
        targets_NA: The token that each position predicts, -100 where none is scored.
    """

    stream_NAD: Tensor
    around: Around
    targets_NA: Tensor


class AnswerStates:
    """The residual streams and the earlier states at the answers of one split's questions.

    Args:
        final: The last FFN with its norms.
        layers: The layers whose input states are kept as well.
        questions: The token ids of each question's prompt, and of its answer.
        folder: The folder of all caches.
        progress: Wraps the list of batches, for a progress bar.

    Raises:
        FrozenStatesError: If the disk is too full, or if the cache is damaged.
    """

    def __init__(
        self,
        final: FinalFFN,
        layers: Sequence[int],
        questions: Sequence[tuple[Sequence[int], Sequence[int]]],
        folder: Path,
        progress: Callable[[Sequence[Any]], Any] = iter,
    ) -> None:
        backbone = final.backbone
        ids = [([*map(int, prompt)], [*map(int, answer)]) for prompt, answer in questions]
        decisive = [backbone.fingerprint, str(backbone.dtype), "answers", digest([ids])]
        sources = [STREAM, *layers]
        homes = [folder / digest([*decisive, source])[:32] for source in sources]
        # Each kind is kept by itself, so that another hypernetwork can use those that it shares.
        self._states = cached_states(
            homes,
            [len(answer) for _, answer in ids],
            backbone.d_model,
            backbone.dtype,
            lambda missing, remaining: _compute(
                final,
                {s: missing[h] for s, h in zip(sources, homes, strict=True) if h in missing},
                ids,
                remaining,
            ),
            progress,
        )

    def of(self, batch: dict[str, Any]) -> AtAnswers:
        """The states of a batch's questions, on the device of the batch."""
        ids_NL, mask_NL, targets_NA = answers_of(batch)
        stream, *earlier = (
            states.rows(batch["examples"], left=True).to(ids_NL.device) for states in self._states
        )
        return AtAnswers(stream, Around(ids_NL, mask_NL, tuple(earlier)), targets_NA)


def answers_of(batch: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """Align the questions of a batch at their ends, where the answers are.

    Args:
        batch: What `genpoe.training.collate.collate` makes.

    Returns:
        The token ids without the last one and their mask, both ``[N, L]`` and padded on the left,
        and the targets ``[N, A]`` of the last A positions, -100 where none is scored.
    """
    ids_NT, labels_NT = batch["input_ids"], batch["labels"]
    lengths_N1 = batch["attention_mask"].sum(1, keepdim=True)
    L = ids_NT.shape[1] - 1
    place_NL = torch.arange(L, device=ids_NT.device) - (L - (lengths_N1 - 1))
    mask_NL = place_NL >= 0
    place_NL = place_NL.clamp(min=0)
    targets_NL = labels_NT.gather(1, place_NL + 1).masked_fill(~mask_NL, IGNORE)
    A = int((targets_NL != IGNORE).sum(1).max())
    return ids_NT.gather(1, place_NL), mask_NL.long(), targets_NL[:, L - A :]


@torch.no_grad()
def read_answers(
    final: FinalFFN,
    layers: Sequence[int],
    questions: Sequence[tuple[list[int], list[int]]],
    remaining: Remaining,
) -> Iterator[list[tuple[int, dict[int, Tensor]]]]:
    """Read questions in passes that share their beginnings.

    Args:
        final: The last FFN with its norms.
        layers: The layers whose input states are wanted; `STREAM` stands for the residual stream
            before the last FFN.
        questions: The token ids of each question's prompt, and of its answer.
        remaining: Which of the passes remain.

    Yields:
        For each pass its questions: their indices, and of each layer the states ``[A, D]`` at the
        positions that predict the answer.
    """
    trunk, backbone = Trunk(final), final.backbone
    forest = _plant(questions)
    seen: dict[int, Tensor] = {}

    def note(layer: int) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            seen[layer] = args[0] if args else kwargs["hidden_states"]

        return hook

    handles = [
        backbone.layers[layer].register_forward_pre_hook(note(layer), with_kwargs=True)
        for layer in layers
        if layer != STREAM
    ]
    try:
        for first in remaining(range(0, len(forest), _TREES)):
            trees = forest[first : first + _TREES]
            seen[STREAM] = trunk.residual([tree for tree, _ in trees])
            yield [
                (index, {layer: seen[layer][row, nodes] for layer in layers})
                for row, (_, places) in enumerate(trees)
                for index, nodes in places
            ]
    finally:
        for handle in handles:
            handle.remove()


def _compute(
    final: FinalFFN,
    states: dict[int, FrozenStates],
    questions: Sequence[tuple[list[int], list[int]]],
    remaining: Remaining,
) -> None:
    """Write the states of each source: of a layer's input, or of the `STREAM`."""
    for batch in read_answers(final, list(states), questions, remaining):
        for index, found in batch:
            for source, kept in states.items():
                kept.write(index, found[source])


def _plant(
    questions: Sequence[tuple[list[int], list[int]]],
) -> list[tuple[TokenTree, list[tuple[int, list[int]]]]]:
    """Trees of questions that share their beginnings, and the nodes that predict each answer."""
    forest: list[tuple[TokenTree, list[tuple[int, list[int]]]]] = []
    # Sorted, those that begin alike are in the same tree.
    for index, (prompt, answer) in sorted(enumerate(questions), key=lambda pair: pair[1]):
        read = [*prompt, *answer[:-1]]
        if not forest or len(forest[-1][0]) + forest[-1][0].lacking(read) > _TREE_TOKENS:
            forest.append((TokenTree(), []))
        tree, places = forest[-1]
        nodes = tree.add(read)
        places.append((index, nodes[len(prompt) - 1 :]))
    return forest
