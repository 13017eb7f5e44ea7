"""The one progress bar: it has a name and an estimate, and leaves everybody else alone.

The bar goes to stderr, so that what a command prints on stdout can be read by a program. It is
shown only where somebody watches: if stderr is a terminal, and ``TQDM_DISABLE=1`` is not in the
environment. While it is shown, lines of the log are written above it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import ExitStack
from typing import TypeVar

T = TypeVar("T")

SECONDS_BETWEEN_UPDATES = 0.3


def is_shown() -> bool:
    """True if progress bars are shown in this process."""
    return sys.stderr.isatty() and os.environ.get("TQDM_DISABLE", "") in ("", "0")


class Bar:
    """A bar that is moved by hand; `progress` moves one over items. It does nothing unless shown.

    Args:
        description: What is done, as in "Answering".
        total: How much there is to do.
    """

    def __init__(self, description: str, total: int) -> None:
        self._open, self._bar = ExitStack(), None
        if is_shown():
            from tqdm import tqdm
            from tqdm.contrib.logging import logging_redirect_tqdm

            self._open.enter_context(logging_redirect_tqdm())
            self._bar = self._open.enter_context(
                tqdm(
                    desc=description,
                    total=total,
                    file=sys.stderr,
                    dynamic_ncols=True,
                    mininterval=SECONDS_BETWEEN_UPDATES,
                )
            )

    def move(self, done: int, note: str = "") -> None:
        """Move the bar to `done` and show a note after it."""
        if self._bar is not None:
            if note:
                self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(done - self._bar.n)

    def close(self) -> None:
        """Leave the bar as it is, and the terminal to others."""
        self._open.close()

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def progress(
    items: Iterable[T],
    description: str,
    total: int | None = None,
    position: Callable[[], int] | None = None,
) -> Iterator[T]:
    """Hand on the items, and show how many of them are done and when the last one will be.

    Args:
        items: What is worked through, once.
        description: What is done, as in "Answering".
        total: How much there is to do; default: the number of items.
        position: How much of ``total`` is done. It is asked whenever an item is done, in place of
            counting one for each item.

    Returns:
        An iterator over the same items. Nothing is shown before the first one is asked for.

    Raises:
        TypeError: If the items have no length and no total is given: there would be no estimate.
    """
    if total is None:
        if not isinstance(items, Sized):
            raise TypeError(
                f"{description}: expected items with a length, got {type(items).__name__}; give "
                "their number as total=…"
            )
        total = len(items)
    return _watched(items, description, total, position) if is_shown() else iter(items)


def _watched(
    items: Iterable[T], description: str, total: int, position: Callable[[], int] | None
) -> Iterator[T]:
    with Bar(description, total) as bar:
        for count, item in enumerate(items, start=1):
            yield item
            bar.move(count if position is None else position())
        if position is not None:  # what was done after the last item, or without one
            bar.move(position())
