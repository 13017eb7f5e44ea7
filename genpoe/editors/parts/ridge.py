"""Closed forms of updates, solved in float64.

Shapes: K ``[i, n]`` are n keys (what a map reads), R ``[o, n]`` the changes of its output that are
wanted for them, and the update is ``[o, i]``.
"""

from __future__ import annotations

import torch
from torch import Tensor

_RESIDUAL = 1e-8  # of a solution, relative


class SingularError(ValueError):
    """A system of equations has no one solution; the message says of what."""


def solve_positive(matrix: Tensor, right: Tensor, what: str) -> Tensor:
    """Solve ``matrix X = right`` for a symmetric positive definite matrix, in float64.

    Args:
        matrix: ``[n, n]``.
        right: ``[n, m]``.
        what: What the matrix is, for messages.

    Raises:
        SingularError: If the matrix is not positive definite, or if it is so nearly singular that
            the solution does not solve the system.
    """
    matrix, right = matrix.double(), right.double()
    factor, info = torch.linalg.cholesky_ex(matrix)
    if int(info) or not bool(factor.isfinite().all()):
        raise SingularError(
            f"{what} must be positive definite, got a singular matrix; compute the statistics "
            "from more text, or regularise more"
        )
    solution = torch.cholesky_solve(right, factor)
    error = torch.linalg.matrix_norm((matrix @ solution - right).detach())
    size = torch.linalg.matrix_norm(right.detach())
    if not float(error) <= _RESIDUAL * float(size):
        raise SingularError(
            f"{what} is so nearly singular that nothing solves it (relative error "
            f"{float(error / size):.1e}); compute the statistics from "
            "more text, or regularise more"
        )
    return solution


def ridge_update(keys: Tensor, values: Tensor, ridge: float | Tensor) -> Tensor:
    """``V U^T (U U^T + ridge I)^-1 = V (U^T U + ridge I)^-1 U^T``, the smaller of the two systems.

    It minimises ``|D U - V|^2 + ridge |D|^2``.

    Args:
        keys: U, ``[i, n]``.
        values: V, ``[o, n]``.
        ridge: The factor of the penalty; positive. Gradients reach it and the values.
    """
    keys, values = keys.double(), values.double()
    inputs, count = keys.shape
    if count < inputs:
        gram = keys.T @ keys + ridge * torch.eye(count).to(keys)
        return values @ solve_positive(gram, keys.T, "the keys' Gram matrix")
    gram = keys @ keys.T + ridge * torch.eye(inputs).to(keys)
    return solve_positive(gram, keys @ values.T, "the keys' second moment").T
