"""The form bios: what its pools and phrasings must satisfy."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from qa.data.bios.schema import Attribute, Kind
from qa.data.bios.short import SHORT_KINDS

ATTRIBUTES = [(kind, attribute) for kind in SHORT_KINDS for attribute in kind.attributes]
ATTRIBUTE_IDS = [f"{kind.name}-{attribute.name}" for kind, attribute in ATTRIBUTES]


@pytest.mark.parametrize(("kind", "attribute"), ATTRIBUTES, ids=ATTRIBUTE_IDS)
def test_pools_and_phrasings(kind: Kind, attribute: Attribute) -> None:
    values = [value.lower() for value in attribute.values]
    assert len(set(values)) == len(values) >= 150
    assert len(set(attribute.unseen)) == len(attribute.unseen) == 48
    assert all(re.fullmatch("[A-Za-z]+", value) for value in (*attribute.values, *attribute.unseen))
    assert len(attribute.sentences) >= 4
    assert len(set(attribute.questions)) == len(attribute.questions) >= 4
    assert len(set(attribute.rephrasings)) == len(attribute.rephrasings) >= 2
    assert all(sentence.count("{x}") == 1 for sentence in attribute.sentences)
    every_sentence = (*attribute.sentences, *kind.fillers)
    assert all("{s}" in sentence or "{p}" in sentence for sentence in every_sentence)
    starts = "What|Which|Who|Whose|Where|How|In|As|From|With|To|After"
    for question in (*attribute.questions, *attribute.rephrasings):
        assert re.match(rf"({starts}) .*\?$", question)
        assert question.count("{name}") == 1
        assert len(question.split()) <= 10


@pytest.mark.parametrize("kind", SHORT_KINDS, ids=[kind.name for kind in SHORT_KINDS])
def test_kinds_have_six_attributes_with_disjoint_values(kind: Kind) -> None:
    assert len(kind.attributes) == 6
    singulars = [
        value.lower().removesuffix("s")
        for each in kind.attributes
        for value in (*each.values, *each.unseen)
    ]
    assert [word for word, count in Counter(singulars).items() if count > 1] == []
