"""A small data set."""

from __future__ import annotations

import pytest

from qa.dataset import QADataset, Question
from retrieval.passage import Passage

PEOPLE = ("Tova Blick", "Ann Oakes", "Ulf Brand", "Mia Stone")


@pytest.fixture
def people() -> QADataset:
    """Four people, a passage each, and two questions about each of them; those of dev."""
    passages = {
        f"p{i}": Passage(f"p{i}", name, f"{name} was born in the old town. " * (i + 1))
        for i, name in enumerate(PEOPLE)
    }
    dev = [
        Question(f"q{i}{kind}", f"{verb} was {name} born{'?' * (i + 1)}", (answer,), (f"p{i}",))
        for i, name in enumerate(PEOPLE)
        for kind, verb, answer in (("a", "Where", "Lisbon"), ("b", "When", "9 1 0"))
    ]
    return QADataset("people", passages, {"dev": dev})
