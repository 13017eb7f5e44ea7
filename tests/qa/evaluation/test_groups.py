"""Scores of groups of questions, apart."""

from __future__ import annotations

import pytest

from plumbing.storage.jsonl import DataError, write_jsonl
from qa.evaluation.groups import by_group, groups_page, read_groups
from qa.evaluation.run_folder import Answered, Predictions

EMS = {"base": [0, 0, 1, 0], "ours": [1, 0, 1, 1]}


def run(path, ems):
    questions = {
        f"q{i}": Answered(f"{path}:{i}", "?", ["Lisbon"], [f"p{i}"], {"em": float(em), "nll": 1.0})
        for i, em in enumerate(ems)
    }
    return Predictions(path, questions, "prompt")


def test_groups_have_scores_and_differences_of_their_own(tmp_path):
    runs = {name: run(tmp_path / name, ems) for name, ems in EMS.items()}
    groups = {"covered": ["q0", "q3"], "not covered": ["q1", "q2", "q9"], "nobody's": ["q8"]}
    found = by_group(runs, groups, "base", 0, common=False)
    assert set(found) == {"covered", "not covered"}
    covered = found["covered"]["ours"]
    assert (covered["n"], covered["em"], covered["minus/base/em"]) == (2, 100, 100)
    assert covered["minus/base/em_low"] < 100
    rest = found["not covered"]["ours"]
    assert (rest["n"], rest["em"], rest["minus/base/em"]) == (2, 50, 0)
    assert not any(key.startswith("minus") for key in found["covered"]["base"])
    page = groups_page(found, "base")
    assert page.count("| covered | ours |") == 2
    assert page.count("| covered | base |") == 1
    with pytest.raises(DataError, match="base: none of its questions is in a group"):
        by_group(runs, {"others": ["q8"]}, "base", 0, common=False)


def test_the_file_of_groups(tmp_path):
    rows = [{"id": "a", "group": "x"}, {"id": "b", "group": "y"}, {"id": "c", "group": "x"}]
    path = tmp_path / "groups.jsonl"
    write_jsonl(path, rows)
    assert read_groups(path) == {"x": ["a", "c"], "y": ["b"]}
    write_jsonl(path, [*rows, rows[0]])
    with pytest.raises(DataError, match=r"groups\.jsonl:4"):
        read_groups(path)
    write_jsonl(path, [])
    with pytest.raises(DataError, match="expected a line for each question, found none"):
        read_groups(path)
