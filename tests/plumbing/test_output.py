"""What commands print."""

from __future__ import annotations

import pytest

from plumbing.output import show


def test_a_text_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    show("[bold]| a |" + "x" * 300)
    assert capsys.readouterr().out == "[bold]| a |" + "x" * 300 + "\n"
