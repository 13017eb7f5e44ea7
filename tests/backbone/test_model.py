"""One adapter for every family; its parts are the model's own."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from backbone.loading import best_dtype, load_backbone
from backbone.model import Backbone, UnsupportedBackboneError
from tests.helpers.tiny import make_backbone

FAMILIES = ["llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "olmo2"]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tied", [True, False])
def test_adapter_reproduces_the_models_own_logits(family, tied, tiny_tokenizer):
    backbone = make_backbone(family, tokenizer=tiny_tokenizer, tie_word_embeddings=tied)
    input_ids = torch.randint(3, 300, (2, 7))
    mask = torch.ones_like(input_ids)
    expected = backbone.model(input_ids=input_ids, attention_mask=mask).logits
    hidden = backbone.hidden_states(input_ids, mask)
    assert torch.equal(backbone.logits(hidden), expected)
    assert (backbone.head.weight is backbone.embedding.weight) == tied
    assert isinstance(backbone.ffn(1), nn.Module)


def test_right_padding_changes_nothing(tiny_backbone):
    ids = torch.randint(3, 300, (1, 6))
    padded = torch.cat([ids, torch.full((1, 5), 2)], 1)
    mask = torch.tensor([[1] * 6 + [0] * 5])
    alone = tiny_backbone.hidden_states(ids, torch.ones_like(ids))
    beside = tiny_backbone.hidden_states(padded, mask)[:, :6]
    torch.testing.assert_close(alone, beside)


@pytest.mark.parametrize("layer", [-1, 2, 99])
def test_a_layer_out_of_range_is_named(tiny_backbone, layer):
    with pytest.raises(ValueError, match=rf"layer must be in 0\.\.1 .* got {layer}; set layer"):
        tiny_backbone.ffn(layer)


def test_an_unknown_architecture_says_what_is_missing(tiny_tokenizer):
    model = make_backbone(tokenizer=tiny_tokenizer).model
    model.model.layers[0].mlp = None
    with pytest.raises(UnsupportedBackboneError, match=r"LlamaForCausalLM .*no FFN in layer 0"):
        Backbone(model, tiny_tokenizer, "odd")


def test_the_models_own_ends_stop_too(tiny_tokenizer):
    backbone = make_backbone(tokenizer=tiny_tokenizer)
    plain = set(backbone.stop_token_ids)
    assert tiny_tokenizer.eos_token_id in plain
    other = make_backbone(tokenizer=tiny_tokenizer)
    other.model.generation_config.eos_token_id = [0, tiny_tokenizer.eos_token_id]
    assert 0 not in plain
    assert set(other.stop_token_ids) == plain | {0}


def test_load_from_a_folder_and_its_errors(tmp_path, tiny_backbone):
    tiny_backbone.model.save_pretrained(tmp_path / "model")
    tiny_backbone.tokenizer.save_pretrained(tmp_path / "model")
    loaded = load_backbone(str(tmp_path / "model"), dtype="float32")
    assert loaded.fingerprint == tiny_backbone.fingerprint
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    with pytest.raises(ValueError, match="dtype must be auto or one of"):
        load_backbone(str(tmp_path / "model"), dtype="int3")
    with pytest.raises(ValueError, match=r"set name"):
        load_backbone(str(tmp_path / "nothing"))
    with pytest.raises(ValueError, match="device must be auto, cpu, cuda"):
        load_backbone(str(tmp_path / "model"), device="gpu")
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"cannot load the backbone .*set name"):
        load_backbone(str(tmp_path / "model"))


def test_hub_arguments_reach_transformers(monkeypatch, tiny_backbone):
    seen = {}
    kinds = ("missing_keys", "unexpected_keys", "mismatched_keys")
    whole: dict[str, set[str]] = {kind: set() for kind in kinds}

    def from_pretrained(name, **kwargs):
        seen[name] = kwargs
        return (tiny_backbone.model, whole) if "dtype" in kwargs else tiny_backbone.tokenizer

    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", from_pretrained)
    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", from_pretrained)
    load_backbone("meta-llama/Llama-2-7b-hf", dtype="bfloat16", revision="abc")
    assert seen["meta-llama/Llama-2-7b-hf"] == {
        "dtype": torch.bfloat16,
        "revision": "abc",
        "trust_remote_code": False,
        "output_loading_info": True,
        "ignore_mismatched_sizes": True,
    }


def test_best_dtype_is_native(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    assert best_dtype("cpu") == torch.float32
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    assert best_dtype("cpu") == torch.bfloat16
