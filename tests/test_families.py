"""The families that work are those of the table in the documentation."""

from __future__ import annotations

import logging

import pytest

from tests.helpers.families import FAMILIES, documented_table, make_dataset, run_family, table

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # of transformers, about tiny configurations
]
FAST = ("phi3",)  # of what most families share, and of what a few do not


@pytest.fixture(scope="module")
def dataset():
    return make_dataset()


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in FAST else pytest.mark.slow) for n in FAMILIES]
)
def test_a_family_does_what_the_table_says(name, tiny_tokenizer, dataset, caplog):
    caplog.set_level(logging.ERROR, "transformers")  # until the end of the test
    found = table([run_family(name, tiny_tokenizer, dataset)]).splitlines()[-1]
    assert found in documented_table().splitlines(), "run python -m tests.helpers.families"


def test_the_table_has_these_families_and_no_others():
    rows = documented_table().splitlines()[2:]
    assert [row.split("`")[1] for row in rows] == list(FAMILIES)
