"""The current one of things that are replaced while threads use them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Generic, Protocol, TypeVar


class Closeable(Protocol):
    """Something that holds files."""

    def close(self) -> None:
        """Give them back."""
        ...


T = TypeVar("T", bound=Closeable)


class Current(Generic[T]):
    """Holds a thing; whoever is using it when it is replaced may finish, then it is closed.

    Args:
        value: The first one.
    """

    def __init__(self, value: T) -> None:
        self._lock = threading.Lock()
        self._value = value
        self._users = {id(value): 1}  # we are one

    @contextmanager
    def use(self) -> Iterator[T]:
        """The current one, open for as long as the block runs."""
        with self._lock:
            value = self._value
            self._users[id(value)] += 1
        try:
            yield value
        finally:
            self._leave(value)

    def replace(self, value: T) -> None:
        """Make another the current one."""
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
