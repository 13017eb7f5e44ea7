"""Hashes that stand in artefacts on users' disks: they are the same as ever."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from plumbing.storage.hashing import digest, short_hash
from plumbing.storage.log import cache_key


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "74234e98afe7498fb5daf1f36ac2d78acc339464f950703b8c019892f982b90b"),
        ({}, "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"),
        (
            {"b": [1, 2.5, True], "a": {"d": None, "c": "Zürich"}},
            "9548e3fda64ec323580d661752d05500a7a3af00ad4f56783775ade066aff8a7",
        ),
    ],
)
def test_digests_are_the_same_as_ever(value: Any, expected: str) -> None:
    assert digest(value) == expected


def test_equal_values_have_equal_digests() -> None:
    assert digest({"a": 1, "b": (2, 3)}) == digest({"b": [2, 3], "a": 1})
    values = [1, "1", [1], [[1]], {"1": 1}, None, True, 1.5, "", [], ["a", "b"], ["ab"], ["a b"]]
    assert len({digest(value) for value in values}) == len(values)


def test_what_is_no_json_is_refused() -> None:
    with pytest.raises(TypeError):
        digest({"path": object()})


def test_keys_of_caches_are_those_of_before() -> None:
    parts = ("augmentation", "a" * 64, (("user", "Who?"),), "", 32, 0)
    before = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    assert cache_key(*parts) == digest(parts) == before


def test_short_hashes_are_the_same_as_ever() -> None:
    assert short_hash("").hex() == "e4a6a0577479b2b4"
    assert short_hash("Zürich").hex() == "707438faa779d508"
    assert short_hash("\ud800") != short_hash("\udbff")
