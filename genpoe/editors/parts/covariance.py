"""The second moment of what down projections read: C = (1/n) sum k k^T over the tokens of texts.

It is accumulated in float64 on the untouched backbone. A folder holds it together with everything
that made it, and with numbers that say how good it is. In the cache a folder is known by all that
made it, so that an editor finds the covariances of its own layers and of no other model.

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
from plumbing.stopwatch import Stopwatch
from plumbing.storage.folders import new_folder
from plumbing.storage.hashing import digest
from plumbing.storage.manifest import MANIFEST, read_manifest, write_manifest
from plumbing.storage.tensors import read_tensors, write_tensors

_FILE = "covariance.safetensors"
_WHAT = "folder of covariances"
FEWEST = 50  # tokens for each input of a map
_SECONDS = 60  # between two times that the sums are kept
_EDITS, _BEGINNING = 20, 12  # edits of a gate, at the ends of so many tokens of as many texts


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
        edits: How far MEMIT's updates for 20 edits with the covariances of the two halves are
            apart, in the Frobenius norm, relative to that with the covariance of all. It is that of
            ``K^T (lambda C + K K^T)^-1``, so it holds for whatever the 20 outputs are to be. None:
            an older folder, which does not say it.
    """

    split_half: float
    smallest: float
    condition: float
    edits: float | None = None


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
    weight: float = 2000.0,
    partial: Path | None = None,
) -> Covariances:
    """Read texts, and accumulate the second moments of what the layers' down projections read.

    Args:
        backbone: The untouched backbone.
        layers: The layers.
        texts: The texts, in an order that is the same every time.
        max_tokens: The tokens of a text that are read, at most.
        batch_size: Texts of one forward pass.
        fewest: The tokens that there must be, for each input of a map.
        weight: lambda of the 20 edits that `Gates` tell of.
        partial: A file that keeps what was read so far, so that a call that was interrupted goes on
            with the same sums. It is removed at the end.

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
    halves = rows[::2], rows[1::2]
    every = [
        (number, part[first : first + batch_size])
        for number, part in enumerate(halves)
        for first in range(0, len(part), batch_size)
    ]
    state, corpus = state_hash(backbone), digest(list(texts))
    made_of = digest([state, corpus, [place.name for place in places], max_tokens, batch_size])
    sums = _Sums(places, partial, made_of)
    for number, some in progress(every[sums.done :], "Covariances"):
        batch = make_rows(backbone, some, [[]] * len(some))
        for place, inputs in read_inputs(backbone, places, batch).items():
            keys = inputs[batch.mask.bool()].double()
            sums.half[place][number] += (keys.T @ keys).cpu()
        sums.count()
    half = sums.half
    counts = [sum(map(len, part)) for part in halves]
    matrices = {place.layer: (half[place][0] + half[place][1]) / tokens for place in places}
    some = [row[:_BEGINNING] for row in rows[:_EDITS]]
    read = read_inputs(backbone, places, make_rows(backbone, some, [[]] * len(some)))
    last = torch.arange(len(some)), torch.tensor([len(row) - 1 for row in some])
    gates = {
        place.layer: _gates(
            matrices[place.layer], half[place], counts, read[place][last].double().cpu().T, weight
        )
        for place in places
    }
    for layer, each in gates.items():
        if not each.smallest > 0:
            raise StatisticsError(
                f"the covariance of layer {layer} is singular (its smallest eigenvalue is "
                f"{each.smallest:.1e}); give more text"
            )
    sums.remove()
    return Covariances(matrices, state, corpus, tokens, max_tokens, gates)


class _Sums:
    """The sums of k k^T over each half of the texts, kept in a file every now and then."""

    def __init__(self, places: Sequence[Place], file: Path | None, made_of: str) -> None:
        self.done = 0
        self.half = {p: [torch.zeros([p.block.in_features] * 2).double()] * 2 for p in places}
        self.half = {p: [each.clone() for each in both] for p, both in self.half.items()}
        self._file, self._made_of, self._watch = file, made_of, Stopwatch()
        if file is not None and file.is_file():
            kept = read_tensors(file)
            if bytes(kept.pop("made of").tolist()).decode() == made_of:
                self.done = int(kept.pop("done"))
                for place in places:
                    self.half[place] = [kept[f"{place.name} {number}"] for number in range(2)]

    def count(self) -> None:
        """Count one batch; write the file if the last time is long ago."""
        self.done += 1
        if self._file is None or self._watch.seconds < _SECONDS:
            return
        self._watch = Stopwatch()
        sums = {
            f"{p.name} {n}": each for p, both in self.half.items() for n, each in enumerate(both)
        }
        about = {
            "done": torch.tensor(self.done),
            "made of": torch.tensor(list(self._made_of.encode()), dtype=torch.uint8),
        }
        write_tensors(self._file, {**sums, **about})

    def remove(self) -> None:
        """Remove the file."""
        if self._file is not None:
            self._file.unlink(missing_ok=True)


def _gates(
    whole: Tensor, halves: Iterable[Tensor], counts: Sequence[int], keys: Tensor, weight: float
) -> Gates:
    values = torch.linalg.eigvalsh(whole)
    one, other = (
        half / count if count else torch.full_like(whole, math.inf)
        for half, count in zip(halves, counts, strict=True)
    )
    apart = torch.linalg.matrix_norm(one - other) / torch.linalg.matrix_norm(whole)
    edits = None
    if all(counts) and values[0] > 0:
        a, b, all_ = (_response(each, keys, weight) for each in (one, other, whole))
        edits = float(torch.linalg.matrix_norm(a - b) / torch.linalg.matrix_norm(all_))
    return Gates(float(apart), float(values[0]), float(values[-1] / values[0]), edits)


def _response(covariance: Tensor, keys: Tensor, weight: float) -> Tensor:
    """``K^T (lambda C + K K^T)^-1``; a half of few texts may have a singular C."""
    matrix = weight * covariance + keys @ keys.T
    return torch.linalg.lstsq(matrix, keys).solution.T


def covariance_key(
    backbone: Backbone, layers: Sequence[int], texts: Sequence[str], max_tokens: int
) -> str:
    """The name of the folder of covariances in the cache, made of everything that makes them."""
    made_of = [state_hash(backbone), sorted(layers), digest(list(texts)), len(texts), max_tokens]
    return digest(made_of)[:32]


def find_covariances(cache: str | Path, backbone: Backbone, layers: Sequence[int]) -> Path | None:
    """The folder in a cache with the covariances of some layers of a backbone.

    Args:
        cache: The cache folder, in which they lie under ``covariances``.
        backbone: The untouched backbone.
        layers: The layers.

    Returns:
        The folder; None if there is none.

    Raises:
        StatisticsError: If there are several, of other texts or other limits.
    """
    home, state = covariance_folder(cache), state_hash(backbone)
    found = []
    for folder in sorted(home.iterdir()) if home.is_dir() else ():
        if not (folder / MANIFEST).is_file():
            continue
        settings = read_manifest(folder, _WHAT, verify=False)["settings"]
        if (
            settings["state"] == state
            and {str(layer) for layer in layers} <= settings["gates"].keys()
        ):
            found.append(folder)
    if len(found) > 1:
        raise StatisticsError(
            f"{home} holds {len(found)} covariances of the layers {', '.join(map(str, layers))} of "
            f"{backbone.name}: {', '.join(folder.name for folder in found)}; name the folder of "
            "one of them as statistics"
        )
    return found[0] if found else None


def covariance_folder(cache: str | Path) -> Path:
    """Where in a cache folder all covariances lie."""
    return Path(cache).expanduser() / "covariances"
