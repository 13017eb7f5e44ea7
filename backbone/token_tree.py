"""Many token sequences as one tree, so that a shared beginning is computed once.

The instances of a passage begin alike: with the same instructions, or with the passage itself. In
the tree each shared prefix is one path. One forward pass reads the whole tree as a single row: each
token attends only to its ancestors, and its position is its depth.

Shapes: N trees, T nodes of the largest tree.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from plumbing.batches import pad


class TokenTree:
    """A tree of tokens; every node comes after its parent."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.parents: list[int] = []
        self.depths: list[int] = []
        self._children: dict[tuple[int, int], int] = {}

    def __len__(self) -> int:
        return len(self.ids)

    def add(self, sequence: Sequence[int]) -> list[int]:
        """Add a sequence of tokens; returns the node of each token."""
        path: list[int] = []
        node = -1
        for depth, token in enumerate(sequence):
            child = self._children.setdefault((node, token), len(self.ids))
            if child == len(self.ids):
                self.ids.append(token)
                self.parents.append(node)
                self.depths.append(depth)
            path.append(child)
            node = child
        return path

    def lacking(self, sequence: Sequence[int]) -> int:
        """How many nodes `add` would add for a sequence of tokens."""
        node = -1
        for depth, token in enumerate(sequence):
            found = self._children.get((node, token))
            if found is None:
                return len(sequence) - depth
            node = found
        return 0

    def ancestors(self) -> Tensor:
        """Bool ``[T, T]``: true where the column's node is the row's node or an ancestor of it."""
        above = torch.eye(len(self), dtype=torch.bool).numpy()
        for node, parent in enumerate(self.parents):
            if parent >= 0:
                above[node] |= above[parent]
        return torch.from_numpy(above)


def pack_trees(trees: Sequence[TokenTree]) -> tuple[Tensor, Tensor, Tensor]:
    """Make a batch of trees, one tree in each row, padded on the right.

    Returns:
        Token ids and positions, both ``[N, T]``, and which node attends to which, bool
        ``[N, T, T]``. Padding attends to itself alone, so that no softmax is empty.
    """
    input_ids, _ = pad([tree.ids for tree in trees], 0)
    positions, _ = pad([tree.depths for tree in trees], 0)
    attends = torch.eye(input_ids.shape[1], dtype=torch.bool).repeat(len(trees), 1, 1)
    for row, tree in enumerate(trees):
        attends[row, : len(tree), : len(tree)] = tree.ancestors()
    return input_ids, positions, attends
