"""Changes of a backbone's weights that can be taken back bit for bit.

Before a weight is changed its previous bytes are kept, and undoing copies them into the same
storage. Subtracting what was added would not do: rounding leaves other bits behind.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from backbone.identity.weights import raw_bytes
from backbone.model import Backbone


def state_hash(backbone: Backbone) -> str:
    """SHA-256 over every byte of every parameter, with names, dtypes and shapes.

    It is computed anew each time. A fingerprint says what was loaded, and how that was changed.
    """
    return _hash(dict(backbone.model.named_parameters()))


class WeightEdits:
    """Changes of a backbone's weights, one commit after another, that can be taken back exactly.

    While any commit stands, the backbone has a fingerprint of its own, made of the original one
    and of the bytes of the weights that differ. Banks, checkpoints and caches of the original are
    therefore refused beside it, and its own are refused beside the original.

    Only one `WeightEdits` should write a backbone at a time.

    Args:
        backbone: The model whose weights change in place; modules and parameters stay the objects
            that they are.
    """

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        self._original = self._named = backbone.weights
        self._parameters: dict[str, nn.Parameter] = dict(backbone.model.named_parameters())
        self._previous: list[dict[str, Tensor]] = []
        self._unnamed: set[str] = set()  # written since the backbone was last named

    @property
    def commits(self) -> int:
        """How many commits stand now."""
        return len(self._previous)

    @torch.no_grad()
    def write(self, weights: Mapping[str, Tensor]) -> int:
        """Replace some parameters by new values, as one commit.

        Args:
            weights: The new value of each parameter, by its name in the model; it is rounded to
                the parameter's dtype. A tied head changes together with the embedding.

        Returns:
            The number of commits that stand now, for `rollback`.

        Raises:
            ValueError: If a name is unknown, a shape differs, or a value is not finite. Nothing
                has been changed then.
        """
        new = {name: self._checked(name, value) for name, value in weights.items()}
        self._previous.append({name: self._parameters[name].detach().clone() for name in new})
        self._unnamed |= new.keys()
        for name, value in new.items():
            self._parameters[name].copy_(value)
        self._name()
        return self.commits

    def _checked(self, name: str, value: Tensor) -> Tensor:
        if name not in self._parameters:
            raise ValueError(
                f"{self.backbone.name} has no parameter {name!r}; give a name of "
                "backbone.model.named_parameters()"
            )
        parameter = self._parameters[name]
        if value.shape != parameter.shape:
            raise ValueError(
                f"{name}: expected the shape {list(parameter.shape)}, got {list(value.shape)}"
            )
        rounded = value.detach().to(parameter)
        if not bool(rounded.isfinite().all()):
            raise ValueError(f"{name}: the new value is not finite in {parameter.dtype}")
        return rounded

    @torch.no_grad()
    def rollback(self, commits: int = 0) -> None:
        """Take back all commits but the first ``commits``: every bit is what it was then.

        Raises:
            ValueError: If fewer commits stand.
        """
        if not 0 <= commits <= self.commits:
            raise ValueError(f"commits must be in 0..{self.commits}, got {commits}")
        while self.commits > commits:
            self._unnamed |= self._previous[-1].keys()
            for name, value in self._previous[-1].items():
                self._parameters[name].copy_(value)
            self._previous.pop()  # only now: an interruption leaves a commit that can be taken back
        self._name()

    def previous(self, commits: int = 0) -> dict[str, Tensor]:
        """What the parameters were, that have changed since so many commits stood.

        Raises:
            ValueError: If fewer commits stand.
        """
        if not 0 <= commits <= self.commits:
            raise ValueError(f"commits must be in 0..{self.commits}, got {commits}")
        found: dict[str, Tensor] = {}
        for commit in reversed(self._previous[commits:]):
            found |= commit
        return found

    @contextmanager
    def written(self, weights: Mapping[str, Tensor]) -> Iterator[Backbone]:
        """`write` for the duration of a ``with`` block."""
        before = self.commits
        self.write(weights)
        try:
            yield self.backbone
        finally:
            self.rollback(before)

    def _name(self) -> None:
        """Give the backbone the fingerprint of what its weights are now."""
        changed = sorted({name for commit in self._previous for name in commit})
        weights = self._original
        if changed:
            weights = weights.changed("edited", _hash({n: self._parameters[n] for n in changed}))
        written = [self._parameters[name] for name in self._unnamed]
        self.backbone.name_weights(weights, self._named, written)
        self._named = weights
        self._unnamed.clear()


def _hash(parameters: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, parameter in parameters.items():
        digest.update(f"{name} {parameter.dtype} {list(parameter.shape)}\n".encode())
        digest.update(raw_bytes(parameter))
    return digest.hexdigest()
