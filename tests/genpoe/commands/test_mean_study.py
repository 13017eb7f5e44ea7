"""The bound under eq. 4: whitening finds the words that the plain mean hides."""

from __future__ import annotations

from genpoe.commands.mean_study import measure
from qa.data.bios import generate


def test_all_powers_and_shrinkages_are_measured(tiny_backbone):
    dataset = generate(train_entities=60, dev_entities=8, distractor_entities=0)
    rows = measure(tiny_backbone, dataset)
    assert len(rows) == 9
    assert all(0 <= row["first"] <= 100 and 0 <= row["first_100"] <= 100 for row in rows)
    assert len({row["first"] for row in rows}) > 1
