"""Whatever changes what a backbone computes changes its fingerprint, and nothing else does."""

from __future__ import annotations

import copy
import json
import os
import shutil

import pytest
import torch
from tokenizers import AddedToken, normalizers
from transformers import AutoTokenizer

from backbone.edits import WeightEdits
from backbone.identity import weights
from backbone.loading import load_backbone
from backbone.model import Backbone
from plumbing.storage.files import write_json
from tests.helpers.tiny import make_backbone, save_backbone

DOWN = "model.layers.1.mlp.down_proj.weight"


@pytest.fixture
def tokenizer(tiny_tokenizer):
    return copy.deepcopy(tiny_tokenizer)


@pytest.fixture
def backbone(tokenizer):
    return make_backbone(tokenizer=tokenizer)


@pytest.fixture
def folder(backbone, tmp_path):
    return save_backbone(backbone, tmp_path / "model")


def an_edited_row(backbone):
    with torch.no_grad():
        backbone.embedding.weight[301] += 0.5


def a_row_edited_as_data(backbone):
    backbone.embedding.weight.data[301] += 0.5


def two_exchanged_rows(backbone):
    with torch.no_grad():
        backbone.embedding.weight[[300, 301]] = backbone.embedding.weight[[301, 300]]


def a_replaced_head(backbone):
    backbone.model.lm_head.weight = torch.nn.Parameter(backbone.head.weight * 2)


WEIGHTS = [an_edited_row, a_row_edited_as_data, two_exchanged_rows, a_replaced_head]


def an_added_token(backbone):
    backbone.tokenizer.add_tokens(["Lisbon"])


def a_special_token(backbone):
    backbone.tokenizer.add_tokens([AddedToken("by the sea", special=True)], special_tokens=True)


def another_end(backbone):
    backbone.tokenizer.eos_token = "<|endoftext|>"


def a_normaliser(backbone):
    backbone.tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()


def a_cleaned_text(backbone):
    backbone.tokenizer.clean_up_tokenization_spaces = True


TOKENIZERS = [an_added_token, a_special_token, another_end, a_normaliser, a_cleaned_text]


@pytest.mark.parametrize("asked_before", [True, False])
@pytest.mark.parametrize("loaded", [True, False])
@pytest.mark.parametrize("change", [*WEIGHTS, *TOKENIZERS])
def test_a_change_in_memory_changes_it(change, loaded, asked_before, folder, backbone):
    expected = backbone.fingerprint
    if loaded:
        backbone = load_backbone(str(folder), dtype="float32")
    elif not asked_before:
        backbone = Backbone(backbone.model, backbone.tokenizer, backbone.name)
    if asked_before:
        assert backbone.fingerprint == expected
    change(backbone)
    differing = backbone.identity.difference(expected)
    assert differing == ("the weights" if change in WEIGHTS else "the tokenizer")


@pytest.mark.parametrize(
    "settings",
    [
        {"rms_norm_eps": 1e-3},
        {"hidden_act": "gelu"},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}},
        {"tie_word_embeddings": True},
    ],
)
def test_a_setting_that_computes_changes_it(settings, backbone, tokenizer):
    turned = make_backbone(tokenizer=tokenizer, **settings)
    assert "the settings" in turned.identity.difference(backbone.fingerprint)


def test_a_setting_of_any_family_counts(tokenizer):
    """Such as those of Granite, which no list of settings had named."""
    one, other = (
        make_backbone("granite", tokenizer=tokenizer, logits_scaling=value) for value in (1.0, 2.0)
    )
    assert other.identity.difference(one.fingerprint) == "the settings"


def edited_on_disk(folder):
    model = load_backbone(str(folder), dtype="float32").model
    with torch.no_grad():
        model.get_input_embeddings().weight[301, 3] += 1e-3
    model.save_pretrained(folder)


def a_file_of_another_tokenizer(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.save_pretrained(folder)


@pytest.mark.parametrize("change", [edited_on_disk, a_file_of_another_tokenizer])
def test_a_change_on_disk_changes_it(change, folder):
    before = load_backbone(str(folder), dtype="float32")
    legacy, fingerprint = before.weights.legacy, before.fingerprint
    change(folder)
    after = load_backbone(str(folder), dtype="float32")
    assert after.fingerprint != fingerprint
    assert after.weights.legacy == legacy  # what made this necessary


def moved(folder):
    return shutil.move(folder, folder.with_name("elsewhere"))


def touched(folder):
    os.utime(folder / "model.safetensors", (1, 1))


def in_shards(folder):
    load_backbone(str(folder), dtype="float32").model.save_pretrained(folder, max_shard_size="60KB")
    (folder / "model.safetensors").unlink(missing_ok=True)
    assert len(list(folder.glob("*.safetensors"))) > 1


def with_other_files(folder):
    (folder / "README.md").write_text("A model.")
    (folder / "consolidated.safetensors").write_bytes(b"of other programs")


def with_other_words_for_the_same(folder):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config |= {"transformers_version": "4.0", "use_cache": False, "attention_bias": False}
    path.write_text(json.dumps(config))


def with_a_chat_template(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = "{{ messages }}"
    tokenizer.pad_token = tokenizer.unk_token
    tokenizer.save_pretrained(folder)


@pytest.mark.parametrize(
    "change",
    [
        *(moved, touched, in_shards, with_other_files, with_other_words_for_the_same),
        with_a_chat_template,
    ],
)
def test_what_changes_no_output_leaves_it(change, folder, backbone):
    folder = change(folder) or folder
    assert load_backbone(str(folder), dtype="float32").fingerprint == backbone.fingerprint


def test_a_folder_has_one_in_every_dtype(folder):
    each = [load_backbone(str(folder), dtype=dtype) for dtype in ("float32", "bfloat16", "float16")]
    (fingerprint,) = {backbone.fingerprint for backbone in each}
    each[0].model.to(torch.bfloat16)  # rounds what was loaded, so that it is something else
    assert each[0].fingerprint != fingerprint


def test_a_call_of_the_tokenizer_leaves_it(backbone):
    before = backbone.fingerprint
    backbone.tokenizer(["a", "a b c"], padding=True, truncation=True, max_length=2)
    assert backbone.fingerprint == before


def test_edits_have_one_of_their_own_and_give_it_back(folder):
    backbone = load_backbone(str(folder), dtype="bfloat16")
    before, legacy = backbone.fingerprint, backbone.weights.legacy
    weight = dict(backbone.model.named_parameters())[DOWN]
    edits = WeightEdits(backbone)
    with edits.written({DOWN: weight * 2}):
        edited, edited_legacy = backbone.fingerprint, backbone.weights.legacy
        assert backbone.identity.difference(before).startswith("what was merged into the weights")
        assert backbone.identity.difference(legacy) == "the weights or the settings"
        an_edited_row(backbone)  # beside the edits
        assert backbone.fingerprint not in (before, edited)
        with torch.no_grad():
            backbone.embedding.weight[301] -= 0.5
    assert (backbone.fingerprint, backbone.weights.legacy) == (before, legacy)
    with edits.written({DOWN: weight * 2}):
        assert (backbone.fingerprint, backbone.weights.legacy) == (edited, edited_legacy)


class Counted:
    """Counts the files that are hashed, and lets small ones have a record."""

    def __init__(self, monkeypatch):
        self.count = 0
        hashing = weights._hash_of_files

        def counted(files):
            self.count += 1
            return hashing(files)

        monkeypatch.setattr(weights, "_hash_of_files", counted)
        monkeypatch.setattr(weights, "_SMALL", 0)


def test_the_hash_of_files_is_kept_beside_them(folder, tmp_path, monkeypatch):
    counted = Counted(monkeypatch)
    fingerprints = [load_backbone(str(folder), dtype="float32").fingerprint for _ in range(2)]
    assert counted.count == 1
    copied = shutil.copytree(folder, tmp_path / "copy")  # the files of the copy are younger
    fingerprints.append(load_backbone(str(copied), dtype="float32").fingerprint)
    assert counted.count == 2
    (folder / weights.RECORD).write_text("{")
    fingerprints.append(load_backbone(str(folder), dtype="float32").fingerprint)
    assert counted.count == 3
    assert len(set(fingerprints)) == 1


def test_a_time_that_was_set_back_does_not_deceive_it(folder, monkeypatch):
    Counted(monkeypatch)
    before = load_backbone(str(folder), dtype="float32").fingerprint
    file = folder / "model.safetensors"
    state = file.stat()
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(data)
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert load_backbone(str(folder), dtype="float32").fingerprint != before


def test_the_hash_is_kept_in_the_cache_where_the_folder_is_read_only(folder, tmp_path, monkeypatch):
    counted = Counted(monkeypatch)
    monkeypatch.setenv("GENPOE_CACHE", str(tmp_path / "cache"))

    def refuse(path, value):
        if path.name == weights.RECORD:
            raise PermissionError(path)
        write_json(path, value)

    monkeypatch.setattr(weights, "write_json", refuse)
    for _ in range(2):
        load_backbone(str(folder), dtype="float32").weights  # noqa: B018
    assert counted.count == 1
    assert len(list((tmp_path / "cache" / "weights").iterdir())) == 1
    monkeypatch.setattr(weights, "write_json", lambda *_: refuse(folder / weights.RECORD, None))
    shutil.rmtree(tmp_path / "cache")
    assert load_backbone(str(folder), dtype="float32").fingerprint  # computed, and not kept
    assert counted.count == 2


def test_pickled_weights_count_as_a_whole(folder, tmp_path):
    backbone = load_backbone(str(folder), dtype="float32")
    (folder / "model.safetensors").unlink()
    torch.save(backbone.model.state_dict(), folder / "pytorch_model.bin")
    first = load_backbone(str(folder), dtype="float32").weights.sha256
    an_edited_row(backbone)
    torch.save(backbone.model.state_dict(), folder / "pytorch_model.bin")
    assert load_backbone(str(folder), dtype="float32").weights.sha256 != first
    assert weights.weight_files(tmp_path) == []  # there is nothing
