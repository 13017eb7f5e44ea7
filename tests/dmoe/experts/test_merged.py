"""Experts in the weights of an ordinary model, and adapters in the form that vLLM reads."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from backbone.final_ffn import FinalFFN
from backbone.loading import load_backbone
from backbone.lora.settings import AdapterError
from dmoe.bank import Bank, BankError, BankSpec, ExpertLayout
from dmoe.commands.bank import bank_command
from dmoe.decoding.active import ActiveExperts
from dmoe.experts.expert import ExpertSpec
from dmoe.experts.merged import save_merged
from dmoe.experts.peft import export_adapter
from tests.helpers.tiny import make_backbone, save_backbone
from tests.helpers.tiny_bank import passage

IDS = torch.tensor([[5, 6, 7, 8, 9]])
SPEC = ExpertSpec(2, 3.0, ["gate", "down"])
WEIGHTS = {"a": 0.7, "b": 0.2, "c": 0.1}


@pytest.fixture(params=["llama", "phi3", "gpt2", "gemma2"])
def made(request: Any, tmp_path: Path) -> tuple[Any, Bank]:
    """A family's tiny backbone in a folder, and a bank of three of its experts."""
    spec = SPEC if request.param != "gpt2" else ExpertSpec(2, 3.0, ["up", "down"])
    tiny = make_backbone(request.param)
    backbone = load_backbone(str(save_backbone(tiny, tmp_path / "model")), dtype="float32")
    layout = ExpertLayout(spec.shapes(FinalFFN(backbone).sizes))
    bank = Bank.create(
        tmp_path / "bank", BankSpec(backbone.name, backbone.fingerprint, layout, spec.alpha)
    )
    experts = {name: torch.randn(3, *shape) / 8 for name, shape in layout.shapes.items()}
    bank.add([passage(id) for id in WEIGHTS], experts)
    return backbone, bank


class Source:
    """The bank as the decoder sees it."""

    def __init__(self, bank: Bank) -> None:
        self._bank = bank
        self.scaling = bank.spec.alpha / bank.layout.rank

    def __contains__(self, id: object) -> bool:
        return id in self._bank

    def __iter__(self) -> Any:
        return iter(self._bank)

    def get(self, ids: Any) -> Any:
        return self._bank.get(ids)


@torch.no_grad()
def injected(backbone: Any, bank: Bank, weights: dict[str, float]) -> torch.Tensor:
    """The logits with these experts acting, as DMoE's decoder lets them act."""
    active = ActiveExperts(FinalFFN(backbone), Source(bank), 1, len(weights))
    active._fill([0], [weights])
    active._ids = [tuple(weights)]
    with active.attached():
        logits: torch.Tensor = backbone.model(IDS).logits
    return logits


@torch.no_grad()
def test_a_merged_model_has_the_logits_of_the_acting_experts(
    made: tuple[Any, Bank], tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    backbone, bank = made
    expected, plain = injected(backbone, bank, WEIGHTS), backbone.model(IDS).logits
    save_merged(tmp_path / "out", bank, list(WEIGHTS), backbone, list(WEIGHTS.values()))
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)(IDS).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert (found - plain).abs().max() > 0.01
    assert not list((tmp_path / "out").rglob("*.bin"))


def test_the_command_writes_a_backbone_like_any_other(made: Any, tmp_path: Path) -> None:
    backbone, bank = made
    expected = injected(backbone, bank, {"b": 0.5, "c": 0.5})
    output, target = io.StringIO(), tmp_path / "out"
    given = ["export-model", str(bank.path), str(target), "--id", "b", "--id", "c"]
    bank_command(given, output)
    assert json.loads(output.getvalue()) == {"merged": 2}
    found = load_backbone(str(target), dtype="float32")
    torch.testing.assert_close(found.model(IDS).logits, expected, rtol=1e-4, atol=1e-4)
    card = (target / "README.md").read_text("utf-8")
    assert card.startswith("---\nlibrary_name: transformers\n")
    assert '"b": 0.5' in card
    with pytest.raises(AdapterError, match="exist"):
        bank_command(given, output)


def test_what_cannot_be_merged_is_refused(made: Any, tmp_path: Path) -> None:
    backbone, bank = made
    target = tmp_path / "out"
    for ids, weights in (([], None), (["a", "a"], None), (["a"], [0.5, 0.5])):
        with pytest.raises(AdapterError, match="expected different passage ids and a weight for"):
            save_merged(target, bank, ids, backbone, weights)
    with pytest.raises(BankError):
        save_merged(target, bank, ["nobody"], backbone)
    with pytest.raises(ValueError, match="dtype must be one of"):
        save_merged(target, bank, ["a"], backbone, dtype="int8")
    backbone.model.bfloat16()
    with pytest.raises(ValueError, match="experts are merged in float32"):
        save_merged(target, bank, ["a"], backbone)
    assert not target.exists()


# What vLLM asks of an adapter's files (vllm/lora/peft_helper.py and vllm/lora/lora_model.py).
NEEDED = ("r", "lora_alpha", "target_modules")
# The linear layers of its Llama, whose gate and up are one packed layer with two names.
LINEAR = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


@pytest.mark.parametrize("targets", [["gate", "up", "down"], ["down"], ["gate"]])
def test_an_adapter_has_the_form_that_vllm_reads(targets: list[str], tmp_path: Path) -> None:
    """By the rules alone: vLLM itself is not run here."""
    backbone = make_backbone()
    ffn, spec = FinalFFN(backbone), ExpertSpec(4, 16.0, targets)
    expert = {name: torch.randn(shape) for name, shape in spec.shapes(ffn.sizes).items()}
    export_adapter(tmp_path / "adapter", expert, spec, ffn)
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text("utf-8"))
    assert all(config.get(key) for key in NEEDED)
    assert config["peft_type"] == "LORA"
    assert (config["r"], config["lora_alpha"]) == (4, 16)
    assert isinstance(config["lora_alpha"], int)
    assert config["r"] <= 16  # its default max_lora_rank
    assert config.get("bias", "none") == "none"
    for off in ("modules_to_save", "use_dora", "lora_bias", "rank_pattern", "alpha_pattern"):
        assert not config.get(off)
    assert set(config["target_modules"]) <= LINEAR
    with safe_open(tmp_path / "adapter" / "adapter_model.safetensors", "pt") as file:
        shapes = {name: list(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    pairs: dict[str, dict[str, list[int]]] = {}
    for name, shape in shapes.items():
        *module, factor, weight = name.removeprefix("base_model.model.").split(".")
        assert name.startswith("base_model.model.model.layers.1.mlp.")
        assert (weight, factor in ("lora_A", "lora_B")) == ("weight", True)
        assert module[-1] in LINEAR
        pairs.setdefault(".".join(module), {})[factor] = shape
    assert len(pairs) == len(targets)
    for module, pair in pairs.items():
        linear: Any = backbone.model.get_submodule(module)
        assert pair == {"lora_A": [4, linear.in_features], "lora_B": [linear.out_features, 4]}
