"""Encoding a corpus shard by shard, so that what was interrupted goes on where it stopped.

A shard is encoded on its own, in batches that depend on its passages alone, and is acknowledged
once its file is on the disk. So the bytes are the same however often an encoding was interrupted,
and the vectors whichever engine (`retrieval.dense.engines`) handed the shards out.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from plumbing.mounts import SettingValueError, mounted
from plumbing.storage.files import write_json
from plumbing.storage.manifest import IndexFolderError
from retrieval.corpus.corpus import Corpus
from retrieval.dense.shard import STORAGES, Rows, find_shards
from retrieval.encoders.encoder import EncoderMaker
from retrieval.passage import Passage

log = logging.getLogger(__name__)

PLAN = "encoding.json"
_MOST_SHARDS = 256  # each keeps a file descriptor open, of which a process has some 1,024
_LEAST_ROWS = 4096


class ShardEncoder:
    """Turns a shard's passages into its file's bytes; what a worker of an engine holds.

    Attributes:
        rounding: The encoder's; see `retrieval.encoders.encoder.Encoder`.

    Args:
        maker: Makes the encoder.
        storage: "float32" or "float16".
        device: Instead of the maker's own.
    """

    def __init__(self, maker: EncoderMaker, storage: str, device: str | None = None) -> None:
        self._storage = storage
        with mounted("encoder"):
            self._encoder = maker.load(device)
        self.rounding = self._encoder.rounding

    def encode(self, passages: Sequence[Passage]) -> bytes:
        """The bytes of the shard.

        Raises:
            ValueError: If a vector cannot be stored.
        """
        with mounted("encoder"):
            vectors_ND = self._encoder.encode_passages(passages)
        return Rows.of(passages, vectors_ND, self._storage).to_bytes()


@dataclass(frozen=True)
class EncodingJob:
    """What is to be encoded, and by what. It can be sent to other processes of this machine.

    Attributes:
        corpus: The passages.
        maker: Makes the encoder.
        storage: "float32" or "float16".
        shard_rows: Passages of a shard.
    """

    corpus: Corpus
    maker: EncoderMaker
    storage: str
    shard_rows: int

    @property
    def shards(self) -> int:
        """How many shards there are."""
        return -(-len(self.corpus) // self.shard_rows)

    def passages(self, number: int) -> list[Passage]:
        """The passages of a shard."""
        start = number * self.shard_rows
        return list(self.corpus.passages(start, start + self.shard_rows))

    def load(self, device: str | None = None) -> ShardEncoder:
        """What encodes them, in the process that calls."""
        return ShardEncoder(self.maker, self.storage, device)


def check_rounding(worker: str, planned: str) -> None:
    """Check that a worker encodes as the process does that began the encoding.

    Raises:
        ValueError: If its vectors would differ in their last digits.
    """
    if worker != planned:
        raise ValueError(
            f"expected workers that encode as this process ({planned}: number format, device, "
            f"batch), got one of {worker}; start from a machine with the workers' kind of device, "
            "or set the encoder's device and dtype to what both have"
        )


class Engine(Protocol):
    """Has shards encoded: here, on several devices, or by a cluster."""

    def encode(self, job: EncodingJob, numbers: Sequence[int], folder: Path) -> None:
        """Encode some shards and store each in a folder as soon as it is done."""
        ...


def default_shard_rows(passages: int) -> int:
    """4,096 passages, or as many more as keep the number of shards at 256 or below."""
    rows = -(-passages // _MOST_SHARDS)
    return max(_LEAST_ROWS, -(-rows // _LEAST_ROWS) * _LEAST_ROWS)


def encode_corpus(job: EncodingJob, engine: Engine, folder: Path) -> list[str]:
    """Encode the shards that a folder lacks.

    Args:
        job: What is to be encoded.
        engine: Has it done.
        folder: Need not exist yet. The caller is its only writer.

    Returns:
        The names of all shards, in order.

    Raises:
        IndexFolderError: If the folder has an encoding of something else.
        ValueError: If there is no passage, or ``storage`` or ``shard_rows`` is impossible.
    """
    if job.storage not in STORAGES:
        raise SettingValueError(
            "storage", f"storage must be one of {', '.join(STORAGES)}, got {job.storage!r}"
        )
    if job.shard_rows < 1:
        raise SettingValueError("shard_rows", f"shard_rows must be positive, got {job.shard_rows}")
    if not len(job.corpus):
        raise ValueError("expected a corpus with passages, got none; name another corpus")
    _begin(folder, _plan(job))
    found = find_shards(folder)
    missing = [number for number in range(job.shards) if number not in found]
    if found and missing:
        log.info("%d of %d shards were encoded before; going on", len(found), job.shards)
    if missing:
        engine.encode(job, missing, folder)
        found = find_shards(folder)
    return [found[number] for number in range(job.shards)]


def _plan(job: EncodingJob) -> dict[str, Any]:
    encoder = job.maker.load()
    return {
        "corpus": job.corpus.sha256,
        "passages": len(job.corpus),
        "encoder": encoder.passage_fingerprint,
        "rounding": encoder.rounding,
        "storage": job.storage,
        "shard_rows": job.shard_rows,
    }


def _begin(folder: Path, plan: dict[str, Any]) -> None:
    path = folder / PLAN
    if not path.exists() or not find_shards(folder):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write_json(path, plan)
        return
    try:
        found = dict(json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError) as error:
        raise IndexFolderError(
            f"{path}: damaged ({error}); remove the folder to encode anew"
        ) from error
    differing = [name for name in plan if found.get(name) != plan[name]]
    if differing:
        name = differing[0]
        raise IndexFolderError(
            f"{folder}: holds an interrupted encoding of other settings: its {name} is "
            f"{found.get(name)!r}, now it is {plan[name]!r}; go on with those settings, or remove "
            "the folder to encode anew"
        )
