"""PEFT adapter folders: equal logits in both directions, and clear refusals."""

from __future__ import annotations

import copy
import json
import math

import pytest
import torch
from safetensors.torch import load_file, save_file

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


def randomize_lora(model, std):
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora" in name:
                parameter.normal_(std=std)


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
    randomize_lora(model, 0.1)
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
    randomize_lora(model, 0.2)
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
        ({"r": None}, "r must be a whole number, got None"),
        ({"r": 0}, "expected a positive r and lora_alpha, got 0 and 16"),
        ({"lora_alpha": 0}, "got 4 and 0"),
    ],
)
def test_what_is_more_than_lora_is_refused(adapter, change, message):
    folder, ffn = adapter
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | change))
    with pytest.raises(AdapterError, match=message):
        import_adapter(folder, ffn)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"r": "four"}, f"{CONFIG}: r must be a whole number, got 'four'; set r, or export the"),
        ({"r": 4.0}, "r must be a whole number, got 4.0"),
        ({"r": True}, "r must be a whole number, got True"),
        ({"lora_alpha": "16"}, "lora_alpha must be a number, got '16'"),
        ({"lora_alpha": [16]}, r"lora_alpha must be a number, got \[16\]"),
        ({"lora_alpha": math.nan}, "expected a positive r and lora_alpha, got 4 and nan"),
        ({"use_rslora": "yes"}, "use_rslora must be true or false or null, got 'yes'"),
        ({"use_dora": "false"}, "use_dora must be true or false or null, got 'false'"),
        ({"lora_dropout": "none"}, "lora_dropout must be a number, got 'none'"),
        ({"bias": "some"}, "bias must be one of none, all, lora_only, got 'some'"),
        ({"rank_pattern": [4]}, "rank_pattern must be a mapping"),
        ({"target_modules": 3}, "target_modules must be a list"),
        ({"layers_to_transform": "last"}, "layers_to_transform must be a list"),
        ({"init_lora_weights": 3}, "init_lora_weights must be true or false or a text"),
        ({"peft_type": 1}, "peft_type must be a text, got 1"),
        ({"layers_pattern": "layers", "layers_to_transform": None}, "PEFT refuses it"),
        ({"future_config": {"x": 1}}, "future_config={'x': 1}, which is not known here"),
        ({"future_mode": True}, "future_mode=True, which is not known here"),
    ],
)
def test_a_mistyped_or_unknown_setting_of_an_adapter_is_named(adapter, change, message):
    folder, ffn = adapter
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | change))
    with pytest.raises(AdapterError, match=message):
        import_adapter(folder, ffn)


def test_a_setting_that_later_versions_leave_off_is_no_obstacle(adapter):
    folder, ffn = adapter
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | {"future_config": None, "future": False}))
    import_adapter(folder, ffn)


def renamed(folder, name):
    """Put the name of an adapter into the keys of its tensors."""
    tensors = load_file(folder / WEIGHTS)
    with_name = {key.replace(".weight", f".{name}.weight"): tensors[key] for key in tensors}
    save_file(with_name, folder / WEIGHTS)
    return tensors


def test_keys_with_the_name_of_the_adapter_are_imported(adapter, tiny_backbone):
    from peft import PeftModel

    folder, ffn = adapter
    expert, spec = import_adapter(folder, ffn)
    tensors = renamed(folder, "default")
    again, settings = import_adapter(folder, ffn)
    assert settings == spec
    assert all(torch.equal(again[key], tensor) for key, tensor in expert.items())
    theirs = PeftModel.from_pretrained(copy_of(tiny_backbone).model, str(folder))
    ours = logits_with(tiny_backbone, again, settings, IDS)
    torch.testing.assert_close(theirs(IDS).logits, ours, rtol=1e-4, atol=1e-4)
    save_file(tensors | load_file(folder / WEIGHTS), folder / WEIGHTS)
    with pytest.raises(AdapterError, match="expected one adapter, got several tensors for"):
        import_adapter(folder, ffn)


def test_keys_with_a_name_that_peft_does_not_find_are_refused(adapter, tiny_backbone):
    from peft import PeftModel

    folder, ffn = adapter
    renamed(folder, "my-adapter")
    with pytest.warns(UserWarning, match="missing adapter keys"):
        theirs = PeftModel.from_pretrained(copy_of(tiny_backbone).model, str(folder))
    torch.testing.assert_close(theirs(IDS).logits, tiny_backbone.model(IDS).logits)
    with pytest.raises(AdapterError, match=r"PEFT does not find it; take \.my-adapter out"):
        import_adapter(folder, ffn)


@pytest.mark.parametrize("matrix", ["lora_A", "lora_B"])
def test_half_a_pair_of_factors_is_refused(matrix, adapter):
    folder, ffn = adapter
    tensors = load_file(folder / WEIGHTS)
    lost = next(key for key in tensors if matrix in key)
    save_file({key: tensors[key] for key in tensors if key != lost}, folder / WEIGHTS)
    with pytest.raises(AdapterError, match=rf"{WEIGHTS}: expected {lost} beside .*, got none"):
        import_adapter(folder, ffn)


FINAL = {"target_modules": ["gate_proj", "down_proj"], "layers_to_transform": [1]}
TYPES = {"loha": "LoHaConfig", "lokr": "LoKrConfig", "ia3": "IA3Config", "vera": "VeraConfig"}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"lora_dropout": 0.5}, None),
        ({"use_rslora": True}, None),
        ({"lora_alpha": 3}, None),
        ({"layers_to_transform": 1}, None),
        ({"layers_pattern": "layers"}, None),
        ({"layers_to_transform": None, "target_modules": r".*\.1\.mlp\.(up|down)_proj"}, None),
        ({"exclude_modules": ["up_proj"]}, None),
        ({"init_lora_weights": False}, None),
        ({"init_lora_weights": "gaussian"}, None),
        ({"init_lora_weights": "orthogonal"}, None),
        ({"task_type": "CAUSAL_LM"}, None),
        ({"init_lora_weights": "pissa"}, "the base weights are changed as well"),
        ({"init_lora_weights": "pissa_niter_4"}, "the base weights are changed as well"),
        ({"init_lora_weights": "olora"}, "the base weights are changed as well"),
        ({"use_dora": True}, "something else than B A x"),
        ({"lora_bias": True}, "other weights than those of LoRA"),
        ({"bias": "all"}, "other weights than those of LoRA"),
        ({"bias": "lora_only"}, "other weights than those of LoRA"),
        ({"modules_to_save": ["lm_head"]}, "other weights than those of LoRA"),
        ({"trainable_token_indices": [5, 6]}, "other weights than those of LoRA"),
        ({"rank_pattern": {"down_proj": 2}}, "differ in their rank"),
        ({"alpha_pattern": {"down_proj": 3}}, "differ in their alpha"),
        ({"layer_replication": [[0, 2], [1, 2]]}, "the layers are repeated"),
        ({"alora_invocation_tokens": [7]}, "behind some tokens alone"),
        ({"target_modules": ["embed_tokens"], "layers_to_transform": None}, "final FFN alone"),
        ({"target_modules": ["q_proj"]}, "final FFN alone"),
    ],
)
@pytest.mark.filterwarnings("ignore")  # PEFT's own, of what is refused
def test_any_adapter_gives_pefts_logits_or_is_refused(changes, reason, tiny_backbone, tmp_path):
    from peft import LoraConfig, PeftModel, get_peft_model

    torch.manual_seed(0)
    model = get_peft_model(
        copy_of(tiny_backbone).model, LoraConfig(**{"r": 4, "lora_alpha": 16, **FINAL, **changes})
    ).eval()
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(str(tmp_path))
    if reason is not None:
        with pytest.raises(AdapterError, match=reason):
            import_adapter(tmp_path, FinalFFN(tiny_backbone))
        return
    theirs = PeftModel.from_pretrained(copy_of(tiny_backbone).model, str(tmp_path))
    expert, spec = import_adapter(tmp_path, FinalFFN(tiny_backbone))
    ours = logits_with(tiny_backbone, expert, spec, IDS)
    torch.testing.assert_close(ours, theirs(IDS).logits, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(ours, tiny_backbone.model(IDS).logits, atol=1e-3)


@pytest.mark.parametrize("method", TYPES)
@pytest.mark.filterwarnings("ignore")
def test_other_methods_than_lora_are_refused(method, tiny_backbone, tmp_path):
    import peft

    more = {"feedforward_modules": FINAL["target_modules"]} if method == "ia3" else {}
    config = getattr(peft, TYPES[method])(target_modules=FINAL["target_modules"], **more)
    peft.get_peft_model(copy_of(tiny_backbone).model, config).save_pretrained(str(tmp_path))
    with pytest.raises(AdapterError, match=rf"(?i)peft_type='{method}': only LoRA"):
        import_adapter(tmp_path, FinalFFN(tiny_backbone))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target_modules": ["gate_proj"]}, "to choose model.layers.1.mlp.down_proj"),
        ({"layers_to_transform": [0]}, "to choose model.layers.1.mlp.down_proj"),
        ({"exclude_modules": ["down_proj"]}, "to choose model.layers.1.mlp.down_proj"),
        ({"target_modules": None}, "got target_modules=None"),
        (
            {"layers_to_transform": None, "init_lora_weights": False},
            "expected factors of model.layers.0.mlp.gate_proj.*PEFT would draw them at random",
        ),
        ({"task_type": "SEQ_CLS"}, "only language models are adapted"),
        ({"init_lora_weights": "corda"}, "the base weights are changed"),
        ({"init_lora_weights": "loftq"}, "the base weights are changed"),
        ({"init_lora_weights": "lora_ga"}, "the base weights are changed"),
        ({"target_parameters": ["mlp.experts.gate_up_proj"]}, "no linear map"),
        ({"megatron_config": {"x": 1}}, "Megatron"),
        ({"use_qalora": True}, "something else than B A x"),
        ({"arrow_config": {"x": 1}}, "several adapters"),
    ],
)
def test_what_peft_would_read_otherwise_is_refused(adapter, changes, message):
    folder, ffn = adapter
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | changes))
    with pytest.raises(AdapterError, match=message):
        import_adapter(folder, ffn)


def test_fan_in_fan_out_is_read_past_as_peft_does(adapter, tiny_backbone):
    from peft import PeftModel

    folder, ffn = adapter
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | {"fan_in_fan_out": True}))
    with pytest.warns(UserWarning, match="fan_in_fan_out"):
        theirs = PeftModel.from_pretrained(copy_of(tiny_backbone).model, str(folder))
    ours = logits_with(tiny_backbone, *import_adapter(folder, ffn), IDS)
    torch.testing.assert_close(theirs(IDS).logits, ours, rtol=1e-4, atol=1e-4)


def test_another_rank_than_the_configs_is_refused(adapter):
    folder, ffn = adapter
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | {"r": 8}))
    with pytest.raises(ExpertError, match=rf"{WEIGHTS}: .*the shape \[8, 32\], got \[4, 32\]"):
        import_adapter(folder, ffn)


def test_adapters_elsewhere_than_on_the_final_ffn_are_refused(tiny_backbone, tmp_path):
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(target_modules=["up_proj"])  # in every layer
    get_peft_model(copy_of(tiny_backbone).model, config).save_pretrained(str(tmp_path))
    with pytest.raises(
        AdapterError, match=r"of the final FFN alone.*layers\.0\..*layers_to_transform=\[1\]"
    ):
        import_adapter(tmp_path, FinalFFN(tiny_backbone))
