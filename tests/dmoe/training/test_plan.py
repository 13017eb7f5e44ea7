"""What a plan says of the building of experts, beside what the building holds and does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from transformers import LlamaConfig

from backbone.final_ffn import FinalFFN
from backbone.loading import backbone_shapes, meta_backbone
from dmoe.bank import Bank
from dmoe.commands.build_experts import build_command, build_experts, open_lessons
from dmoe.commands.plan_experts import plan_experts
from dmoe.experts.expert import ExpertSpec
from dmoe.experts.recipe import Recipe
from dmoe.training.grouped import GroupedTrainer, Limits
from dmoe.training.label_states import label_states
from dmoe.training.plan import GroupSize, group_memory
from dmoe.training.steps import make_steps
from plumbing.plan import PeakMemory, PlanError, bytes_of
from plumbing.plan.machine import GIB
from tests.helpers.tiny import make_backbone, save_backbone
from tests.test_conf import CONF

DATA = ("data.train_entities=8", "data.dev_entities=4", "data.distractor_entities=0")


@pytest.fixture
def world(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any]:
    """A folder with a tiny backbone, and one for runs; a process takes 100 MiB."""
    monkeypatch.setattr("plumbing.plan.machine.peak_rss", lambda: 100 * 2**20)
    (tmp_path / "run").mkdir()
    return save_backbone(make_backbone(max_position_embeddings=2048), tmp_path / "model"), tmp_path


def composed(world: tuple[Any, Any], *overrides: str) -> Any:
    folder, root = world
    own = (f"backbone.name={folder}", "backbone.dtype=float32", "trainer.accelerator=cpu")
    given = (f"paths.output_dir={root}/run", f"bank.dir={root}/bank", *own, *DATA)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("build_experts", [*given, "dry_run=true", *overrides])


def test_a_plan_knows_what_is_then_built(world: Any, capsys: Any) -> None:
    config = composed(world, "limits.group_size=3", "recipe.epochs=2")
    found = build_command(config)
    said = capsys.readouterr().out
    assert "8 experts in 3 groups" in said
    assert "Measured: " in said
    assert found["plan/steps"] == 3
    assert found["plan/seconds"] > 0
    root = world[1]
    assert [path.name for path in (root / "run").iterdir()] == ["metrics.json"]
    assert not (root / "bank").exists()
    built = build_experts(config)
    assert built["experts"] == 8
    bank = Bank.open(root / "bank", read_only=True)
    assert found["plan/disk/experts"] == 8 * bank.layout.row_bytes
    assert found["plan/parameters/trained"] == 8 * bank.layout.numel
    again = build_command(config)
    assert again["plan/steps"] == again["plan/disk/experts"] == 0
    assert "there is nothing to build" in capsys.readouterr().out


def test_a_group_holds_what_was_counted_on_the_meta_device(world: Any) -> None:
    """Experts, gradients and the optimiser exactly, and all together within a factor of 1.5."""
    backbone = make_backbone(max_position_embeddings=2048)
    spec, recipe, limits = ExpertSpec(), Recipe(loss="all"), Limits()
    lessons = open_lessons(composed(world))
    from dmoe.training.groups import Groups

    bank: Any = type("NoBank", (), {"missing": staticmethod(iter)})()
    (group,) = Groups(lessons, bank, backbone.tokenizer, ["qa"], recipe, limits)
    size = GroupSize.of(group)
    shapes = backbone_shapes(str(world[0]), torch.float32)
    planned = group_memory(shapes, size, spec, recipe, limits)
    trainer = GroupedTrainer(FinalFFN(backbone), spec, recipe, limits)
    order = sorted(range(len(group.passages)), key=lambda i: -len(group.instances[i]))
    instances = [group.instances[index] for index in order]
    states = label_states(trainer._trunk, instances, limits.trunk_tokens)
    with PeakMemory() as memory:
        experts = trainer.initial([str(index) for index in order])
        trainer.epochs(experts, make_steps(states, recipe.batch_size))
    assert planned.trained == planned.gradients == bytes_of(experts.values())
    assert planned.optimiser == 2 * planned.trained
    assert planned.frozen == bytes_of([*backbone.model.parameters(), *backbone.model.buffers()])
    held = memory.peak + bytes_of([states.residual_AD])
    training = planned.total - planned.frozen
    assert held <= 1.5 * training  # the pass through the layers below may need more
    few = Limits(trunk_tokens=1)
    alone = group_memory(shapes, size, spec, recipe, few)
    assert alone.total - alone.frozen == pytest.approx(held, rel=0.5)


def test_the_papers_backbone_in_groups() -> None:
    """Llama-3.2-1B's last layers: 122,880 parameters an expert (DMoE sec. 4.3)."""
    sizes: dict[str, Any] = {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 2}
    heads: dict[str, Any] = {
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
    }
    shape: Any = LlamaConfig(**sizes, **heads, tie_word_embeddings=True)
    shape.dtype = torch.bfloat16
    backbone, limits = meta_backbone(shape), Limits()
    found = group_memory(backbone, GroupSize.most(limits), ExpertSpec(), Recipe(), limits)
    assert found.trained == 64 * 122_880 * 4
    assert found.frozen == pytest.approx(2 * (128256 * 2048 + 2 * 60.8e6), rel=0.01)
    labels = limits.group_tokens
    # "Each label costs one residual stream, and about a dozen vectors of the FFN's width."
    assert 6 * 2 * 8192 * labels < found.working < 12 * 4 * 8192 * labels


def test_what_cannot_fit_is_refused_and_the_setting_makes_it_fit(world: Any) -> None:
    needs = build_command(composed(world, "plan.steps=0"))
    memory = (needs["plan/memory"] - needs["plan/memory/working"] / 2) / GIB
    tight = ("plan.steps=0", f"plan.memory_gib={memory}")
    with pytest.raises(PlanError, match="this run cannot fit: a device needs") as caught:
        build_command(composed(world, *tight))
    change = str(caught.value).partition("; set ")[2].partition(",")[0].split()
    assert all(word.startswith("limits.") for word in change)
    assert build_command(composed(world, *tight, *change))["plan/fits"] == 1


def test_a_full_disk_is_refused(world: Any) -> None:
    with pytest.raises(PlanError, match="bank needs 0 MiB of disk"):
        build_command(composed(world, "plan.steps=0", "plan.disk_gib=1e-9"))


def test_a_folder_without_weights_is_planned_and_not_measured(world: Any, capsys: Any) -> None:
    for file in world[0].glob("*.safetensors"):
        file.unlink()
    assert build_command(composed(world))["plan/steps"] == 1
    assert "Nothing was measured: the backbone's weights are not" in capsys.readouterr().out


def test_workers_of_ray_share_the_groups(world: Any) -> None:
    small = ("limits.group_size=2", "engine=ray", "ray.workers=2", "plan.steps=0")
    found = build_command(composed(world, *small))
    assert (found["plan/processes"], found["plan/steps"]) == (2, 2)


def test_without_lessons_a_group_is_as_large_as_it_may_be(world: Any) -> None:
    config = composed(world, "plan.steps=0")
    shapes = backbone_shapes(str(world[0]), torch.float32)
    found = plan_experts(config, None, shapes)
    assert "plan/steps" not in found
    known = plan_experts(config, open_lessons(config), shapes)
    assert found["plan/memory"] > known["plan/memory"]
