"""Tables of results."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qa.tables.tables import Setting, flat, markdown_table, results_table, summary

METRICS = {
    "genpoe/rag/shuffled/em": 11.0,
    "genpoe/rag/gold/em": 70.04,
    "genpoe/norag/gold/em": 61.25,
    "genpoe/norag/gold/em_low": 58.0,
    "genpoe/norag/gold/em_high": 64.5,
    "genpoe/norag/gold/f1": 66.0,
    "genpoe/norag/gold/nll": 1.2345,
    "genpoe/norag/gold/n": 300,
    "genpoe/norag/shuffled/em": 3.0,
    "rag/gold/em": 50.0,
    "rag/shuffled/em": 1.0,
    "base/em": 0.4,
    "base/nll": 5.5,
    "base/nll_low": 5.4,
    "base/nll_high": 5.6,
    "seconds": 700.0,
}

TABLE = """\
| Method | RAG | Passages | EM | F1 | nll |
| --- | --- | --- | ---: | ---: | ---: |
| base | no | – | 0.4 | – | 5.50 (5.40–5.60) |
| rag | yes | gold | 50.0 | – | – |
| rag | yes | shuffled | 1.0 | – | – |
| genpoe | no | gold | 61.2 (58.0–64.5) | 66.0 | 1.23 |
| genpoe | no | shuffled | 3.0 | – | – |
| genpoe | yes | gold | 70.0 | – | – |
| genpoe | yes | shuffled | 11.0 | – | – |
"""


def test_table_has_a_row_a_setting_and_a_column_a_metric() -> None:
    assert results_table(METRICS) == TABLE
    assert results_table(dict(reversed(METRICS.items()))) == TABLE


def test_table_without_results_is_an_error() -> None:
    with pytest.raises(ValueError, match="no results to show"):
        results_table({"seconds": 1.0, "genpoe/norag/gold/n": 3})


@pytest.mark.parametrize("key", ["genpoe", "rag", "base/gold", "genpoe/no/gold", "genpoe/rag/x"])
def test_malformed_settings_are_named(key: str) -> None:
    with pytest.raises(ValueError, match=f"got '{key}'"):
        results_table({f"{key}/em": 1.0})


@given(st.sampled_from(["genpoe", "dmoe"]), st.booleans(), st.sampled_from(["gold", "shuffled"]))
def test_key_and_setting_are_inverse(method: str, rag: bool, passages: str) -> None:
    for setting in (
        Setting(method, rag, passages),
        Setting("rag", True, passages),
        Setting("base", False, ""),
    ):
        assert Setting.parse(setting.key) == setting


def test_summary_is_one_line() -> None:
    metrics = {"em": 50.0, "em_low": 40.0, "em_high": 60.0, "nll": 1.0, "n": 8}
    assert summary(metrics) == "EM 50.0 (40.0–60.0), nll 1.00 over 8 questions"


def test_flat_keeps_numbers() -> None:
    result = {
        "speed": {"ours": [3.0, 1.0, 9.0], "a peer's": {"median": 2}},
        "growth": [{"passages": 10, "name": "x"}, {"passages": 20}],
        "equal": True,
        "machine": {"threads": 2, "processor": "…"},
        "none": [],
    }
    assert flat(result) == {
        "speed/ours": 3.0,
        "speed/a peer's/median": 2,
        "growth/0/passages": 10,
        "growth/1/passages": 20,
        "machine/threads": 2,
    }


def test_a_markdown_table_by_hand():
    rows = [["a", "1", ""], ["b", "22", "3"]]
    assert markdown_table(rows, ["", "x", "y"], labels=1) == (
        "| | x | y |\n| --- | ---: | ---: |\n| a | 1 |  |\n| b | 22 | 3 |\n"
    )
    assert markdown_table([], ["p", "q"], compact=True) == "| p | q |\n|---|---|\n"
    assert markdown_table([], ["p", "q"], labels=0, compact=True) == "| p | q |\n|---:|---:|\n"


def test_a_row_has_a_cell_for_each_column():
    with pytest.raises(ValueError, match=r"expected 2 cells in a row, got 1: \['a'\]"):
        markdown_table([["a"]], ["x", "y"])
