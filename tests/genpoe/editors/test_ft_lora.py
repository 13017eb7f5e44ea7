"""FT-LoRA against PEFT."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from peft import AdaLoraConfig, LoraConfig, get_peft_model

from backbone.edits import state_hash
from backbone.model import UnsupportedBackboneError
from genpoe.editors.ft_lora import FTLoRA, FTLoRASettings
from genpoe.editors.parts.facts import encode_fact
from genpoe.editors.parts.rows import rows_of
from plumbing.mounts import SettingValueError
from tests.helpers.taught import new_facts, taught_backbone, taught_facts
from tests.helpers.tiny import make_backbone

QV = ("q_proj", "v_proj")


def peft_model(backbone, kind):
    common: dict[str, Any] = {
        "lora_dropout": 0.0,
        "task_type": "CAUSAL_LM",
        "target_modules": list(QV),
    }
    if kind == "lora":
        config = LoraConfig(r=4, lora_alpha=8, **common)
    else:
        config = AdaLoraConfig(init_r=4, r=8, lora_alpha=8, total_step=100, tinit=0, **common)
    return get_peft_model(copy.deepcopy(backbone.model), config)


@pytest.mark.parametrize("kind", ["lora", "adalora"])
@pytest.mark.filterwarnings("ignore")  # PEFT's
def test_ft_lora_is_peft(kind):
    backbone = make_backbone()
    settings = FTLoRASettings(
        kind=kind, rank=4, alpha=8, lr=5e-3, passes=3, batch_size=2, stop=0, seed=5
    )
    wanted = peft_model(backbone, kind)
    initial = FTLoRA(backbone, settings).initial()  # the same seed gives the editor the same
    own = dict(wanted.named_parameters())
    for name, factors in initial.items():
        for key, value in factors.items():
            end = "default" if kind == "adalora" else "default.weight"
            full = f"base_model.model.{name.removesuffix('.weight')}.lora_{key}.{end}"
            assert own[full].shape == value.shape
            own[full].data.copy_(value)
    facts = new_facts()
    rows = [
        rows_of(backbone, [encode_fact(backbone, fact) for fact in some])
        for some in (facts[:2], facts[2:])
    ]
    trained = [p for name, p in own.items() if "lora_" in name and p.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=5e-3)
    with torch.inference_mode(False), torch.enable_grad():
        for _ in range(3):
            for batch in rows:
                optimizer.zero_grad()
                out = wanted(input_ids=batch.ids, attention_mask=batch.mask)
                losses = []
                for row, labels in zip(out.logits, batch.labels, strict=True):
                    at = (labels != -100).nonzero()[:, 0]
                    losses.append(torch.nn.functional.cross_entropy(row[at - 1], labels[at]))
                loss = torch.stack(losses).mean()
                if kind == "adalora":
                    own_loss = wanted(
                        input_ids=batch.ids, attention_mask=batch.mask, labels=batch.labels
                    )
                    plain = torch.nn.functional.cross_entropy(
                        own_loss.logits[:, :-1].flatten(0, 1), batch.labels[:, 1:].flatten()
                    )
                    loss = loss + (own_loss.loss - plain)  # PEFT's penalty
                loss.backward()
                optimizer.step()
    editor = FTLoRA(backbone, settings)
    before = state_hash(backbone)
    with editor.edited(facts):
        assert state_hash(backbone) != before
        hidden = backbone.model(rows[0].ids, attention_mask=rows[0].mask).logits
        theirs = wanted(input_ids=rows[0].ids, attention_mask=rows[0].mask).logits
        real = rows[0].mask.bool()
        assert torch.allclose(hidden[real], theirs[real], atol=2e-5)
        for name, factors in editor.factors.items():
            for key, value in factors.items():
                end = "default" if kind == "adalora" else "default.weight"
                full = f"base_model.model.{name.removesuffix('.weight')}.lora_{key}.{end}"
                assert torch.allclose(value, own[full], atol=1e-6), full
    assert state_hash(backbone) == before


@pytest.mark.parametrize("kind", ["lora", "adalora"])
def test_initial_factors_change_no_bit(kind):
    backbone = make_backbone()
    editor = FTLoRA(backbone, FTLoRASettings(kind=kind))
    rows = rows_of(backbone, [encode_fact(backbone, fact) for fact in new_facts()])
    with torch.no_grad():
        plain = rows.hidden(backbone)
        with editor._beside(editor.initial()):
            assert torch.equal(rows.hidden(backbone), plain)


def test_one_adapter_trains_on_over_batches():
    backbone = make_backbone()
    editor = FTLoRA(backbone, FTLoRASettings(passes=2, seed=3))
    weight = backbone.layers[0].self_attn.q_proj.weight
    original = weight.detach().clone()
    editor.edit(new_facts()[:1])
    first = {name: dict(each) for name, each in editor.factors.items()}
    editor.edit(new_facts()[1:])
    name = "model.layers.0.self_attn.q_proj.weight"
    assert not torch.equal(editor.factors[name]["B"], first[name]["B"])
    product = editor.factors[name]["B"] @ editor.factors[name]["A"] * 4  # 32 / 8
    assert torch.linalg.matrix_rank(product) <= 8
    assert torch.allclose(weight, original + product, atol=1e-6)
    editor.undo(1)
    assert torch.equal(editor.factors[name]["B"], first[name]["B"])
    editor.undo()
    assert torch.equal(weight, original)


def test_dropout_is_for_training_alone_and_draws_for_itself():
    backbone = make_backbone()
    state = torch.random.get_rng_state()
    found = []
    for _ in range(2):
        editor = FTLoRA(backbone, FTLoRASettings(dropout=0.5, passes=2, stop=0))
        with editor.edited(new_facts()):
            found.append(state_hash(backbone))
    assert found[0] == found[1]
    assert torch.equal(torch.random.get_rng_state(), state)
    with FTLoRA(backbone, FTLoRASettings(passes=2, stop=0)).edited(new_facts()):
        assert state_hash(backbone) != found[0]


def test_training_ends_when_the_targets_are_known():
    backbone = taught_backbone()
    editor = FTLoRA(backbone, FTLoRASettings(passes=100, stop=0.1))
    calls = []
    handle = backbone.final_norm.register_forward_hook(lambda *_: calls.append(1))
    report = editor.edit(new_facts(1))
    handle.remove()
    assert len(calls) < 50
    assert report.nll_after[0] < 0.1


def test_targets_of_other_families():
    backbone = make_backbone("gpt2")  # one map for queries, keys and values, the other way round
    report = FTLoRA(backbone, FTLoRASettings(targets=["c_attn"])).edit(taught_facts()[:2])
    assert max(report.nll_after) < min(report.nll_before)
    with pytest.raises(
        UnsupportedBackboneError, match="no linear map 'q_proj'; choose targets of "
    ):
        FTLoRA(backbone, FTLoRASettings())
    with pytest.raises(SettingValueError, match="targets must name"):
        FTLoRA(backbone, FTLoRASettings(targets=[]))
