"""PEFT adapter folders: equal logits in both directions, and clear refusals."""

from __future__ import annotations

import copy
import json

import pytest
import torch

from backbone.final_ffn import FinalFFN
from backbone.lora.settings import CONFIG, WEIGHTS, AdapterError
from backbone.model import Backbone
from dmoe.experts.expert import ExpertError, ExpertSpec
from dmoe.experts.peft import export_adapter, import_adapter
from dmoe.training.warmup import merge_expert
from tests.helpers.tiny import make_backbone

pytestmark = pytest.mark.filterwarnings(
    # PEFT uses a deprecated name of transformers; we cannot change that.
    "ignore:.*is_gradient_checkpointing:FutureWarning"
)


def copy_of(backbone):
    return Backbone(copy.deepcopy(backbone.model), backbone.tokenizer, backbone.name)


def random_expert(spec, ffn):
    return {name: torch.randn(shape) / 8 for name, shape in spec.shapes(ffn.sizes).items()}


def logits_with(backbone, expert, spec, ids):
    """Compute the logits of the plain model with the expert merged into its weights."""
    merged = copy_of(backbone)
    merge_expert(FinalFFN(merged), expert, spec)
    return merged.model(ids).logits


IDS = torch.tensor([[5, 6, 7, 8, 9]])
SPECS = [ExpertSpec(), ExpertSpec(2, 3.0, ["down"]), ExpertSpec(3, 2.5, ["gate", "up"])]


@pytest.mark.parametrize("spec", SPECS)
def test_peft_reads_what_we_write(spec, tiny_backbone, tmp_path):
    from peft import PeftModel

    ffn = FinalFFN(tiny_backbone)
    expert = random_expert(spec, ffn)
    export_adapter(tmp_path / "adapter", expert, spec, ffn)
    theirs = PeftModel.from_pretrained(copy_of(tiny_backbone).model, str(tmp_path / "adapter"))
    expected = logits_with(tiny_backbone, expert, spec, IDS)
    torch.testing.assert_close(theirs(IDS).logits, expected, rtol=1e-4, atol=1e-4)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["adapter"]  # no temporary files are left


@pytest.mark.parametrize("rslora", [False, True])
def test_we_read_what_peft_writes(rslora, tiny_backbone, tmp_path):
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=4,
        lora_alpha=16,
        target_modules=["gate_proj", "down_proj"],
        layers_to_transform=[1],
        use_rslora=rslora,
    )
    model = get_peft_model(copy_of(tiny_backbone).model, config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora" in name:
                parameter.normal_(std=0.1)
    model.save_pretrained(str(tmp_path))
    expert, spec = import_adapter(tmp_path, FinalFFN(tiny_backbone))
    assert spec.targets == ("gate", "down")
    ours = logits_with(tiny_backbone, expert, spec, IDS)
    torch.testing.assert_close(ours, model(IDS).logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("spec", SPECS)
def test_writing_and_reading_is_identity(spec, tiny_backbone, tmp_path):
    ffn = FinalFFN(tiny_backbone)
    expert = random_expert(spec, ffn)
    export_adapter(tmp_path / "a", expert, spec, ffn)
    again, settings = import_adapter(tmp_path / "a", ffn)
    assert settings == spec
    assert again.keys() == expert.keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in expert.items())


@pytest.fixture(params=["phi3", "gpt2", "llama"])
def other_family(request, tiny_tokenizer):
    return make_backbone(request.param, tokenizer=tiny_tokenizer)


@pytest.mark.parametrize("targets", [("gate", "up", "down"), ("up",), ("gate", "up"), ("down",)])
def test_an_expert_of_any_family_is_the_adapter_that_peft_reads(targets, other_family, tmp_path):
    from peft import PeftModel

    ffn = FinalFFN(other_family)
    spec = ExpertSpec(3, 6.0, [target for target in targets if target in ffn.sizes])
    expert = random_expert(spec, ffn)
    export_adapter(tmp_path / "a", expert, spec, ffn)
    again, settings = import_adapter(tmp_path / "a", ffn)
    assert settings == spec
    assert all(torch.equal(again[name], tensor) for name, tensor in expert.items())
    theirs = PeftModel.from_pretrained(copy_of(other_family).model, str(tmp_path / "a"))
    expected = logits_with(other_family, expert, spec, IDS)
    assert not torch.allclose(other_family.model(IDS).logits, expected, atol=1e-2)
    torch.testing.assert_close(theirs(IDS).logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("family", "maps"), [("phi3", ["gate_up_proj", "down_proj"]), ("gpt2", ["c_fc", "c_proj"])]
)
def test_an_adapter_of_any_family_that_peft_writes_is_read(family, maps, tiny_tokenizer, tmp_path):
    from peft import LoraConfig, get_peft_model

    backbone = make_backbone(family, tokenizer=tiny_tokenizer)
    # PEFT takes names of GPT-2's attention for those of its FFN, so the path is given as well.
    config = LoraConfig(
        r=4,
        lora_alpha=8,
        target_modules=rf".*\.1\.mlp\.({'|'.join(maps)})",
        fan_in_fan_out=family == "gpt2",
    )
    model = get_peft_model(copy_of(backbone).model, config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora" in name:
                parameter.normal_(std=0.2)
    model.save_pretrained(str(tmp_path))
    expert, spec = import_adapter(tmp_path, FinalFFN(backbone))
    ours = logits_with(backbone, expert, spec, IDS)
    torch.testing.assert_close(ours, model(IDS).logits, rtol=1e-4, atol=1e-4)


def test_nothing_is_overwritten_and_nothing_bad_is_written(tiny_backbone, tmp_path):
    ffn, spec = FinalFFN(tiny_backbone), ExpertSpec()
    with pytest.raises(AdapterError, match="exists; remove it, or choose another folder"):
        export_adapter(tmp_path, random_expert(spec, ffn), spec, ffn)
    bad = random_expert(spec, ffn)
    bad["up.lora_A"][0, 0] = torch.inf
    with pytest.raises(ExpertError, match="not finite"):
        export_adapter(tmp_path / "a", bad, spec, ffn)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def adapter(tiny_backbone, tmp_path):
    ffn, spec = FinalFFN(tiny_backbone), ExpertSpec()
    export_adapter(tmp_path / "a", random_expert(spec, ffn), spec, ffn)
    return tmp_path / "a", ffn


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_a_missing_file_is_named(adapter, name):
    folder, ffn = adapter
    (folder / name).unlink()
    with pytest.raises(AdapterError, match=f"expected a PEFT adapter, found no {name}"):
        import_adapter(folder, ffn)


def test_damage_is_an_error(adapter):
    folder, ffn = adapter
    weights = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(weights[: len(weights) // 2])
    with pytest.raises(AdapterError, match=r"is damaged .*; export the adapter again"):
        import_adapter(folder, ffn)
    (folder / WEIGHTS).write_bytes(weights)
    for text, message in (("{", "is damaged"), ("[]", "expected an object")):
        (folder / CONFIG).write_text(text)
        with pytest.raises(AdapterError, match=message):
            import_adapter(folder, ffn)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"use_dora": True}, "expected plain LoRA, got use_dora=True"),
        ({"peft_type": "LOHA"}, "got peft_type='LOHA'"),
        ({"bias": "all"}, "got bias='all'"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"alpha_pattern": {"up_proj": 3}}, "alpha_pattern"),
        ({"r": None}, "expected a positive r and lora_alpha, got None and 16"),
        ({"lora_alpha": 0}, "got 4 and 0"),
    ],
)
def test_what_is_more_than_lora_is_refused(adapter, change, message):
    folder, ffn = adapter
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | change))
    with pytest.raises(AdapterError, match=message):
        import_adapter(folder, ffn)


def test_another_rank_than_the_configs_is_refused(adapter):
    folder, ffn = adapter
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | {"r": 8}))
    with pytest.raises(ExpertError, match=r"expected the shape \[8, 32\], got \[4, 32\]"):
        import_adapter(folder, ffn)


def test_adapters_elsewhere_than_on_the_final_ffn_are_refused(tiny_backbone, tmp_path):
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(target_modules=["up_proj"])  # in every layer
    get_peft_model(copy_of(tiny_backbone).model, config).save_pretrained(str(tmp_path))
    with pytest.raises(
        AdapterError, match=r"of the final FFN alone.*layers\.0\..*layers_to_transform=\[1\]"
    ):
        import_adapter(tmp_path, FinalFFN(tiny_backbone))
