"""Signal handlers of which Python knows nothing, and who takes them away.

The JVM of BM25 works by them: its compiled code runs into SIGSEGV on purpose, wherever a thread has
to stop. Whoever resets them ends the process, without a word, at the next one.
"""

from __future__ import annotations

import ctypes
import signal
from collections.abc import Iterator
from contextlib import contextmanager

_NAMES = ("SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL")
OF_THE_JVM = frozenset(s for s in signal.valid_signals() if getattr(s, "name", "") in _NAMES)
_ROOM = 512  # bytes; more than a ``struct sigaction`` of any system


@contextmanager
def signals_kept() -> Iterator[None]:
    """Put the handlers back that were there before the block, as C knows them.

    Ray installs handlers of its own when it starts, and resets them when it ends.
    """
    sigaction = ctypes.CDLL(None).sigaction
    before = {number: ctypes.create_string_buffer(_ROOM) for number in OF_THE_JVM}
    for number, action in before.items():
        sigaction(int(number), None, action)
    try:
        yield
    finally:
        for number, action in before.items():
            sigaction(int(number), action, None)
