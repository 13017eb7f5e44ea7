"""The locks of those who change a bank. A process loses its locks when it dies, however it dies.

Writers write their shards side by side (``writing``) and take turns in publishing them, which takes
milliseconds (``publishing``). All of them are kept out while files that no manifest names are
deleted (``cleaning``). Readers take no lock.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from qa.bank.errors import BankError

LOCKS = (".writers.lock", ".publish.lock")
WAIT = 60.0  # seconds that a writer waits for its turn, although each turn takes milliseconds
_PAUSE = 0.01  # seconds between two tries


def writing(folder: Path) -> AbstractContextManager[None]:
    """Hold this lock while writing and publishing shards. Any number of writers may hold it."""
    return _locked(folder / LOCKS[0], fcntl.LOCK_SH, WAIT)


def publishing(folder: Path) -> AbstractContextManager[None]:
    """Hold this lock from reading the manifest until its successor is in place, one at a time."""
    return _locked(folder / LOCKS[1], fcntl.LOCK_EX, WAIT)


def cleaning(folder: Path, wait: float) -> AbstractContextManager[None]:
    """Hold this lock while deleting files that no manifest names. Then no writer is at work.

    Args:
        folder: The bank's folder.
        wait: How many seconds to wait for the writers to finish.

    Raises:
        BankError: If a writer is still at work after that time.
    """
    return _locked(folder / LOCKS[0], fcntl.LOCK_EX, wait)


@contextmanager
def _locked(path: Path, mode: int, wait: float) -> Iterator[None]:
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        _acquire(handle, path, mode, wait)
        try:
            yield
        finally:
            # Closing the file is not enough if a forked child holds the same open file.
            fcntl.flock(handle, fcntl.LOCK_UN)
    finally:
        os.close(handle)


def _acquire(handle: int, path: Path, mode: int, wait: float) -> None:
    end = time.monotonic() + wait
    while True:
        try:
            fcntl.flock(handle, mode | fcntl.LOCK_NB)
            return
        except BlockingIOError as error:
            if time.monotonic() >= end:
                raise BankError(
                    f"{path.parent}: another process is changing the bank (it holds {path.name}; "
                    f"waited {wait:g} s); try again when it is done"
                ) from error
        time.sleep(_PAUSE)
