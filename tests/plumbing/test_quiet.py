"""What is left out of libraries' messages, and that everything else is shown."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest
from huggingface_hub.utils.tqdm import are_progress_bars_disabled
from transformers.utils import logging as transformers_logging

from plumbing.quiet import (
    LINES,
    TALKATIVE,
    leave_out_chatter,
    without_advice_on_workers,
    without_loading_bar,
    without_report_of_new_head,
    without_warning_of_old_name,
)

LIGHTNING = "lightning.pytorch.utilities.rank_zero"
TIP = "💡 Tip: For seamless cloud logging and experiment tracking,"
HEAD = """\x1b[1mBertForSequenceClassification LOAD REPORT\x1b[0m from: folder
Key               | Status  |
------------------+---------+-
classifier.bias   | MISSING |
{other}
Notes:
- MISSING:\tthose params were newly initialized."""


@pytest.fixture
def quiet() -> Iterator[None]:
    """As in a command; afterwards the loggers are as they were."""
    loggers = [logging.getLogger(name) for name in (*LINES, *TALKATIVE)]
    before = [(logger.filters[:], logger.level) for logger in loggers]
    with warnings.catch_warnings():
        leave_out_chatter()
        yield
    for logger, (filters, level) in zip(loggers, before, strict=True):
        logger.filters[:] = filters
        logger.setLevel(level)


@pytest.mark.parametrize(
    ("message", "is_shown"),
    [
        ("GPU available: True (cuda), used: False", False),
        ("TPU available: False, using: 0 TPU cores", False),
        ("`Trainer.fit` stopped: `max_epochs=4` reached.", False),
        ("Loading `train_dataloader` to estimate number of stepping batches.", False),
        (
            f"{TIP} try installing [litlogger]",
            False,
        ),
        ("`Trainer.fit` stopped: something else", True),
        ("Restored all states from the checkpoint at last.ckpt", True),
    ],
)
def test_lightning(
    quiet: None, message: str, is_shown: bool, caplog: pytest.LogCaptureFixture
) -> None:
    logger = logging.getLogger(LIGHTNING)
    logger.addHandler(caplog.handler)
    try:
        logger.warning(message)
    finally:
        logger.removeHandler(caplog.handler)
    assert (message in caplog.messages) == is_shown


def test_a_second_call_changes_nothing(quiet: None) -> None:
    before = logging.getLogger(LIGHTNING).filters[:]
    leave_out_chatter()
    assert logging.getLogger(LIGHTNING).filters == before


@pytest.mark.parametrize("name", ["faiss.loader", "sentence_transformers.base.model"])
def test_warnings_of_the_talkative_are_shown(quiet: None, name: str) -> None:
    logger = logging.getLogger(name)
    assert not logger.isEnabledFor(logging.INFO)
    assert logger.isEnabledFor(logging.WARNING)


def test_other_warnings_are_shown(quiet: None) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        leave_out_chatter()
        warnings.warn("`isinstance(treespec, LeafSpec)` is deprecated, use", FutureWarning, 2)
        warnings.warn("`something` is deprecated", FutureWarning, 2)
    assert [str(each.message) for each in caught] == ["`something` is deprecated"]


@pytest.mark.parametrize(
    ("quiet_about", "message", "category"),
    [
        (without_warning_of_old_name, "`is_gradient_checkpointing` is deprecated", FutureWarning),
        (without_advice_on_workers, "The 'x' does not have many workers which may", UserWarning),
    ],
)
def test_one_warning_is_left_out_while_a_library_works(
    quiet_about: Callable[[], AbstractContextManager[None]],
    message: str,
    category: type[Warning],
) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with quiet_about():
            warnings.warn(message, category, 2)
            warnings.warn("another one", category, 2)
        warnings.warn(message, category, 2)
    assert [str(each.message) for each in caught] == ["another one", message]


def test_loading_shows_no_bar_and_downloads_still_do() -> None:
    before = transformers_logging.is_progress_bar_enabled(), are_progress_bars_disabled()
    with without_loading_bar():
        assert not transformers_logging.is_progress_bar_enabled()
        assert are_progress_bars_disabled() == before[1]
    assert (transformers_logging.is_progress_bar_enabled(), are_progress_bars_disabled()) == before


@pytest.mark.parametrize(
    ("other", "is_shown"),
    [
        ("score.weight      | MISSING |", False),
        ("bert.embed.weight | MISSING |", True),
        ("classifier.weight | MISMATCH | 2 and 1", True),
    ],
)
def test_only_a_new_head_may_be_missing(
    other: str, is_shown: bool, caplog: pytest.LogCaptureFixture
) -> None:
    logger = logging.getLogger("transformers.modeling_utils")
    message = HEAD.format(other=other)
    logger.addHandler(caplog.handler)
    try:
        with without_report_of_new_head():
            logger.warning(message)
    finally:
        logger.removeHandler(caplog.handler)
    assert (message in caplog.messages) == is_shown
    assert not [each for each in logger.filters if "NewHead" in type(each).__name__]
