"""An open index that is exchanged under its readers: none sees a closed or a half changed one."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from retrieval.current import Current


class State:
    """A state that says whether it is open, in two parts that belong together."""

    def __init__(self, number: int) -> None:
        self.number, self.fingerprint = number, f"state {number}"
        self.closed = 0

    def close(self) -> None:
        self.closed += 1


def test_the_old_one_is_closed_when_its_last_reader_has_left() -> None:
    first, second = State(1), State(2)
    current = Current(first, close=State.close)
    with current.use() as one:
        with current.use() as other:
            assert one is other is first
            current.replace(second)
            with current.use() as new:
                assert new is second
        assert [first.closed, second.closed] == [0, 0]
    assert [first.closed, second.closed] == [1, 0]
    with current.use() as new:
        assert new is second
    assert [first.closed, second.closed] == [1, 0]
    current.replace(State(3))
    assert [first.closed, second.closed] == [1, 1]


def test_an_old_one_that_nobody_reads_is_closed_at_once() -> None:
    first = State(1)
    current = Current(first, close=State.close)
    current.replace(State(2))
    assert first.closed == 1


def test_a_reader_that_fails_leaves_as_well() -> None:
    first = State(1)
    current = Current(first, close=State.close)

    def fail() -> None:
        with current.use():
            current.replace(State(2))
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert first.closed == 1


def test_without_a_close_the_last_reference_is_given_up() -> None:
    first = State(1)
    seen = weakref.ref(first)
    current = Current(first)
    del first
    with current.use() as one:
        current.replace(State(2))
        gc.collect()
        assert seen() is one
    del one
    gc.collect()
    assert seen() is None


def test_readers_while_it_is_exchanged() -> None:
    states = [State(number) for number in range(300)]
    current = Current(states[0], close=State.close)
    done = threading.Event()

    def read() -> int:
        reads, last = 0, 0
        while not done.is_set() or reads < 10:
            with current.use() as state:
                assert not state.closed
                assert state.fingerprint == f"state {state.number}"
                assert state.number >= last  # never back to an older one
                last = state.number
                with current.use() as newer:
                    assert newer.number >= last
                assert not state.closed
            reads += 1
        return reads

    with ThreadPoolExecutor(4) as pool, _set_at_the_end(done):
        readers = [pool.submit(read) for _ in range(4)]
        for state in states[1:]:
            current.replace(state)
    assert all(reader.result() >= 10 for reader in readers)
    assert [state.closed for state in states] == [1] * 299 + [0]


@contextmanager
def _set_at_the_end(event: threading.Event) -> Iterator[None]:
    try:
        yield
    finally:
        event.set()
