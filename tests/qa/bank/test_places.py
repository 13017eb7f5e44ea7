"""The table of experts' places behaves like a dict."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qa.bank import places as table_module
from qa.bank.places import ABSENT, PlaceTable, split_place, split_places
from qa.bank.records import Records, keys_of

IDS = [f"passage {n}" for n in range(12)]
SHARDS = st.lists(
    st.tuples(st.lists(st.sampled_from(IDS), min_size=1, unique=True), st.booleans()), max_size=12
)


def records(ids: list[str]) -> Records:
    return Records.of(ids, [bytes(32)] * len(ids), [bytes(32)] * len(ids))


@pytest.mark.parametrize("few", [0, 4, 4096])
@pytest.mark.parametrize("colliding", [False, True])
def test_a_table_is_a_dict(few: int, colliding: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(table_module, "_FEW", few)  # more keys than these are sorted in

    def find_keys(ids: list[str]) -> np.ndarray:
        keys = keys_of(ids).copy()
        if colliding:
            keys[:, 0] = 7  # all keys have the same first half
        return keys

    monkeypatch.setattr("qa.bank.records.keys_of", find_keys)

    @given(shards=SHARDS)
    @settings(max_examples=30, deadline=None)
    def check(shards: list[tuple[list[str], bool]]) -> None:
        table, model = PlaceTable(), dict[str, tuple[int, int]]()
        for number, (ids, removed) in enumerate(shards):
            table = table.extended([(number, records(ids), removed)])
            for row, id in enumerate(ids):
                model.pop(id, None) if removed else model.update({id: (number, row)})
            places = table.find(find_keys(IDS)).tolist()
            assert places == [
                (model[id][0] << 32) + model[id][1] if id in model else ABSENT for id in IDS
            ]
            assert len(table) == len(model)
            assert [split_place(place) for place in table.places] == sorted(model.values())
        at_once = PlaceTable().extended(
            [(number, records(ids), removed) for number, (ids, removed) in enumerate(shards)]
        )
        assert at_once.places.tolist() == table.places.tolist()

    check()


def test_no_ids_and_unknown_ones():
    table = PlaceTable()
    assert table.find(keys_of([])).tolist() == []
    assert table.find(keys_of(["a"])).tolist() == [ABSENT]
    assert len(table) == len(table.places) == 0


def test_an_extended_table_leaves_the_old_one_alone():
    old = PlaceTable().extended([(0, records(["a", "b"]), False)])
    new = old.extended([(1, records(["a"]), True), (2, records(["c"]), False)])
    assert (len(old), len(new)) == (2, 2)
    assert old.find(keys_of(["a", "c"])).tolist() == [0, ABSENT]
    assert new.find(keys_of(["a", "c"])).tolist() == [ABSENT, 2 << 32]


def test_places_are_split_alike():
    places = np.array([0, 5, (3 << 32) + 4, (70_000 << 32) + (1 << 31)])
    numbers, rows = split_places(places)
    assert list(zip(numbers.tolist(), rows.tolist(), strict=True)) == [
        split_place(place) for place in places.tolist()
    ]


def test_records_that_do_not_fit_their_keys():
    good = records(["a", "bc", ""])
    assert good.sound()
    assert [good.id(row) for row in range(3)] == ["a", "bc", ""]
    for changes in (
        {"keys": good.keys[::-1]},
        {"ids": good.ids[:-1]},
        {"ids": np.frombuffer(b"a\xff\xff", np.uint8)},
        {"id_ends": np.array([1, 0, 3])},
    ):
        assert not Records(**{**vars(good), **changes}).sound()
    twice = records(["a", "a"])
    assert not twice.sound()
