"""What an open index searches, exchanged under the threads that are searching it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

T = TypeVar("T")


class Current(Generic[T]):
    """Holds the state of an index, which a change replaces while threads may still be using it.

    A thread that uses a state keeps it until its block ends, whatever replaces it meanwhile; so
    everything that belongs together (a searcher and what the fingerprint says about it) is put into
    one state, and no thread ever sees half a change. A state that was replaced is closed once its
    last user has left.

    Args:
        value: The first state.
        close: Closes a state that nobody uses any longer; None: its files are closed with the last
            reference to it.
    """

    def __init__(self, value: T, close: Callable[[T], None] | None = None) -> None:
        self._lock = threading.Lock()
        self._close = close
        self._held = _Held(value)

    @contextmanager
    def use(self) -> Iterator[T]:
        """The current state, which stays open for as long as the block runs."""
        with self._lock:
            held = self._held
            held.users += 1
        try:
            yield held.value
        finally:
            self._leave(held)

    def replace(self, value: T) -> None:
        """Make another state the current one, and close the old one as soon as nobody uses it."""
        with self._lock:
            old, self._held = self._held, _Held(value)
        self._leave(old)

    def _leave(self, held: _Held[T]) -> None:
        with self._lock:
            held.users -= 1
            last = held.users == 0
        if last and self._close is not None:
            self._close(held.value)


class _Held(Generic[T]):
    """A state, and how many use it: the threads in their blocks, and its being the current one."""

    def __init__(self, value: T) -> None:
        self.value, self.users = value, 1
