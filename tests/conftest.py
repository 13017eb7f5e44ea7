"""Fixtures of all tests."""

from __future__ import annotations

from typing import Any

import hypothesis
import pytest
from tiny import make_backbone, make_tokenizer

from qa.backbone import Backbone

# The same examples every time: a run passes or fails by what was changed. Others:
# make test ARGS=--hypothesis-profile=default
hypothesis.settings.register_profile("repeatable", derandomize=True)
hypothesis.settings.load_profile("repeatable")


@pytest.fixture(scope="session")
def tiny_tokenizer() -> Any:
    """See `make_tokenizer`."""
    return make_tokenizer()


@pytest.fixture(scope="session")
def tiny_backbone(tiny_tokenizer: Any) -> Backbone:
    """See `make_backbone`; shared by all tests, so a test must leave nothing injected."""
    return make_backbone(tokenizer=tiny_tokenizer)
