"""How long something took."""

from __future__ import annotations

import time


class Stopwatch:
    """Runs from the moment when it is made, by a clock that never goes back.

    >>> watch = Stopwatch()
    >>> watch.seconds >= 0
    True
    """

    def __init__(self) -> None:
        self._start = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds since the start or the last `lap`."""
        return time.perf_counter() - self._start

    def lap(self) -> float:
        """Seconds since the start or the last lap; the next lap begins at the same moment."""
        now = time.perf_counter()
        seconds, self._start = now - self._start, now
        return seconds
