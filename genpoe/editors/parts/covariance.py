"""The second moment of what down projections read: C = (1/n) sum k k^T over the tokens of texts.

It is accumulated in float64 on the untouched backbone. A folder holds it together with everything
that made it, and with numbers that say how good it is.

Shapes: i inputs of a map, n tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from backbone.edits import state_hash
from backbone.model import Backbone
from genpoe.editors.parts.places import Place, find_places, read_inputs
from genpoe.editors.parts.rows import make_rows
from plumbing.progress import progress
from plumbing.storage.folders import new_folder
from plumbing.storage.hashing import digest
from plumbing.storage.manifest import read_manifest, write_manifest
from plumbing.storage.tensors import read_tensors, write_tensors

_FILE = "covariance.safetensors"
_WHAT = "folder of covariances"
FEWEST = 50  # tokens for each input of a map


class StatisticsError(ValueError):
    """Covariances cannot be used: too few tokens, another model, or a layer that is not there."""


@dataclass(frozen=True)
class Gates:
    """How good the covariance of a layer is.

    Attributes:
        split_half: How far the covariances of the two halves of the texts are apart, in the
            Frobenius norm, relative to that of all.
        smallest: The smallest eigenvalue.
        condition: The largest eigenvalue over the smallest one.
    """

    split_half: float
    smallest: float
    condition: float


@dataclass(frozen=True)
class Covariances:
    """The covariances of some layers of one backbone.

    Attributes:
        matrices: C by layer, ``[i, i]``, float64, on the CPU.
        state: `state_hash` of the backbone.
        corpus: A hash of the texts.
        tokens: n.
        max_tokens: The tokens of a text that were read, at most.
        gates: How good each is.
    """

    matrices: Mapping[int, Tensor]
    state: str
    corpus: str
    tokens: int
    max_tokens: int
    gates: Mapping[int, Gates]

    def of(self, layer: int) -> Tensor:
        """C of one layer.

        Raises:
            StatisticsError: If there is none.
        """
        if layer not in self.matrices:
            raise StatisticsError(
                f"expected the covariance of layer {layer}, got those of the layers "
                f"{', '.join(map(str, self.matrices))}; compute it, or edit other layers"
            )
        return self.matrices[layer]

    def check(self, backbone: Backbone) -> None:
        """Check that the backbone is the one that the covariances were computed on.

        Raises:
            StatisticsError: If it is another one, or the same after an edit or in another dtype.
        """
        if (now := state_hash(backbone)) != self.state:
            raise StatisticsError(
                f"the covariances were computed on a model with the state {self.state[:12]}, got "
                f"{backbone.name} with the state {now[:12]}; compute them on this model, unedited "
                "and in this dtype"
            )

    def save(self, folder: Path) -> None:
        """Write a folder, which appears whole."""
        with new_folder(folder) as part:
            names = {str(layer): matrix for layer, matrix in self.matrices.items()}
            write_tensors(part / _FILE, names)
            settings: dict[str, Any] = {
                **{"state": self.state, "corpus": self.corpus, "tokens": self.tokens},
                "max_tokens": self.max_tokens,
                "gates": {str(layer): asdict(gates) for layer, gates in self.gates.items()},
            }
            write_manifest(part, settings, [_FILE])

    @classmethod
    def load(cls, folder: str | Path, backbone: Backbone) -> Covariances:
        """Read a folder that `save` wrote, for the backbone that it was made for.

        Raises:
            FolderError: If it is missing or damaged.
            StatisticsError: If it is of another model.
        """
        folder = Path(folder)
        settings = read_manifest(folder, _WHAT, remedy="compute it again")["settings"]
        gates = {int(layer): Gates(**each) for layer, each in settings["gates"].items()}
        matrices = {int(name): each for name, each in read_tensors(folder / _FILE).items()}
        keys = ("state", "corpus", "tokens", "max_tokens")
        found = cls(matrices=matrices, gates=gates, **{key: settings[key] for key in keys})
        found.check(backbone)
        return found


@torch.no_grad()
def measure_covariances(
    backbone: Backbone,
    layers: Sequence[int],
    texts: Sequence[str],
    max_tokens: int = 512,
    batch_size: int = 8,
    fewest: float = FEWEST,
) -> Covariances:
    """Read texts, and accumulate the second moments of what the layers' down projections read.

    Args:
        backbone: The untouched backbone.
        layers: The layers.
        texts: The texts, in an order that is the same every time.
        max_tokens: The tokens of a text that are read, at most.
        batch_size: Texts of one forward pass.
        fewest: The tokens that there must be, for each input of a map.

    Raises:
        StatisticsError: If there are too few tokens, or if a covariance is singular.
        SettingValueError: If a layer is out of range.
    """
    places = find_places(backbone, layers)
    rows = [backbone.tokenizer(text)["input_ids"][:max_tokens] for text in texts]
    rows = [row for row in rows if row]
    tokens = sum(map(len, rows))
    widest = max(place.block.in_features for place in places)
    if tokens < fewest * widest:
        raise StatisticsError(
            f"covariances of {widest} inputs need at least {math.ceil(fewest * widest)} tokens, "
            f"got {tokens}; give more text"
        )
    half: dict[Place, list[Any]] = {place: [0.0, 0.0] for place in places}
    halves = rows[::2], rows[1::2]
    every = [
        (number, part[first : first + batch_size])
        for number, part in enumerate(halves)
        for first in range(0, len(part), batch_size)
    ]
    for number, some in progress(every, "Covariances"):
        batch = make_rows(backbone, some, [[]] * len(some))
        for place, inputs in read_inputs(backbone, places, batch).items():
            keys = inputs[batch.mask.bool()].double()
            half[place][number] = half[place][number] + (keys.T @ keys).cpu()
    counts = [sum(map(len, part)) for part in halves]
    matrices = {place.layer: (half[place][0] + half[place][1]) / tokens for place in places}
    gates = {place.layer: _gates(matrices[place.layer], half[place], counts) for place in places}
    for layer, each in gates.items():
        if not each.smallest > 0:
            raise StatisticsError(
                f"the covariance of layer {layer} is singular (its smallest eigenvalue is "
                f"{each.smallest:.1e}); give more text"
            )
    return Covariances(
        matrices, state_hash(backbone), digest(list(texts)), tokens, max_tokens, gates
    )


def _gates(whole: Tensor, halves: Iterable[Any], counts: Sequence[int]) -> Gates:
    values = torch.linalg.eigvalsh(whole)
    one, other = (
        half / count if count else torch.full_like(whole, math.inf)
        for half, count in zip(halves, counts, strict=True)
    )
    apart = torch.linalg.matrix_norm(one - other) / torch.linalg.matrix_norm(whole)
    return Gates(float(apart), float(values[0]), float(values[-1] / values[0]))
