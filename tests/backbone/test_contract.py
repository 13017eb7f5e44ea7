"""What a backbone must be is checked when it is loaded, and what differs is said in one line."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from backbone.contract import check_contract
from backbone.decoding import greedy_decode, score_answers
from backbone.loading import load_backbone
from backbone.model import Backbone
from tests.helpers.families import FAMILIES
from tests.helpers.table_model import make_spiece_tokenizer, make_table_model, table_of
from tests.helpers.tiny import make_backbone, make_tokenizer, save_backbone

PROMPTS = ["Answer:", "Question: the?\nAnswer:", "Question: of the New York?\nAnswer:"]


def save(folder, tokenizer=None, rows=None, **settings):
    """Write a table model that answers "the", and its tokenizer, as a folder."""
    tokenizer = tokenizer or make_spiece_tokenizer()
    table = table_of(tokenizer, (":", "▁the"), ("▁the", "</s>"))
    ends = {"bos_token_id": 1, "eos_token_id": 2}
    model = make_table_model(table, rows or len(tokenizer), **{**ends, **settings})
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def change(folder, name, weight):
    """Replace a weight in a folder; None leaves it out."""
    path = folder / "model.safetensors"
    weights = load_file(path)
    weights.pop(name, None)
    if weight is not None:
        weights[name] = weight
    save_file(weights, path, metadata={"format": "pt"})


def configure(folder, name, **settings):
    path = folder / name
    config = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps({**config, **settings}))


def load(folder, dtype="float32"):
    return load_backbone(str(folder), dtype=dtype)


def refusal(folder, dtype="float32"):
    """The one line with which a folder is refused."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011  # the callers compare the words
        load(folder, dtype)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def works(backbone):
    """Three questions of unequal lengths are answered, and scored, as the table says."""
    decoded = greedy_decode(backbone, PROMPTS, 4)
    assert decoded.texts == ["the"] * 3
    return score_answers(backbone, decoded, ["the"] * 3).tolist() == pytest.approx([0] * 3)


def test_a_whole_backbone_is_loaded_without_a_word(tmp_path, capfd):
    save(tmp_path)
    capfd.readouterr()
    assert works(load(tmp_path))
    assert capfd.readouterr() == ("", "")


# Weights


def test_a_weight_that_is_missing_is_named(tmp_path):
    save(tmp_path)
    change(tmp_path, "model.layers.1.mlp.up_proj.weight", None)
    said = refusal(tmp_path)
    assert "expected every weight in its files, but model.layers.1.mlp.up_proj.weight is in" in said


def test_a_shard_that_is_missing_is_named(tmp_path):
    model = make_table_model({}, 200)
    model.save_pretrained(tmp_path, max_shard_size="100KB")
    make_spiece_tokenizer().save_pretrained(tmp_path)
    shard = sorted(tmp_path.glob("*.safetensors"))[1]
    shard.unlink()
    assert shard.name in refusal(tmp_path)


def test_a_weight_of_another_shape_is_named_with_both(tmp_path):
    save(tmp_path)
    change(tmp_path, "model.layers.0.mlp.up_proj.weight", torch.zeros(40, 128))
    said = refusal(tmp_path)
    assert "expected model.layers.0.mlp.up_proj.weight of the shape [48, 128]" in said
    assert "got [40, 128]" in said


def test_a_weight_for_which_the_model_has_no_place_is_named(tmp_path):
    save(tmp_path)
    change(tmp_path, "model.layers.0.mlp.up_proj.bias", torch.ones(48))
    assert "its files hold model.layers.0.mlp.up_proj.bias, for which" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("family", "mask"),
    [
        ("gpt2", "h.0.attn.bias"),
        ("gpt2", "transformer.h.0.attn.masked_bias"),
        ("gptj", "transformer.h.0.attn.bias"),
        ("gpt_neo", "transformer.h.0.attn.attention.masked_bias"),
    ],
)
def test_the_masks_in_files_of_old_versions_are_no_weights(family, mask, tmp_path):
    backbone = make_backbone(family, **FAMILIES[family][1])
    save_backbone(backbone, tmp_path)
    change(tmp_path, mask, torch.zeros(1))
    ids = torch.arange(5)[None]
    theirs = load(tmp_path).model(ids).logits
    torch.testing.assert_close(theirs, backbone.model(ids).logits)


def test_a_tied_head_needs_no_weight_of_its_own_and_an_untied_one_does(tmp_path):
    save(tmp_path)
    change(tmp_path, "lm_head.weight", None)
    assert "lm_head.weight is in none of them" in refusal(tmp_path)
    configure(tmp_path, "config.json", tie_word_embeddings=True)
    backbone = load(tmp_path)
    assert backbone.head.weight is backbone.embedding.weight


def test_a_head_of_its_own_is_kept_where_the_config_calls_it_tied(tmp_path):
    save(tmp_path)
    configure(tmp_path, "config.json", tie_word_embeddings=True)
    assert works(load(tmp_path))


# Numbers


@pytest.mark.parametrize("name", ["model.norm.weight", "lm_head.weight"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_is_the_backbones_own_fault(tmp_path, name, value):
    save(tmp_path)
    weight = load_file(tmp_path / "model.safetensors")[name].clone()
    weight[-1] = value
    change(tmp_path, name, weight)
    assert "the backbone itself computes logits that are not finite" in refusal(tmp_path)


def test_a_row_that_is_not_finite_is_found_before_its_token_occurs(tmp_path):
    save(tmp_path)
    weight = load_file(tmp_path / "model.safetensors")["model.embed_tokens.weight"].clone()
    weight[0] = float("nan")  # the unknown token
    change(tmp_path, "model.embed_tokens.weight", weight)
    words = "the backbone itself has numbers that are not finite in model.embed_tokens.weight"
    assert words in refusal(tmp_path)


def test_a_dtype_that_is_too_narrow_is_named(tmp_path):
    save(tmp_path)
    weight = load_file(tmp_path / "model.safetensors")["model.norm.weight"]
    change(tmp_path, "model.norm.weight", weight * 1e5)
    assert "float16" in refusal(tmp_path, "float16")
    load(tmp_path)


class _Louder(nn.Module):
    """A head with a factor behind it that nobody knows of."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self._modules["model"], name) if name != "model" else self._modules["model"]

    def forward(self, **inputs: Any) -> Any:
        out = self.model(**inputs)
        out.logits = out.logits * 2
        return out


def test_logits_that_are_not_the_models_own_are_refused(tiny_tokenizer):
    known = make_backbone(tokenizer=tiny_tokenizer)
    check_contract(known)
    unknown = Backbone(known.model, tiny_tokenizer, "louder")
    unknown.model = _Louder(known.model)
    with pytest.raises(ValueError, match=r"whose own logits differ by up to .*as by a factor"):
        check_contract(unknown)


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("granite", {"logits_scaling": 8.0, "residual_multiplier": 0.3}),
        ("cohere", {"logit_scale": 0.1}),
        ("gemma2", {"final_logit_softcapping": 1.0}),
        ("llama", {"attention_dropout": 0.9}),
        ("mpt", {**FAMILIES["mpt"][1], "logit_scale": "inv_sqrt_d_model"}),
    ],
)
def test_factors_caps_and_dropout_are_known(family, settings, tiny_tokenizer):
    check_contract(make_backbone(family, tokenizer=tiny_tokenizer, **settings))


# Tokens


@pytest.mark.parametrize("where", ["tokenizer", "config"])
def test_a_padding_token_without_a_row_never_counts(tmp_path, where):
    tokenizer = make_spiece_tokenizer()
    rows = len(tokenizer)
    if where == "tokenizer":
        tokenizer.add_special_tokens({"pad_token": "[PAD]"})
        assert tokenizer.pad_token_id == rows
    save(tmp_path, tokenizer, rows)
    if where == "config":
        configure(tmp_path, "config.json", pad_token_id=rows)
    assert works(load(tmp_path))


@pytest.mark.parametrize("id", [-1, None, 0])
def test_any_padding_id_of_the_config_never_counts(tmp_path, id):
    save(tmp_path)
    configure(tmp_path, "config.json", pad_token_id=id)
    configure(tmp_path, "generation_config.json", pad_token_id=id)
    assert works(load(tmp_path))


def without_end():
    tokenizer = make_spiece_tokenizer()
    tokenizer.eos_token = None
    return tokenizer


def test_a_tokenizer_without_an_end_is_refused_by_the_name_of_the_setting(tmp_path):
    save(tmp_path, without_end())
    for name in ("config.json", "generation_config.json"):
        configure(tmp_path, name, eos_token_id=None)
    assert "name eos_token in tokenizer_config.json" in refusal(tmp_path)


@pytest.mark.parametrize("id", [2, [2, 0]])
@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
def test_the_models_own_end_stands_in(tmp_path, name, id):
    save(tmp_path, without_end())
    for other in ("config.json", "generation_config.json"):
        configure(tmp_path, other, eos_token_id=id if other == name else None)
    backbone = load(tmp_path)
    assert backbone.tokenizer.eos_token == "</s>"
    assert works(backbone)


def test_a_token_without_a_row_is_named(tmp_path):
    tokenizer = make_spiece_tokenizer()
    rows = len(tokenizer)
    tokenizer.add_tokens(["<fact>"])
    save(tmp_path, tokenizer, rows)
    assert f"gives the token '<fact>' the id {rows}, but the model has {rows}" in refusal(tmp_path)


def test_a_beginning_without_a_row_is_named_and_other_special_tokens_are_not(tmp_path):
    from tokenizers import processors

    tokenizer = make_spiece_tokenizer()
    rows = len(tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    assert works(load(save(tmp_path / "image", tokenizer, rows)))
    begin = [("<image>", rows)]
    post = processors.TemplateProcessing(single="<image> $A", special_tokens=begin)
    tokenizer._tokenizer.post_processor = post
    said = refusal(save(tmp_path / "begin", tokenizer, rows))
    assert f"gives the token '<image>' the id {rows}" in said


def test_an_embedding_with_more_rows_than_the_tokenizer_has_tokens_works(tmp_path):
    assert works(load(save(tmp_path, rows=300)))


def test_a_tokenizer_that_ends_every_text_works(tmp_path):
    assert works(load(save(tmp_path, make_spiece_tokenizer(ends=True))))


def test_words_that_merge_with_the_prompt_are_refused(tmp_path):
    tokenizer = make_spiece_tokenizer([":▁the", "the", "of"])
    model = make_table_model({}, len(tokenizer), bos_token_id=1, eos_token_id=2)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    said = refusal(tmp_path)
    assert "encodes the prompt and the answer 'the' otherwise than the joint text" in said


# Folders that hold something else


def test_an_adapter_must_be_merged_first(tmp_path, tiny_backbone):
    from peft import LoraConfig, get_peft_model

    base = make_backbone(tokenizer=tiny_backbone.tokenizer)
    with pytest.warns(FutureWarning):
        model = get_peft_model(base.model, LoraConfig(target_modules=["up_proj"]))
    model.save_pretrained(str(tmp_path))
    base.tokenizer.save_pretrained(tmp_path)
    assert "adapters must be merged first" in refusal(tmp_path)
    base.model.config.save_pretrained(tmp_path)  # a folder of both is no clearer
    assert "adapters must be merged first" in refusal(tmp_path)


@pytest.mark.parametrize("content", [b'{"r": ', b"\xff\xfe", b"[]"])
def test_an_adapter_with_damaged_settings_must_be_merged_first_too(content, tmp_path):
    (tmp_path / "adapter_config.json").write_bytes(content)
    assert "is a LoRA adapter of another model" in refusal(tmp_path)


def test_an_encoder_is_no_causal_language_model(tmp_path):
    from transformers import BertConfig, BertModel

    tokenizer = make_tokenizer()
    sizes: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 48,
    }
    config = BertConfig(**sizes, num_hidden_layers=2, num_attention_heads=4)
    BertModel(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert "decoder-only models" in refusal(tmp_path)
