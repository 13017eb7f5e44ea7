"""Dense retrieval: finds the passages whose vectors have the largest inner products with a query's.

It builds the index (`DenseSettings.build`) and searches it (`Dense.search`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from plumbing.engines.engines import make_engine
from plumbing.mounts import SettingValueError, mounted
from plumbing.settings import check_choice, check_positive, check_types
from plumbing.storage.hashing import digest
from retrieval.corpus.corpus import Corpus
from retrieval.current import Current
from retrieval.dense import edits as dense_edits
from retrieval.dense import folder as dense_folder
from retrieval.dense.encoding import EncodingJob, default_shard_rows
from retrieval.dense.faiss_index import faiss_threads, open_index
from retrieval.dense.faiss_settings import HNSW, IVFPQ, KINDS
from retrieval.dense.folder import IndexKind, Snapshot, State
from retrieval.dense.search import VectorSearch
from retrieval.dense.shard import Rows
from retrieval.encoders.encoder import EncoderMaker
from retrieval.encoders.pretrained import PretrainedSettings
from retrieval.encoders.sentence import SentenceSettings
from retrieval.index_folder import check_name, index_path
from retrieval.passage import Passage
from retrieval.retriever import Editable, Hit

_FORMAT = 2  # version of what a search does with the index; part of the fingerprint

# The settings of FAISS that only a search uses. They may change when an index is opened.
_OF_SEARCHES = ("probes", "refine", "search_depth")


@dataclass(frozen=True)
class DenseSettings:
    """Settings of a dense index, which build it and open it (`retrieval.retriever.IndexSettings`).

    Attributes:
        index_dir: The index's folder. Only within a hybrid it may be None: the hybrid then chooses
            the folder (`retrieval.fusion.HybridSettings`).
        encoder: The models, and how they run.
        kind: The kind of index that FAISS searches: "flat" (exhaustive), "ivfpq" or "hnsw"
            (`retrieval.dense.faiss_settings`).
        ivfpq: The settings of the kind "ivfpq".
        hnsw: The settings of the kind "hnsw".
        storage: The dtype of the vectors on disk: "float32" or "float16".
        shard_rows: The number of passages that are encoded and stored together; None for
            `retrieval.dense.encoding.default_shard_rows`.
        engine: What encodes the passages: "plain", "lightning" or "ray"
            (`plumbing.engines`).
        workers: The number of processes of "lightning" or "ray"; each has one device.
        ray_address: The address of a Ray cluster; None to start Ray on this machine.
        threads: The number of threads of FAISS.
        search_device: The device of FAISS: "auto" (a GPU if FAISS can use one), "cpu" or "cuda".

    Raises:
        ValueError: If a setting is mistyped or impossible.
    """

    index_dir: str | Path | None
    encoder: EncoderMaker = field(default_factory=SentenceSettings)
    kind: str = "flat"
    ivfpq: IVFPQ = field(default_factory=IVFPQ)
    hnsw: HNSW = field(default_factory=HNSW)
    storage: str = "float32"
    shard_rows: int | None = None
    engine: str = "plain"
    workers: int = 1
    ray_address: str | None = None
    threads: int = 2
    search_device: str = "auto"

    def __post_init__(self) -> None:
        check_types(self)
        check_name(self.index_dir)
        check_choice("kind", self.kind, KINDS)
        check_positive(self, "threads")
        if self.shard_rows is not None and self.shard_rows < 1:
            raise SettingValueError(
                "shard_rows", f"shard_rows must be positive or null, got {self.shard_rows}"
            )
        make_engine(self.engine, self.workers, self.encoder.device)

    def build(self, corpus: Corpus) -> dict[str, float]:
        """Build the index, unless it exists already.

        If an earlier build was interrupted, this one continues from there.

        Returns:
            ``bytes``, the index's size on disk.

        Raises:
            FolderError: If something else is in the folder, if an interrupted encoding with
                other settings lies beside it, or if another process is building the index.
            ValueError: If a setting does not suit the corpus or the encoder.
        """
        folder = index_path(self.index_dir)
        rows = default_shard_rows(len(corpus)) if self.shard_rows is None else self.shard_rows
        job = EncodingJob(corpus, self.encoder, self.storage, rows)
        engine = make_engine(self.engine, self.workers, self.encoder.device, self.ray_address)
        dense_folder.encode_and_index(
            folder, job, engine, self.recorded(corpus), self.index_kind, self.threads
        )
        return {"bytes": float(sum(path.stat().st_size for path in folder.iterdir()))}

    def open(self, corpus: Corpus) -> Dense:
        """Open the index.

        Raises:
            FolderError: If the index is missing or damaged, or if it was made with other
                passages or settings.
        """
        return Dense(self, corpus)

    @property
    def index_kind(self) -> IndexKind:
        """The settings of the index that FAISS searches; None for the kind "flat"."""
        return {"flat": None, "ivfpq": self.ivfpq, "hnsw": self.hnsw}[self.kind]

    def recorded(self, corpus: Corpus) -> State:
        """The settings that the index records, and that must be the same when it is opened."""
        with mounted("encoder"):
            if isinstance(self.encoder, PretrainedSettings):
                self.encoder.check_limits()
            encoder = self.encoder.load()
            fingerprints = encoder.question_fingerprint, encoder.passage_fingerprint
        index = {} if self.index_kind is None else asdict(self.index_kind)
        return {
            "kind": dense_folder.WHAT,
            "corpus": corpus.members,
            "question_encoder": fingerprints[0],
            "passage_encoder": fingerprints[1],
            "storage": self.storage,
            "index": self.kind,
            **{f"index.{name}": v for name, v in index.items() if name not in _OF_SEARCHES},
        }


@dataclass(frozen=True)
class _Opened:
    """One state of an index, open; its files are closed with the last reference to them.

    Attributes:
        snapshot: The state.
        search: Searches it.
    """

    snapshot: Snapshot
    search: VectorSearch


class Dense(Editable):
    """An open dense index; a `retrieval.retriever.Retriever`.

    Python threads may share it.

    Args:
        settings: The settings that the index was built with.
        corpus: The passages that the index contains.

    Raises:
        FolderError: If the index is missing or damaged, or if it was made with other passages
            or settings.
    """

    def __init__(self, settings: DenseSettings, corpus: Corpus) -> None:
        self._settings, self._folder = settings, index_path(settings.index_dir)
        with mounted("encoder"):
            self._encoder = settings.encoder.load()
        self._wanted = settings.recorded(corpus)
        self._writing = threading.Lock()
        self._current = Current(self._open(dense_folder.open_snapshot(self._folder, self._wanted)))

    def _open(self, snapshot: Snapshot) -> _Opened:
        given = self._settings
        index = open_index(
            given.index_kind, snapshot.embeddings, snapshot.faiss, given.search_device
        )
        refine = given.ivfpq.refine if given.kind == "ivfpq" else 1
        search = VectorSearch(snapshot.embeddings, index, snapshot.removed, refine)
        return _Opened(snapshot, search)

    def __len__(self) -> int:
        with self._current.use() as opened:
            return opened.search.live

    @property
    def fingerprint(self) -> str:
        """Hash of the passages and settings that decide the hits."""
        with self._current.use() as opened:
            decisive = {
                **opened.snapshot.state,
                "format": _FORMAT,
                "question_rounding": self._encoder.rounding,
                "searches": asdict(kind) if (kind := self._settings.index_kind) else None,
            }
        return digest(decisive)

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """At most ``k`` hits for each query, best first, ties in the order of the index.

        Scores are inner products of the vectors. A query of nothing but white space has no hits.

        Raises:
            ValueError: If ``k`` is not positive, or if the dimension of the encoder's vectors is
                not that of the index.
        """
        if k < 1:
            raise ValueError(f"k must be positive, got {k}")
        asked = [number for number, query in enumerate(queries) if query.strip()]
        hits: list[list[Hit]] = [[] for _ in queries]
        if not asked:
            return hits
        with mounted("encoder"):
            vectors_QD = self._encoder.encode_questions([queries[number] for number in asked])
        with self._current.use() as opened:
            self._check_dimension(vectors_QD, opened.snapshot)
            with faiss_threads(self._settings.threads):
                found = opened.search.search(vectors_QD, k)
            for number, (rows, scores) in zip(asked, found, strict=True):
                ids = map(opened.snapshot.embeddings.id, rows.tolist())
                hits[number] = [Hit(*hit) for hit in zip(ids, scores.tolist(), strict=True)]
        return hits

    def _check_dimension(self, vectors_QD: np.ndarray, snapshot: Snapshot) -> None:
        expected = snapshot.embeddings.dimension
        if vectors_QD.shape[1] != expected:
            raise SettingValueError(
                "encoder.question_model",
                f"expected vectors of {expected} dimensions, as the index has, got "
                f"{vectors_QD.shape[1]} from the encoder",
            )

    def update(self, add: Iterable[Passage] = (), remove: Iterable[str] = ()) -> None:
        """Remove passages, then add others, in one step, as `Editable.update` describes."""
        passages, gone = list(add), list(remove)
        with self._writing, self._current.use() as opened:
            snapshot = opened.snapshot
            rows, members = dense_edits.checked_edit(snapshot, passages, gone)
            new = None
            if passages:
                with mounted("encoder"):
                    vectors_ND = self._encoder.encode_passages(passages)
                new = Rows.of(passages, vectors_ND, self._settings.storage)

            def edit(folder: Path, opened: Snapshot) -> State:
                changed: State = {}
                if rows:
                    changed |= dense_edits.drop_rows(folder, opened, rows)
                if new is not None:
                    kind, threads = self._settings.index_kind, self._settings.threads
                    changed |= dense_edits.append_rows(folder, opened, new, kind, threads)
                return changed

            if rows or passages:
                self._change(snapshot, members, edit)

    def compact(self) -> None:
        """Erase removed passages for good, which frees the space of their vectors.

        Raises:
            FolderError: If another process has changed the index, or is writing to it.
        """

        def edit(folder: Path, opened: Snapshot) -> State:
            kind, threads = self._settings.index_kind, self._settings.threads
            return dense_edits.forget_removed(folder, opened, kind, threads)

        with self._writing, self._current.use() as opened:
            snapshot = opened.snapshot
            if len(snapshot.removed):
                self._change(snapshot, snapshot.state["corpus"], edit)

    def _change(
        self, snapshot: Snapshot, members: str, edit: Callable[[Path, Snapshot], State]
    ) -> None:
        changed = dense_folder.change_shards(self._folder, snapshot, members, edit)
        self._current.replace(self._open(changed))
