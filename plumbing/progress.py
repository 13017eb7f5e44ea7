"""The one progress bar: it has a name and an estimate, and leaves everybody else alone.

The bar goes to stderr, so that what a command prints on stdout can be read by a program. It is
shown only where somebody watches: if stderr is a terminal, and ``TQDM_DISABLE=1`` is not in the
environment. While it is shown, lines of the log are written above it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import TypeVar

T = TypeVar("T")

SECONDS_BETWEEN_UPDATES = 0.3


def is_shown() -> bool:
    """True if progress bars are shown in this process."""
    return sys.stderr.isatty() and os.environ.get("TQDM_DISABLE", "") in ("", "0")


def progress(
    items: Iterable[T],
    description: str,
    total: int | None = None,
    position: Callable[[], int] | None = None,
    note: Callable[[], str] | None = None,
) -> Iterator[T]:
    """Hand on the items, and show how many of them are done and when the last one will be.

    Args:
        items: What is worked through, once.
        description: What is done, as in "Answering".
        total: How much there is to do; default: the number of items.
        position: How much of ``total`` is done. It is asked whenever an item is done, in place of
            counting one for each item.
        note: What stands behind the bar, for example a loss; asked likewise.

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
    return _watched(items, description, total, position, note) if is_shown() else iter(items)


def _watched(
    items: Iterable[T],
    description: str,
    total: int,
    position: Callable[[], int] | None,
    note: Callable[[], str] | None,
) -> Iterator[T]:
    from tqdm import tqdm
    from tqdm.contrib.logging import logging_redirect_tqdm

    with (
        logging_redirect_tqdm(),
        tqdm(
            desc=description,
            total=total,
            file=sys.stderr,
            dynamic_ncols=True,
            mininterval=SECONDS_BETWEEN_UPDATES,
        ) as bar,
    ):
        for item in items:
            yield item
            if note is not None:
                bar.set_postfix_str(note(), refresh=False)
            bar.update(1 if position is None else position() - bar.n)
        if position is not None:  # what was done after the last item, or without one
            bar.update(position() - bar.n)
