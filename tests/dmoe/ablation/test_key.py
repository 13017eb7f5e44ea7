"""Keys of an ablation's results: settings are hashed as written, files by their content."""

from __future__ import annotations

import os

import pytest
from omegaconf import OmegaConf

from dmoe.ablation.key import settings_key


def key(**settings):
    return settings_key(OmegaConf.create(settings), settings)


def test_settings_count_as_written():
    one = key(recipe={"lr": 1e-3}, paths={"cache_dir": "${oc.env:HOME}"})
    assert one == key(paths={"cache_dir": "${oc.env:HOME}"}, recipe={"lr": 1e-3})
    assert one != key(recipe={"lr": 1e-4}, paths={"cache_dir": "${oc.env:HOME}"})
    config = OmegaConf.create({"recipe": {"lr": 1}, "k": 3})
    assert settings_key(config, ["recipe"]) == key(recipe={"lr": 1})


@pytest.mark.parametrize(
    ("group", "name"),
    [("corpus", "path"), ("augmenter", "path"), ("data", "passages_path")],
)
def test_files_count_by_their_content(group, name, tmp_path):
    file = tmp_path / "file.jsonl"
    without = key(**{group: {name: str(file)}})
    file.write_text("one")
    first = key(**{group: {name: str(file)}})
    assert first not in (without, key(recipe={name: str(file)}))
    file.write_text("two")
    edited = key(**{group: {name: str(file)}})
    assert edited != first
    file.write_text("one")
    os.utime(file, (0, 0))
    assert key(**{group: {name: str(file)}}) == first


def test_folders_count_by_all_files_in_them(tmp_path):
    folder = tmp_path / "data"
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "dev.jsonl").write_text("one")
    keys = [key(data={"dir": str(folder)})]
    (folder / "inner" / "dev.jsonl").write_text("three")
    keys.append(key(data={"dir": str(folder)}))
    (folder / "inner" / "dev.jsonl").rename(folder / "inner" / "test.jsonl")
    keys.append(key(data={"dir": str(folder)}))
    assert len(set(keys)) == 3


def test_what_names_no_file_is_a_setting():
    assert key(data={"dir": None}) != key(data={"dir": "???"})
    assert key(model={"backbone": {"name": "a/b"}}) != key(model={"backbone": {"name": "a/c"}})


def test_files_are_found_where_settings_refer_to_them(tmp_path):
    file = tmp_path / "file"
    config = OmegaConf.create({"corpus": {"path": "${folder}/file"}, "folder": str(tmp_path)})
    file.write_text("one")
    before = settings_key(config, ["corpus"])
    file.write_text("another")
    assert settings_key(config, ["corpus"]) != before
