"""Encodes a corpus shard by shard, so that an interrupted encoding continues where it stopped.

Each shard is encoded separately, in batches that depend on its passages alone, and it counts as
done when its file is on the disk. The bytes are therefore the same however often the encoding was
interrupted, and the vectors do not depend on the engine (`plumbing.engines`).
"""

from __future__ import annotations

import functools
import json
import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from plumbing.engines.job import Engine
from plumbing.mounts import SettingValueError, mounted
from plumbing.storage.files import write_json
from plumbing.storage.manifest import FolderError
from retrieval.corpus.corpus import Corpus
from retrieval.dense.shard import STORAGES, Rows, find_shards, store_shard
from retrieval.encoders.encoder import EncoderMaker
from retrieval.index_folder import check_corpus
from retrieval.passage import Passage

log = logging.getLogger(__name__)

PLAN = "encoding.json"
_MOST_SHARDS = 256  # each keeps a file descriptor open; a process often has only 1,024
_LEAST_ROWS = 4096


class ShardEncoder:
    """Turns the passages of a shard into the bytes of its file. Each worker of an engine has one.

    Attributes:
        rounding: The rounding of the encoder (`retrieval.encoders.encoder.Encoder`).

    Args:
        maker: Loads the encoder.
        storage: "float32" or "float16".
        device: The encoder's device; None for the device of ``maker``.
    """

    def __init__(self, maker: EncoderMaker, storage: str, device: str | None = None) -> None:
        self._storage = storage
        with mounted("encoder"):
            self._encoder = maker.load(device)
        self.rounding = self._encoder.rounding

    def work(self, passages: Sequence[Passage]) -> bytes:
        """Encode the passages of a shard, and return the bytes of its file.

        Raises:
            ValueError: If a vector is not finite in ``storage``.
        """
        with mounted("encoder"):
            vectors_ND = self._encoder.encode_passages(passages)
        return Rows.of(passages, vectors_ND, self._storage).to_bytes()


@dataclass(frozen=True)
class EncodingJob:
    """The passages to encode, and their encoder. It can be sent to other processes on this machine.

    Attributes:
        corpus: The passages.
        maker: Loads the encoder.
        storage: "float32" or "float16".
        shard_rows: The number of passages in a shard; the last shard may have fewer.
    """

    corpus: Corpus
    maker: EncoderMaker
    storage: str
    shard_rows: int

    @property
    def shards(self) -> int:
        """The number of shards."""
        return -(-len(self.corpus) // self.shard_rows)

    def passages(self, number: int) -> list[Passage]:
        """The passages of a shard."""
        start = number * self.shard_rows
        return list(self.corpus.passages(start, start + self.shard_rows))

    def load(self, device: str | None = None) -> ShardEncoder:
        """Load the encoder in the calling process."""
        return ShardEncoder(self.maker, self.storage, device)


@dataclass(frozen=True)
class StoredJob:
    """An encoding whose shards are stored in a folder: a `plumbing.engines.job.Job`.

    Attributes:
        encoding: The passages and their encoder.
        folder: The folder of the shards.
    """

    doing: ClassVar[str] = "Encoding shards"

    encoding: EncodingJob
    folder: Path

    @property
    def pieces(self) -> int:
        """The number of shards."""
        return self.encoding.shards

    def piece(self, number: int) -> list[Passage]:
        """The passages of a shard."""
        return self.encoding.passages(number)

    def load(self, device: str | None = None) -> ShardEncoder:
        """Load the encoder in the calling process."""
        return self.encoding.load(device)

    def loader(self) -> Callable[[], ShardEncoder]:
        """Loads the encoder on another machine."""
        return functools.partial(ShardEncoder, self.encoding.maker, self.encoding.storage)

    def store(self, number: int, result: bytes) -> None:
        """Write a shard."""
        store_shard(self.folder, number, result)


def default_shard_rows(passages: int) -> int:
    """The smallest multiple of 4,096 passages that gives at most 256 shards."""
    rows = -(-passages // _MOST_SHARDS)
    return max(_LEAST_ROWS, -(-rows // _LEAST_ROWS) * _LEAST_ROWS)


def encode_corpus(job: EncodingJob, engine: Engine, folder: Path) -> list[str]:
    """Encode the shards that a folder lacks.

    Args:
        job: The passages and their encoder.
        engine: What has the shards encoded.
        folder: The folder of the shards. It need not exist yet; the caller must be its only writer.

    Returns:
        The names of all shards, in order.

    Raises:
        FolderError: If the folder contains an encoding of another job.
        ValueError: If there is no passage, or if ``storage`` or ``shard_rows`` is impossible.
    """
    if job.storage not in STORAGES:
        raise SettingValueError(
            "storage", f"storage must be one of {', '.join(STORAGES)}, got {job.storage!r}"
        )
    if job.shard_rows < 1:
        raise SettingValueError("shard_rows", f"shard_rows must be positive, got {job.shard_rows}")
    check_corpus(job.corpus)
    _begin(folder, _plan(job))
    found = find_shards(folder)
    missing = [number for number in range(job.shards) if number not in found]
    if found and missing:
        log.info("%d of %d shards were encoded before; going on", len(found), job.shards)
    if missing:
        engine.run(StoredJob(job, folder), missing)
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
        raise FolderError(f"{path}: damaged ({error}); remove the folder to encode anew") from error
    differing = [name for name in plan if found.get(name) != plan[name]]
    if differing:
        name = differing[0]
        raise FolderError(
            f"{folder}: holds an interrupted encoding of other settings: its {name} is "
            f"{found.get(name)!r}, now it is {plan[name]!r}; go on with those settings, or remove "
            "the folder to encode anew"
        )
