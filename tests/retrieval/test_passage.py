"""The hashes of passages and ids, which stand in corpora, indexes, caches and banks."""

from __future__ import annotations

import hashlib
import json

from hypothesis import given
from hypothesis import strategies as st

from retrieval.corpus.store import id_hash
from retrieval.passage import Passage, passage_digest, text_digest

PASSAGE = Passage("p 1", "Zürich", "A city.\nIn “Switzerland”.")


def test_hashes_are_the_same_as_ever() -> None:
    assert (
        passage_digest(PASSAGE).hex()
        == "6a55c93994422a3e9852e017d51f0ae5bdef5ff860edf7e316700b1531bb7127"
    )
    assert (
        text_digest(PASSAGE).hex()
        == "25a3e6d92ebc927f54f197594992428b201b8920e137c8e4e1aa58145aad5132"
    )
    assert id_hash(PASSAGE.id) == 7398927220397104601


@given(st.text(), st.text(), st.text())
def test_banks_of_before_know_their_passages(id: str, title: str, text: str) -> None:
    before = hashlib.sha256(json.dumps([title, text]).encode("ascii")).digest()
    assert text_digest(Passage(id, title, text)) == before


def test_the_id_counts_in_one_of_them() -> None:
    other = Passage("p 2", PASSAGE.title, PASSAGE.text)
    assert text_digest(other) == text_digest(PASSAGE)
    assert passage_digest(other) != passage_digest(PASSAGE)
    assert text_digest(Passage("", "a", "bc")) != text_digest(Passage("", "ab", "c"))
