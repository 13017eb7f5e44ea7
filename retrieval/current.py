"""Holds an object that may be replaced while threads are using it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Generic, Protocol, TypeVar


class Closeable(Protocol):
    """An object that holds files open."""

    def close(self) -> None:
        """Close the files."""
        ...


T = TypeVar("T", bound=Closeable)


class Current(Generic[T]):
    """Holds the current value of something that can be replaced.

    A thread that is using the old value when it is replaced may finish. The old value is closed
    when its last user has left.

    Args:
        value: The first value.
    """

    def __init__(self, value: T) -> None:
        self._lock = threading.Lock()
        self._value = value
        self._users = {id(value): 1}  # this object counts as one user

    @contextmanager
    def use(self) -> Iterator[T]:
        """The current value, which stays open while the block runs."""
        with self._lock:
            value = self._value
            self._users[id(value)] += 1
        try:
            yield value
        finally:
            self._leave(value)

    def replace(self, value: T) -> None:
        """Make another value the current one."""
        with self._lock:
            old, self._value = self._value, value
            self._users[id(value)] = 1
        self._leave(old)

    def _leave(self, value: T) -> None:
        with self._lock:
            self._users[id(value)] -= 1
            if self._users[id(value)]:
                return
            del self._users[id(value)]
        value.close()
