"""Noise of the same size as what an expert adds to an FFN's output: the control for what it says.

At every position the change of the FFN's output keeps its size exactly, and gets a random
direction. So a gain that is left with noise comes from the size of the change, or from where it
acts.

Noise is matched in the output, because a random expert whose weights have the same norm moves the
output far less: a trained expert reads what the FFN's input has, and random weights do not.

Shapes: B rows, T tokens, D d_model.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from plumbing.storage.hashing import short_hash


class RandomTurns:
    """Turns the change of each row by a random rotation of its own, which keeps every norm.

    The rotation shuffles the entries of the change and draws their signs. It depends on the name of
    the row and the seed alone, so neither on the batch nor on the position.

    Args:
        names: The name of each of B rows, such as the passages whose experts act there.
        width: D.
        seed: Another seed draws other rotations.
        device: Where the changes are.
    """

    def __init__(
        self, names: Sequence[str], width: int, seed: int, device: torch.device | str = "cpu"
    ) -> None:
        drawn = {name: _draw(name, width, seed) for name in dict.fromkeys(names)}
        order, sign = zip(*(drawn[name] for name in names), strict=True)
        self._order_BD, self._sign_BD = (torch.stack(each).to(device) for each in (order, sign))

    def __call__(self, change: Tensor) -> Tensor:
        """Turn the changes ``[N, T, D]`` or ``[N, D]`` of N rows.

        N is B or a multiple of it; then each rotation serves the same number of consecutive rows.
        """
        repeats = len(change) // len(self._order_BD)
        order, sign = (
            each.repeat_interleave(repeats, 0) for each in (self._order_BD, self._sign_BD)
        )
        if change.ndim == 3:
            order, sign = order[:, None], sign[:, None]
        return change.gather(-1, order.expand_as(change)) * sign.to(change.dtype)


def _draw(name: str, width: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draw an order of the entries and the sign of each."""
    number = int.from_bytes(short_hash(f"noise {seed} {name}"), "big", signed=True)
    generator = torch.Generator().manual_seed(number)
    sign = torch.randint(0, 2, (width,), generator=generator) * 2 - 1
    return torch.randperm(width, generator=generator), sign
