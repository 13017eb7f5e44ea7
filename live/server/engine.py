"""The thread that decodes: questions that wait are put together, each with its own experts.

Between two tokens it takes in what has arrived: changes of the passages, and new questions. So a
change never meets a half-decoded token, and a client that reads slowly keeps nobody waiting.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeVar

from live.answer import Ask, Token
from live.decoding import Batch, Reason, TooLongError
from live.server.errors import ApiError, busy, stopping
from live.server.metrics import Metrics
from live.session import KnowledgeSession
from plumbing.stopwatch import Stopwatch
from retrieval.passage import Passage

log = logging.getLogger(__name__)

T = TypeVar("T")
_MOST_BATCHES = 2  # that take turns, so that nobody waits for the end of somebody's long answer
_SECONDS = 0.5  # of a question, before any was answered; only for Retry-After


@dataclass(frozen=True)
class Begun:
    """A question is being answered.

    Attributes:
        prompt_tokens: The number of tokens of its prompt.
        shown: The passages in the prompt.
    """

    prompt_tokens: int
    shown: tuple[Passage, ...]


@dataclass(frozen=True)
class Said:
    """A token, or the end, or both.

    Attributes:
        token: The token.
        finish: Why the answer ends here; None: it goes on.
    """

    token: Token | None
    finish: Reason | None


Event = Begun | Said | ApiError


@dataclass(eq=False)
class Job:
    """A question that somebody waits for.

    Attributes:
        ask: The question.
        loop: The event loop of the one who waits.
        events: What happens to it.
        watch: Since it was asked.
        is_dropped: Whether nobody waits any longer.
        has_begun: Whether its first token was decoded.
    """

    ask: Ask
    loop: asyncio.AbstractEventLoop
    events: asyncio.Queue[Event] = field(default_factory=asyncio.Queue)
    watch: Stopwatch = field(default_factory=Stopwatch)
    is_dropped: bool = False
    has_begun: bool = False

    def tell(self, event: Event) -> None:
        """Say what has happened, from the engine's thread."""
        self.loop.call_soon_threadsafe(self.events.put_nowait, event)


class Engine:
    """Decodes for all clients of a session, in one thread.

    Args:
        session: The session, which nobody else uses from now on.
        max_batch: The most questions that are decoded together.
        max_queue: The most questions that wait.
        metrics: What is counted.
    """

    def __init__(
        self, session: KnowledgeSession, max_batch: int, max_queue: int, metrics: Metrics
    ) -> None:
        self.session, self.metrics = session, metrics
        self._max_batch, self._max_queue = max_batch, max_queue
        self._wake = threading.Condition()
        self._waiting: deque[Job] = deque()
        self._calls: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._between: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._running: list[tuple[Batch, list[Job]]] = []
        self._is_draining = self._is_stopped = self._is_changing = False
        self._seconds = _SECONDS  # of a question, a moving mean
        self._thread = threading.Thread(target=self._run, name="decoding", daemon=True)

    def start(self) -> None:
        """Begin to decode."""
        self._thread.start()

    @property
    def is_draining(self) -> bool:
        """Whether nothing new is taken."""
        return self._is_draining

    @property
    def is_idle(self) -> bool:
        """Whether nothing is left to do."""
        with self._wake:
            return not (self._has_work or self._is_changing)

    @property
    def _has_work(self) -> bool:
        return bool(self._calls or self._between or self._waiting or self._running)

    @property
    def load(self) -> tuple[int, int]:
        """How many questions wait, and how many are being answered."""
        with self._wake:
            return len(self._waiting), sum(batch.running for batch, _ in self._running)

    def submit(self, ask: Ask) -> Job:
        """Put a question into the queue, from an event loop.

        Raises:
            ApiError: If the queue is full, or if the server is being stopped.
        """
        job = Job(ask, asyncio.get_running_loop())
        with self._wake:
            if self._is_draining:
                raise stopping()
            self._leave_out_dropped()
            if len(self._waiting) >= self._max_queue:
                self.metrics.refused.inc()
                turns = 1 + len(self._waiting) // self._max_batch
                raise busy("questions", max(1, min(60, round(turns * self._seconds))))
            self._waiting.append(job)
            self._wake.notify()
        return job

    async def call(self, function: Callable[[], T]) -> T:
        """Run a change of the session between two tokens, and return its result.

        Raises:
            ApiError: If too many changes wait, or if the server is being stopped.
        """
        future: Future[T] = Future()
        with self._wake:
            if self._is_draining:
                raise stopping()
            if len(self._calls) >= self._max_queue:
                raise busy("changes", 1)
            self._calls.append((function, future))
            self._wake.notify()
        # A change that was taken on is finished, even if the one who asked for it has gone.
        return await asyncio.shield(asyncio.wrap_future(future))

    async def call_between(self, function: Callable[[], T]) -> T:
        """Run something that is in no hurry. Between two tokens one of these is run, for all.

        Raises:
            ApiError: If the server is being stopped.
        """
        future: Future[T] = Future()
        with self._wake:
            if self._is_draining:
                raise stopping()
            self._between.append((function, future))
            self._wake.notify()
        return await asyncio.wrap_future(future)

    def drain(self) -> None:
        """Take nothing new from now on; what was taken is finished."""
        with self._wake:
            self._is_draining = True
            self._wake.notify()

    def stop(self) -> None:
        """End the thread. Whoever still waits is told so."""
        with self._wake:
            self._is_draining = self._is_stopped = True
            self._wake.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._wake:
                while not (self._has_work or self._is_stopped):
                    self._wake.wait()
                if self._is_stopped:
                    break
                calls, self._calls = list(self._calls), deque()
                if self._between:
                    calls.append(self._between.popleft())
                self._is_changing = bool(calls)
                jobs = self._admitted()
            for function, future in calls:
                _fulfil(future, function)
            self._is_changing = False
            if jobs:
                self._begin(jobs)
            for batch, those in list(self._running):
                self._step(batch, those)
        for job in [*self._waiting, *(job for _, jobs in self._running for job in jobs)]:
            job.tell(stopping())
        for _, future in [*self._calls, *self._between]:
            if future.set_running_or_notify_cancel():
                future.set_exception(stopping())

    def _leave_out_dropped(self) -> None:
        """Give the places of those who have gone to others."""
        self._waiting = deque(job for job in self._waiting if not job.is_dropped)

    def _admitted(self) -> list[Job]:
        """Take jobs that wait, if there is room for them."""
        self._leave_out_dropped()
        running = sum(batch.running for batch, _ in self._running)
        is_crowded = running > self._max_batch // 2 or len(self._running) >= _MOST_BATCHES
        if self._running and is_crowded:
            return []
        room = min(len(self._waiting), self._max_batch - running)
        return [self._waiting.popleft() for _ in range(room)]

    def _begin(self, jobs: list[Job]) -> None:
        sound = []
        for job in jobs:
            try:
                self.session.check(job.ask)
                sound.append(job)
            except TooLongError as error:
                job.tell(ApiError(400, str(error), "messages", "context_length_exceeded"))
            except Exception:  # noqa: BLE001  # one fault must not end the server
                self._fail([job])
        if not sound:
            return
        try:
            batch = self.session.begin([job.ask for job in sound])
        except Exception:  # noqa: BLE001  # one fault must not end the server
            self._fail(sound)
            return
        with self._wake:
            self._running.append((batch, sound))
        for row, job in enumerate(sound):
            job.tell(Begun(batch.prompt_tokens[row], batch.shown[row]))

    def _step(self, batch: Batch, jobs: list[Job]) -> None:
        for row, job in enumerate(jobs):
            if job.is_dropped:
                batch.drop(row)
        watch = Stopwatch()
        try:
            spoken = batch.step()
        except Exception:  # noqa: BLE001  # one fault must not end the server
            self._fail(jobs)
            with self._wake:
                self._running.remove((batch, jobs))
            return
        if spoken:
            self.metrics.step_seconds.observe(watch.seconds)
        for each in spoken:
            self._count(jobs[each.row], each.token, each.finish)
        if not batch.running:
            batch.step()  # frees what the batch holds
            with self._wake:
                self._running.remove((batch, jobs))
        for each in spoken:
            jobs[each.row].tell(Said(each.token, each.finish))

    def _count(self, job: Job, token: Token | None, finish: Reason | None) -> None:
        metrics, mode = self.metrics, job.ask.mode
        if token is not None:
            metrics.tokens.labels(mode).inc()
        if not job.has_begun:
            job.has_begun = True
            metrics.first_token_seconds.observe(job.watch.seconds)
        if finish is not None:
            metrics.answers.labels(mode, finish).inc()
            metrics.answer_seconds.observe(job.watch.seconds)
            self._seconds += 0.1 * (job.watch.seconds - self._seconds)

    def _fail(self, jobs: list[Job]) -> None:
        """Tell those whom a fault concerns, and log it."""
        log.exception("decoding %d questions failed", len(jobs))
        for job in jobs:
            job.tell(ApiError(500, "the answer failed; the server's log says why"))


def _fulfil(future: Future[Any], function: Callable[[], Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(function())
    except Exception as error:  # noqa: BLE001  # it is raised where the change was asked for
        future.set_exception(error)
