"""A knowledge session: passages come and go while a frozen model answers with their experts.

session = KnowledgeSession.from_checkpoint("READER/checkpoints/last.ckpt")
session.add([("Tova Blick", "Tova Blick was born in Lisbon.")])
print(session.ask("Where was Tova Blick born?").text)
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from backbone.loading import EMBEDDED, load_backbone
from backbone.model import Backbone
from dmoe.bank import Bank
from dmoe.decoding import DMoEDecoder
from dmoe.decoding.steps import Routing
from genpoe.model import GenPoE
from live.answer import Answer, Ask, Mode, Token
from live.decoding import Batch, LiveRouter, Prompts, lock_of
from live.experts import GeneratedExperts, LiveExperts
from live.folder import HEAD, PASSAGES, is_kept, keep_head, read_head, write_head
from live.passages import PassageSet, as_passage
from live.settings import SessionSettings
from live.trained import Course, Teacher, TrainedExperts, course_of
from plumbing.storage.folders import only_writer
from plumbing.storage.manifest import FolderError
from retrieval.passage import Passage
from retrieval.pipeline import Pipeline, PipelineSettings
from retrieval.rerank.reranker import Reranker

log = logging.getLogger(__name__)


class KnowledgeSession:
    """Passages, their experts, and a frozen model that answers with them.

    A passage that was added is found by the next question. After a passage was removed, all answers
    that begin then are those of a session that never had it, bit for bit. Threads may share a
    session, and sessions a model: one thread at a time decodes with a model, and changes wait for
    the end of a token.

    Most users make one by `from_checkpoint`, `from_bank` or `load`.

    Args:
        experts: Where the experts come from.
        passages: The passages.
        settings: How it answers.
        reranker: Orders what the router found anew; None: nothing does.
        folder: Its folder; None: it lives in memory.

    Attributes:
        was_there: Whether passages had been kept in its folder before.
    """

    def __init__(
        self,
        experts: LiveExperts,
        passages: PassageSet,
        settings: SessionSettings,
        reranker: Reranker | None = None,
        folder: Path | None = None,
    ) -> None:
        self.experts, self._passages, self.settings = experts, passages, settings
        self.folder, self.was_there = folder, False
        self._held = ExitStack()  # the right to write the folder
        self._lock = lock_of(experts.backbone)
        depth = settings.k if reranker is None else max(settings.k, settings.rerank)
        pipeline = Pipeline(passages, passages.index, reranker, PipelineSettings(depth))
        router = LiveRouter(pipeline, settings.temperature)
        routing = Routing(
            experts.source,
            router,
            settings.make_trigger(),
            settings.k,
            weights=experts.weights(settings.k),
            acting=experts.acting,
        )
        with self._lock:
            self._decoder = DMoEDecoder(experts.backbone, routing)
        self._prompts = Prompts(self._decoder, router, passages, settings.k)

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path,
        backbone: Backbone | None = None,
        folder: str | Path | None = None,
        device: str = "cpu",
        settings: SessionSettings | None = None,
        reranker: Reranker | None = None,
    ) -> KnowledgeSession:
        """Make a session whose experts a hypernetwork generates.

        Args:
            path: A checkpoint of ``scripts/train_hypernet.py``, of the paper's hypernetwork or the
                one that reads. Its experts must stand beside the last layer's FFN.
            backbone: The frozen model, where it is loaded already.
            folder: Where the passages are kept; what is there already is taken up. None: in memory.
            device: Where a backbone is loaded that is not given.
            settings: How it answers; None: the defaults.
            reranker: Orders what the router found anew.

        Raises:
            BackboneMismatchError: If ``backbone`` is not the one of the checkpoint.
            CheckpointError: If the file is missing, is damaged or is no GenPoE checkpoint.
            FolderError: If the folder is of another session, or another process has it open.
            SettingValueError: If the experts stand beside another layer.
        """
        with lock_of(backbone):
            genpoe = GenPoE.from_checkpoint(path, backbone, device)

        def make(passages: PassageSet, place: Path | None) -> LiveExperts:
            return GeneratedExperts(genpoe, path, passages)

        with lock_of(genpoe.backbone):
            return cls._open(make, folder, settings or SessionSettings(), reranker)

    @classmethod
    def from_bank(
        cls,
        bank_dir: str | Path | None = None,
        backbone: Backbone | None = None,
        folder: str | Path | None = None,
        device: str = "cpu",
        settings: SessionSettings | None = None,
        reranker: Reranker | None = None,
        surrogates: Mapping[str, Passage] | None = None,
        learn: bool | Course = False,
    ) -> KnowledgeSession:
        """Make a session whose experts were trained (DMoE).

        It begins without passages. Those that are in the bank cost nothing to add.

        Args:
            bank_dir: A bank of ``scripts/build_experts.py``; None: all experts are trained here.
            backbone: The frozen model; None: the one that the bank names, or else the embedded one.
            folder: Where the passages are kept; what is there already is taken up. None: in memory.
            device: Where a backbone is loaded that is not given.
            settings: How it answers; None: the defaults, with the trigger "uncertainty".
            reranker: Orders what the router found anew.
            surrogates: What the router searches for the passages of the bank, by their ids there.
            learn: Whether a passage without an expert is taught one when it is added, which takes
                long: the backbone writes questions about it and is trained on them. A `Course` says
                how; True takes that of the bank.

        Raises:
            BankError: If the bank is missing, damaged or empty, or belongs to another backbone.
            FolderError: If the folder is of another session, or another process has it open.
            ValueError: If there is no bank and ``learn`` is false.
        """
        bank = None if bank_dir is None else Bank.open(bank_dir, backbone, read_only=True)
        if bank is not None:
            bank.check_filled()
        if backbone is None:
            name = EMBEDDED if bank is None else bank.spec.backbone
            backbone = load_backbone(name, device=device)
            if bank is not None:
                bank.check_backbone(backbone)
        model, course = backbone, learn if isinstance(learn, Course) else None
        if learn is True:
            course = Course() if bank is None else Course.of_bank(bank.spec)
        with lock_of(model):
            teacher = None if course is None else Teacher(model, course)

        def make(passages: PassageSet, place: Path | None) -> LiveExperts:
            return TrainedExperts(model, bank, teacher, place, surrogates)

        given = settings or SessionSettings(trigger="uncertainty")
        with lock_of(model):
            return cls._open(make, folder, given, reranker)

    @classmethod
    def load(
        cls,
        folder: str | Path,
        backbone: Backbone | None = None,
        device: str = "cpu",
        reranker: Reranker | None = None,
    ) -> KnowledgeSession:
        """Open the folder of a session; what changes from now on is kept there.

        Args:
            folder: A folder that `save` wrote, or that a session was given.
            backbone: The frozen model, where it is loaded already.
            device: Where a backbone is loaded that is not given.
            reranker: The reranker, which the folder does not have.

        Raises:
            FolderError: If it is no folder of a session, or another process has it open.
            ValueError: In the cases of `from_checkpoint` and `from_bank`.
        """
        head = read_head(Path(folder))
        own: dict[str, Any] = {"backbone": backbone, "folder": folder, "device": device}
        own["reranker"] = reranker
        settings = SessionSettings(**head["settings"])
        made_of = head["experts"]
        if made_of["experts"] == "generated":
            return cls.from_checkpoint(made_of["checkpoint"], settings=settings, **own)
        course = made_of["course"]
        learn = False if course is None else course_of(course)
        return cls.from_bank(made_of["bank"], settings=settings, learn=learn, **own)

    @classmethod
    def _open(
        cls,
        make: Any,
        folder: str | Path | None,
        settings: SessionSettings,
        reranker: Reranker | None,
    ) -> KnowledgeSession:
        if folder is None:
            passages = PassageSet()
            return cls(make(passages, None), passages, settings, reranker)
        place = Path(folder)
        with ExitStack() as held:
            held.enter_context(only_writer(place, "session"))
            place.mkdir(parents=True, exist_ok=True)
            was_there = is_kept(place)
            passages = PassageSet(place / PASSAGES)
            experts = make(passages, place)
            session = cls(experts, passages, settings, reranker, place)
            keep_head(place, session._head())
            experts.keep(passages)
            session.was_there = was_there
            session._held = held.pop_all()
        return session

    def _head(self) -> dict[str, Any]:
        backbone = self.backbone
        return {
            "experts": self.experts.described(),
            "backbone": {"name": backbone.name, "fingerprint": backbone.fingerprint},
            "settings": asdict(self.settings),
        }

    @property
    def backbone(self) -> Backbone:
        """The frozen model."""
        return self.experts.backbone

    @property
    def passages(self) -> PassageSet:
        """The passages that are there, by id."""
        return self._passages

    def add(
        self, passages: Iterable[Passage | tuple[str, str]], read: bool = True
    ) -> list[Passage]:
        """Add passages, which the next question finds. When it returns, they are in the folder.

        A passage that is there already stays as it is. A generated expert takes one forward pass of
        a passage. A trained one takes seconds to minutes, unless the bank has it.

        Args:
            passages: Passages, whose own ids do not count, or pairs of a title and a text.
            read: Whether generated experts are made now; False: by `read`, or when the router
                first finds the passage.

        Returns:
            The passages with their ids, in the given order.

        Raises:
            NoExpertError: If a passage has no expert and none can be made; then none is added.
            ValueError: If a passage is empty; then none is added.
        """
        given = [as_passage(each) for each in passages]
        with self._lock:
            new = [each for each in dict.fromkeys(given) if each.id not in self._passages]
            if new:
                self._passages.add(self.experts.learn(new))
                if read:
                    self.read(passage.id for passage in new)
        return given

    def read(self, ids: Iterable[str]) -> None:
        """Make the generated experts of passages now, of those that are still there."""
        with self._lock:
            self.experts.prepare([id for id in ids if id in self._passages])

    def fill(self, passages: Iterable[Passage | tuple[str, str]]) -> int:
        """Add many passages at once, as `add` does, but let each be read when it is first found.

        Passages that have no expert, where none can be made, are left out.

        Returns:
            How many were added.
        """
        given = dict.fromkeys(as_passage(each) for each in passages)
        with self._lock:
            new = [each for each in given if each.id not in self._passages]
            known = [each for each in new if self.experts.has(each.id)]
            if known:
                self._passages.add(self.experts.learn(known))
        if len(known) < len(new):
            log.warning(
                "%d passages have no expert in the bank and are left out", len(new) - len(known)
            )
        return len(known)

    def remove(self, ids: Iterable[str]) -> None:
        """Remove passages. The next question is answered as if they had never been there.

        Raises:
            KeyError: If there is no passage with one of the ids; then none is removed.
        """
        gone = list(dict.fromkeys(ids))
        with self._lock:
            for id in gone:
                if id not in self._passages:
                    raise KeyError(f"there is no passage with the id {id!r}")
            if gone:
                self._passages.remove(gone)
                self.experts.forget(gone)

    def begin(self, asks: Sequence[Ask], stops: bool = True) -> Batch:
        """Start to answer questions together; `Batch.step` then decodes them token by token.

        Args:
            asks: The questions.
            stops: Whether the model may end an answer; False: all tokens are decoded, as benchmarks
                do.

        Raises:
            TooLongError: If a question is too long for the model.
            ValueError: If there are no questions.
        """
        with self._lock:
            written = [self._prompts.write(ask) for ask in asks]
            inputs, shown = [each[0] for each in written], [each[1] for each in written]
            return Batch(self._decoder, asks, inputs, shown, self._passages, stops)

    def check(self, ask: Ask) -> None:
        """Check that a question can be asked.

        Raises:
            TooLongError: If it is too long for the model.
        """
        self._prompts.check(ask)

    def stream(
        self, question: str, mode: Mode = "experts", max_new_tokens: int = 32
    ) -> Iterator[Token]:
        """Answer a question token by token.

        Args:
            question: The question.
            mode: "experts", "rag" or "base".
            max_new_tokens: The most tokens of the answer.

        Raises:
            ValueError: If the question is empty or too long, or the mode is unknown.
        """
        batch = self.begin([Ask(question, mode, max_new_tokens)])
        return self._tokens(batch)

    def _tokens(self, batch: Batch) -> Iterator[Token]:
        while batch.running:
            for each in batch.step():
                if each.token is not None:
                    yield each.token

    def ask(self, question: str, mode: Mode = "experts", max_new_tokens: int = 32) -> Answer:
        """Answer a question.

        Args:
            question: The question.
            mode: "experts" routes to the experts of passages, "rag" puts the passages into the
                prompt, and "base" is the backbone alone.
            max_new_tokens: The most tokens of the answer.

        Raises:
            ValueError: If the question is empty or too long, or the mode is unknown.
        """
        batch = self.begin([Ask(question, mode, max_new_tokens)])
        return batch.answer(0, list(self._tokens(batch)))

    def save(self, folder: str | Path) -> None:
        """Write the session into a new folder, which `load` opens: JSON and safetensors alone.

        The hypernetwork or the given bank is named, and not copied.

        Raises:
            FolderError: If the folder has a session already.
        """
        place = Path(folder)
        if (place / HEAD).exists():
            raise FolderError(f"{place}: there is a session already; give another folder")
        place.mkdir(parents=True, exist_ok=True)
        with self._lock:
            self.experts.save(place, list(self._passages.values()))
            self._passages.save(place / PASSAGES)
            write_head(place, self._head())

    def close(self) -> None:
        """Leave the folder to others. Removed passages are then no longer on the disk."""
        with self._lock:
            self._passages.tidy()
            self._held.close()

    def __enter__(self) -> KnowledgeSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
