"""The manifest of a folder: every kind of damage is found, and older forms are read."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest

from plumbing.storage.files import sha256_of
from plumbing.storage.manifest import MANIFEST, FolderError, read_manifest, write_manifest
from tests.helpers.faults import flipped

SETTINGS = {"b": [1, 2.5, None], "a": {"Zürich": True}}
FILES = {"one.bin": b"content of one", "inner/two.bin": b"content of two", "empty": b""}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, content in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    write_manifest(tmp_path, SETTINGS, FILES)
    return tmp_path


def test_write_then_read_is_identity(folder: Path) -> None:
    manifest = read_manifest(folder, "thing")
    assert manifest["settings"] == SETTINGS
    assert list(manifest["files"]) == sorted(FILES)
    for name, content in FILES.items():
        assert manifest["files"][name]["bytes"] == len(content)
        assert manifest["files"][name]["sha256"] == sha256_of(folder / name)


def test_the_bytes_on_the_disk_do_not_change(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x")
    write_manifest(tmp_path, {"b": 1, "a": "é"}, ["f"])
    checksum = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"
    assert json.loads((tmp_path / MANIFEST).read_bytes()) == {
        "settings": {"b": 1, "a": "é"},
        "files": {"f": {"bytes": 1, "sha256": checksum}},
        "sha256": "2ab09c8223f298d6672557f9a322eee314aa6eb32040f8dd3e160bc97d7ae4f5",
    }


def test_a_flipped_bit_is_found(folder: Path) -> None:
    random = Random(0)
    for name in ("one.bin", "inner/two.bin", MANIFEST):
        for _ in range(40):
            with (
                flipped(folder / name, random) as where,
                pytest.raises(FolderError, match=r"thing is damaged|bytes of the thing|file"),
            ):
                pytest.fail(f"{where}: {read_manifest(folder, 'thing')}")
    read_manifest(folder, "thing")


def test_sizes_are_checked_in_any_case(folder: Path) -> None:
    (folder / "one.bin").write_bytes(b"CONTENT OF ONE")
    read_manifest(folder, "thing", verify=False)
    with pytest.raises(FolderError, match=r"one.bin: the thing is damaged \(its checksum"):
        read_manifest(folder, "thing")
    (folder / "one.bin").write_bytes(b"short")
    with pytest.raises(FolderError, match=r"one.bin: expected 14 bytes .* got 5 bytes"):
        read_manifest(folder, "thing", verify=False)
    (folder / "one.bin").unlink()
    with pytest.raises(FolderError, match=r"one.bin: expected 14 bytes .* got no such file"):
        read_manifest(folder, "thing", verify=False)


def test_a_folder_without_a_manifest_was_not_finished(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match=r"found no manifest\.json.*end; make it again"):
        read_manifest(tmp_path, "thing")


def test_the_caller_says_what_to_do(folder: Path) -> None:
    (folder / "one.bin").write_bytes(b"CONTENT OF ONE")
    with pytest.raises(FolderError, match=r"one\.bin: .* differs .*; call somebody$"):
        read_manifest(folder, "thing", remedy="call somebody")
    (folder / "one.bin").unlink()
    with pytest.raises(FolderError, match=r"got no such file; call somebody$"):
        read_manifest(folder, "thing", remedy="call somebody")
    (folder / MANIFEST).write_text("{}")
    with pytest.raises(FolderError, match=r"is damaged .*; call somebody$"):
        read_manifest(folder, "thing", remedy="call somebody")


def test_known_entries_are_not_computed_anew(folder: Path) -> None:
    known = read_manifest(folder, "thing")["files"]
    (folder / "one.bin").write_bytes(b"CONTENT OF ONE")  # damage must not be blessed
    write_manifest(folder, SETTINGS, FILES, known)
    with pytest.raises(FolderError, match=r"one\.bin: the thing is damaged"):
        read_manifest(folder, "thing")


def test_an_older_form_is_read(folder: Path) -> None:
    def older_form(manifest: dict[str, Any]) -> dict[str, Any]:
        return {
            "settings": {"source": manifest["source"]},
            "files": {name: {"sha256": sha256} for name, sha256 in manifest["sums"].items()},
        }

    sums = {name: sha256_of(folder / name) for name in FILES}
    path = folder / MANIFEST
    assert read_manifest(folder, "thing", older_form=older_form)["settings"] == SETTINGS
    path.write_text(json.dumps({"source": "s", "sums": sums}))
    manifest = read_manifest(folder, "thing", older_form=older_form)
    assert manifest["settings"] == {"source": "s"}
    assert {name: entry["sha256"] for name, entry in manifest["files"].items()} == sums
    with pytest.raises(FolderError, match="manifest of the thing is damaged"):
        read_manifest(folder, "thing")  # as nobody says that there was another form
    damaged_ones: list[Any] = [{"sums": sums}, {"source": "s"}, [], None, 7]
    for damaged in damaged_ones:
        path.write_text(json.dumps(damaged))
        with pytest.raises(FolderError, match="manifest of the thing is damaged"):
            read_manifest(folder, "thing", older_form=older_form)
    path.write_text(json.dumps({"source": "s", "sums": sums | {"three": "0" * 64}}))
    with pytest.raises(FolderError, match="three: expected a file of the thing, got no such"):
        read_manifest(folder, "thing", older_form=older_form)
    path.write_text(json.dumps({"source": "s", "sums": sums | {"empty": "0" * 64}}))
    with pytest.raises(FolderError, match="empty: the thing is damaged"):
        read_manifest(folder, "thing", older_form=older_form)
