"""Where models are found, and what their fingerprint is of."""

from __future__ import annotations

import huggingface_hub
import pytest

from retrieval.encoders.model_folder import embedded_minilm, folder_fingerprint, model_folder


@pytest.fixture
def folder(tmp_path):
    files = {"config.json": "{}", "model.safetensors": "weights", "1_Pooling/config.json": "{}"}
    for name, text in files.items():
        path = tmp_path / "model" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "model"


def test_the_embedded_model_and_folders_are_found(folder):
    assert model_folder("minilm") == embedded_minilm()
    assert model_folder(str(folder)) == folder


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "1_Pooling/config.json"])
def test_what_is_loaded_decides_the_fingerprint(folder, name):
    before = folder_fingerprint(folder)
    (folder / name).write_text("other")
    assert folder_fingerprint(folder) != before


@pytest.mark.parametrize("name", ["README.md", "pytorch_model.bin", "onnx.config.json"])
def test_what_is_not_loaded_does_not(folder, name):
    before = folder_fingerprint(folder)
    (folder / name).write_text("other")
    assert folder_fingerprint(folder) == before


def test_added_tokens_count_where_the_tokenizer_is_slow(folder):
    (folder / "tokenizer.json").unlink(missing_ok=True)
    before = folder_fingerprint(folder)
    (folder / "added_tokens.json").write_text('{"Lisbon": 400}')
    assert folder_fingerprint(folder) != before
    (folder / "tokenizer.json").write_text("{}")  # holds them itself
    with_both = folder_fingerprint(folder)
    (folder / "added_tokens.json").unlink()
    assert folder_fingerprint(folder) == with_both


def test_a_folder_without_weights(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"expected a model's weights \(\*\.safetensors\), found"):
        folder_fingerprint(folder)
    (folder / "pytorch_model.bin").write_text("old weights")
    assert folder_fingerprint(folder)


def test_the_hub_is_asked_for_old_weights_only_where_there_are_no_others(folder, monkeypatch):
    asked = []

    def download(name, revision, allow_patterns):
        asked.append((name, revision, "pytorch_model*.bin" in allow_patterns))
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert model_folder("somebody/model", "v1") == folder
    assert asked == [("somebody/model", "v1", False)]
    (folder / "model.safetensors").unlink()
    model_folder("somebody/model", "v1")
    assert asked[1:] == [("somebody/model", "v1", False), ("somebody/model", "v1", True)]


@pytest.mark.parametrize("error", [OSError("no route\nto host"), ValueError("no route"), OSError()])
def test_a_hub_that_cannot_be_reached(monkeypatch, error):
    def download(*args, **kwargs):
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(ValueError, match=r"cannot find the model 'a/b': (no route|OSError) Expec"):
        model_folder("a/b")
