"""Messages of libraries that mean nothing to somebody who runs our commands are left out.

Each of them is named here by its own words. Everything else that a library says, above all every
other warning, is shown as before.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

# What Lightning tells at every start and end of a training, and advertises.
LIGHTNING_LINES = (
    r"GPU available: (True|False)( \(\w+\))?, used: (True|False)",
    r"TPU available: (True|False), using: \d+ TPU cores",
    r"HPU available: .*",
    r"💡 Tip: For seamless cloud logging and experiment tracking, try installing \[litlogger\].*",
    r"💡 Tip: For seamless cloud uploads and versioning, try installing \[litmodels\].*",
    r"Using (bfloat16|16bit) Automatic Mixed Precision \(AMP\)",
    r"`Trainer\.fit` stopped: `max_(epochs|steps)=\d+` reached\.",
    r"Loading `train_dataloader` to estimate number of stepping batches\.",
)
LINES: Mapping[str, Sequence[str]] = {
    "lightning.fabric.utilities.rank_zero": LIGHTNING_LINES,
    "lightning.pytorch.utilities.rank_zero": LIGHTNING_LINES,
}

# These report each step of their own start as information; their warnings are shown.
TALKATIVE = ("faiss.loader", "sentence_transformers")

# Libraries that call one another by names that are going; there is nothing for a user to change.
_OLD_NAME_IN_PEFT = r"`is_gradient_checkpointing` is deprecated"
FUTURE_WARNINGS = (
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
    _OLD_NAME_IN_PEFT,
)


class _Without(logging.Filter):
    """Leaves out the messages that match one of some patterns from their beginning to their end."""

    def __init__(self, patterns: Sequence[str]) -> None:
        super().__init__()
        self.patterns = tuple(patterns)
        self._found = re.compile("|".join(f"(?:{each})" for each in patterns), re.DOTALL)

    def filter(self, record: logging.LogRecord) -> bool:
        """True if the record is to be shown."""
        return self._found.fullmatch(record.getMessage()) is None


def leave_out_chatter() -> None:
    """Leave out what this file names, in this process, from now on.

    No library is imported. A command calls this once, before it imports any; a second call changes
    nothing.
    """
    for name, patterns in LINES.items():
        logger = logging.getLogger(name)
        if not any(isinstance(each, _Without) for each in logger.filters):
            logger.addFilter(_Without(patterns))
    for name in TALKATIVE:
        logger = logging.getLogger(name)
        if logger.level < logging.WARNING:
            logger.setLevel(logging.WARNING)
    for message in FUTURE_WARNINGS:
        warnings.filterwarnings("ignore", message, FutureWarning)


@contextmanager
def without_warning_of_old_name() -> Iterator[None]:
    """Let PEFT wrap a model by a name that transformers is removing; we cannot change that."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", _OLD_NAME_IN_PEFT, FutureWarning)
        yield


@contextmanager
def without_advice_on_workers() -> Iterator[None]:
    """Let Lightning run without being told to load data in more processes.

    Our data are in memory, or take a hundredth of a step to prepare: workers would only copy them.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*does not have many workers")
        yield


@contextmanager
def without_loading_bar() -> Iterator[None]:
    """Let transformers read and write the weights of a model without a progress bar.

    A model in a folder is there in a moment. The bars of the hub's downloads, which take minutes,
    are shown as before.
    """
    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )
    from transformers.utils import logging as transformers_logging

    shown, downloads_shown = (
        transformers_logging.is_progress_bar_enabled(),
        not are_progress_bars_disabled(),
    )

    def show_downloads() -> None:  # transformers switches the hub's bars together with its own
        (enable_progress_bars if downloads_shown else disable_progress_bars)()

    transformers_logging.disable_progress_bar()
    show_downloads()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()
        show_downloads()


@contextmanager
def without_report_of_new_head() -> Iterator[None]:
    """Let transformers put a new head for classification upon a model without a warning.

    A new head is expected where a model is about to be trained. If any other weight is missing or
    is not used, transformers' report is shown.
    """
    with _filtered("transformers.modeling_utils", _NewHeadAlone()):
        yield


@contextmanager
def without_report_of_weights() -> Iterator[None]:
    """Let transformers load a model without its table of weights that are missing or left over.

    Whoever calls this asks transformers for the same facts, and says them in one line. What the
    table says about a conversion that failed is shown.
    """
    with _filtered("transformers.modeling_utils", _WeightsAlone()):
        yield


@contextmanager
def _filtered(name: str, records: logging.Filter) -> Iterator[None]:
    """Put a filter upon a logger for the duration of a ``with`` block."""
    logger = logging.getLogger(name)
    logger.addFilter(records)
    try:
        yield
    finally:
        logger.removeFilter(records)


class _WeightsAlone(logging.Filter):
    """Leaves out a report about the weights of a model unless a conversion failed."""

    def filter(self, record: logging.LogRecord) -> bool:
        """True if the record is to be shown."""
        message = record.getMessage()
        return " LOAD REPORT" not in message or "CONVERSION" in message


class _NewHeadAlone(logging.Filter):
    """Leaves out a report about the weights of a model if only its head is missing."""

    _row = re.compile(r"\S+ +\| *[A-Z]+\b.*")
    _of_head = re.compile(r"(pre_classifier|classifier|score)\.\S+ +\| *MISSING\b.*")
    _colour = re.compile(r"\x1b\[[\d;]*m")

    def filter(self, record: logging.LogRecord) -> bool:
        """True if the record is to be shown."""
        lines = self._colour.sub("", record.getMessage()).splitlines()
        if not lines or " LOAD REPORT from: " not in lines[0]:
            return True
        rows = [line for line in lines if self._row.fullmatch(line)]
        return not rows or not all(self._of_head.fullmatch(row) for row in rows)
