"""Signal handlers that Python does not know about, kept while other libraries are started.

The Java virtual machine that runs BM25 needs such handlers: its compiled code causes a SIGSEGV on
purpose wherever a thread has to stop. If another library resets the handlers, the next SIGSEGV ends
the process without any message.
"""

from __future__ import annotations

import ctypes
import signal
from collections.abc import Iterator
from contextlib import contextmanager

_NAMES = ("SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL")
OF_THE_JVM = frozenset(s for s in signal.valid_signals() if getattr(s, "name", "") in _NAMES)
_ROOM = 512  # bytes; a ``struct sigaction`` is smaller than this on every system


@contextmanager
def signals_kept() -> Iterator[None]:
    """Put back, after the block, the handlers that C knew before it.

    Ray needs this: it installs handlers of its own when it starts, and resets them when it ends.
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
