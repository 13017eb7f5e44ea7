"""An adapter: put into a model and taken out again, saved and loaded, and its settings."""

from __future__ import annotations

import copy

import pytest
import torch

from backbone.lora.adapter import LoraAdapter, LoraSettings
from backbone.lora.record import RECORD
from backbone.lora.settings import CONFIG, WEIGHTS, AdapterError
from backbone.model import Backbone
from tests.helpers.adapters import FAMILIES, adapted_backbone, randomize, save_adapter, state
from tests.helpers.tiny import make_backbone

IDS = torch.tensor([[5, 6, 7, 8, 9], [9, 8, 7, 6, 5]])


@pytest.fixture(params=FAMILIES)
def backbone(request, tiny_tokenizer):
    return adapted_backbone(request.param, tiny_tokenizer)


@pytest.fixture
def adapter_dir(tiny_backbone, tmp_path):
    return save_adapter(tiny_backbone, tmp_path / "adapter")


def test_what_is_removed_leaves_nothing(backbone):
    before, logits = state(backbone.model), backbone.model(IDS).logits
    weights = copy.deepcopy(backbone.model.state_dict())
    adapter = randomize(LoraAdapter.new(backbone, LoraSettings()))
    assert state(backbone.model) == before
    with adapter.attached():
        changed = backbone.model(IDS).logits
        changed.sum().backward()
    assert not torch.allclose(changed, logits, atol=0.1)
    assert all(parameter.grad is not None for parameter in adapter.parameters.values())
    assert state(backbone.model) == before
    assert torch.equal(backbone.model(IDS).logits, logits)
    after = backbone.model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in weights.items())
    again = LoraAdapter.new(backbone, LoraSettings())  # the first one has left nothing behind
    with again.attached():
        assert torch.equal(backbone.model(IDS).logits, logits)  # an untrained adapter adds zero


def test_an_error_inside_removes_it_too(tiny_backbone):
    before = state(tiny_backbone.model)
    with pytest.raises(KeyError), LoraAdapter.new(tiny_backbone, LoraSettings()).attached():
        raise KeyError
    assert state(tiny_backbone.model) == before


def test_peft_reads_what_is_saved_and_so_do_we(backbone, tmp_path):
    from peft import PeftModel

    adapter = randomize(LoraAdapter.new(backbone, LoraSettings(2, 3.0)))
    with adapter.attached():
        expected = backbone.model(IDS).logits
    adapter.save(tmp_path / "adapter")
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]
    theirs = PeftModel.from_pretrained(copy.deepcopy(backbone.model), str(tmp_path / "adapter"))
    torch.testing.assert_close(theirs(IDS).logits, expected)
    loaded = LoraAdapter.load(tmp_path / "adapter", backbone)
    with loaded.attached():
        assert torch.equal(backbone.model(IDS).logits, expected)
    assert not any(parameter.requires_grad for parameter in loaded.parameters.values())
    with pytest.raises(AdapterError, match="exists; remove it, or choose another folder"):
        adapter.save(tmp_path / "adapter")


def test_a_bfloat16_backbone_has_a_float32_adapter(backbone):
    half = Backbone(copy.deepcopy(backbone.model).to(torch.bfloat16), backbone.tokenizer, "half")
    adapter = randomize(LoraAdapter.new(half, LoraSettings()))
    assert {parameter.dtype for parameter in adapter.parameters.values()} == {torch.float32}
    with adapter.attached():
        logits = half.model(IDS).logits
        logits.float().sum().backward()
    assert logits.dtype == torch.bfloat16
    assert all(bool(p.grad.isfinite().all()) for p in adapter.parameters.values())


def test_another_backbone_is_an_error(adapter_dir, tiny_tokenizer):
    other = make_backbone(seed=1, tokenizer=tiny_tokenizer)
    with pytest.raises(AdapterError, match=r"of tiny-llama-1 .* got one of tiny-llama-0"):
        LoraAdapter.load(adapter_dir, other)


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS, RECORD])
def test_a_missing_file_is_named(name, adapter_dir, tiny_backbone):
    (adapter_dir / name).unlink()
    with pytest.raises(AdapterError, match=rf"found no {name}; give its run folder's adapter"):
        LoraAdapter.load(adapter_dir, tiny_backbone)


def test_damage_is_an_error(adapter_dir, tiny_backbone):
    weights = bytearray((adapter_dir / WEIGHTS).read_bytes())
    weights[-5] ^= 1
    (adapter_dir / WEIGHTS).write_bytes(weights)
    with pytest.raises(AdapterError, match="is not what was written; train the adapter again"):
        LoraAdapter.load(adapter_dir, tiny_backbone)
    for text in ("{", "[]", "{}"):
        (adapter_dir / RECORD).write_text(text)
        with pytest.raises(AdapterError, match=f"{RECORD} is damaged"):
            LoraAdapter.load(adapter_dir, tiny_backbone)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 0}, r"rank must be positive, got 0; set rank"),
        ({"alpha": 0.0}, r"alpha must be positive, got 0.0; set alpha"),
        ({"targets": ["router"]}, r"targets must be some of gate, up, down, attention"),
        ({"targets": []}, r"got \[\]; set targets"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(AdapterError, match=message):
        LoraSettings(**settings)
