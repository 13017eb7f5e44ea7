"""Where the browser of the tests comes from, and what to install where there is none."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

SECONDS = 20  # a busy machine is slow, and a failure is found out all the same

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_NO_PLAYWRIGHT = "the page is tested in a browser: install Playwright (pip install playwright)"
NO_CHROMIUM = (
    "the page is tested in a browser: install Chromium (Debian: apt-get install chromium), or name "
    "one in the environment variable CHROMIUM"
)


def chromium() -> str | None:
    """The path of a Chromium: the one that CHROMIUM names, or one that is installed."""
    found = [os.environ.get("CHROMIUM"), *map(shutil.which, _NAMES)]
    return next((path for path in found if path and Path(path).is_file()), None)


def playwright() -> Any:
    """Playwright's module; without it the test is skipped, and the reason says what to install."""
    return pytest.importorskip("playwright.sync_api", reason=_NO_PLAYWRIGHT)


def patient_expect() -> Any:
    """Playwright's ``expect``, which waits `SECONDS` for what is expected."""
    expect = playwright().expect
    expect.set_options(timeout=1000 * SECONDS)
    return expect
