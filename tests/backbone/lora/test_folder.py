"""The settings of PEFT's adapters: each is decided, and read in one way by all who read them."""

from __future__ import annotations

import json
from dataclasses import fields

import pytest

from backbone.lora.adapter import LoraAdapter, LoraSettings
from backbone.lora.folder import FIELDS, read_config
from backbone.lora.settings import CONFIG, AdapterError


def test_every_setting_of_the_installed_peft_is_decided():
    """A new one must get a place in `FIELDS`: does it leave an adapter plain, and which values?"""
    from peft import LoraConfig

    assert {field.name for field in fields(LoraConfig)} <= FIELDS.keys()


def test_what_peft_writes_by_default_is_plain(tmp_path):
    from peft import LoraConfig

    LoraConfig().save_pretrained(str(tmp_path))
    assert read_config(tmp_path)["r"] == 8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"r": "four"}, f"{CONFIG}: r must be a whole number, got 'four'"),
        ({"use_dora": True}, "expected plain LoRA, got use_dora=True: the adapter computes"),
        ({"init_lora_weights": "pissa"}, "the base weights are changed as well"),
    ],
)
def test_an_adapter_of_ours_is_read_by_the_same_rules(change, message, tiny_backbone, tmp_path):
    LoraAdapter.new(tiny_backbone, LoraSettings()).save(tmp_path / "a")
    path = tmp_path / "a" / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(AdapterError, match=message):
        LoraAdapter.load(tmp_path / "a", tiny_backbone)
