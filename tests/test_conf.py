"""Every shipped YAML composes, and what it names can be built."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.errors import ConfigCompositionException
from hydra.utils import get_object, instantiate
from omegaconf import OmegaConf

from backbone.loading import meta_backbone
from genpoe.commands.train_hypernet import build_module

CONF = Path(__file__).parents[1] / "conf"


def composed(name, *overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(name, ["paths.output_dir=out", *overrides])


def options(group):
    """The names of a group's files, such as ``genpoe/bios`` of experiments."""
    folder = CONF / group
    found = sorted(
        path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml")
    )
    assert found, f"{folder} has no files"
    return found


def targets(node):
    """Every ``_target_`` of a configuration, as written: what it points to may not be given yet."""
    if OmegaConf.is_config(node):
        node = OmegaConf.to_container(node, resolve=False)
    if isinstance(node, dict) and "_target_" in node:
        yield node["_target_"]
    for part in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from targets(part)


# The seeds that the seed of a command does not change, with the reason.
FIXED_SEEDS = {
    "data.seed": "it says which people and facts there are, and all runs are about the same",
}


def seeds(node, path=""):
    """Every key of a configuration that names a seed, with its value as written."""
    if OmegaConf.is_config(node):
        node = OmegaConf.to_container(node, resolve=False)
    parts = node.items() if isinstance(node, dict) else enumerate(node)
    for name, value in parts:
        key = f"{path}.{name}" if path else str(name)
        if str(name).rpartition("_")[2] == "seed":
            yield key, value
        elif isinstance(value, dict | list):
            yield from seeds(value, key)


def check_seeds(config):
    """Check that the seed of the command is the seed of everything that draws."""
    found = dict(seeds(config))
    assert found.pop("seed", 0) == 0  # what the experiments of docs/measurements have
    for key, value in found.items():
        if key.removeprefix("method.passages.").removeprefix("augmenter.dataset.") in FIXED_SEEDS:
            assert isinstance(value, int)
        else:
            assert value == "${seed}", f"{key} is {value!r}: `seed=` does not reach it"
            assert OmegaConf.select(config, key) == 0


CASES = [
    (group, option)
    for group in (
        *("backbone", "hypernet", "data", "trainer", "callbacks", "logger", "experiment"),
        *("debug", "hparams_search", "paths", "hydra", "without", "plan"),
    )
    for option in options(group)
    # Others are experiments of other commands.
    if not option.startswith(("dmoe/", "format/", "genpoe/figure"))
]


@pytest.mark.parametrize(("group", "option"), CASES)
def test_every_option_of_training_composes(group, option):
    config = composed("train_hypernet", f"{group}={option}")
    found = list(targets(config))
    assert "lightning.Trainer" in found
    for target in found:
        assert callable(get_object(target))
    check_seeds(config)


ROOTS = {
    "ablation": ("ablation=k", "augmenter=file"),
    "augment": (),
    "benchmark": ("suite=train",),
    "build_experts": ("bank.dir=bank",),
    "build_index": ("retriever=bm25",),
    "crossed": (),
    "encode_passages": ("ckpt_path=a", "bank.dir=bank"),
    "evaluate": (),
    "evaluate_retrieval": ("data=bios", "retriever=hybrid"),
    "export_data": (),
    "look": (),
    "mean_study": (),
    "measure_covariances": (),
    "quickstart": (),
    "reader_study": (),
    "report": ("runs=[a,b]",),
    "reproduce": ("target=all",),
    "serve": (),
    "train_editor": (),
    "sequential_edit": (),
    "sequential_report": ("runs=[a,b]",),
    "train_hypernet": (),
    "train_reranker": (),
    "train_sft_lora": (),
    "train_warmup": (),
    "tune_editor": (),
    "twins": (),
    "write_facts": (),
}


@pytest.mark.parametrize("root", sorted(path.stem for path in CONF.glob("*.yaml")))
def test_roots_compose(root):
    config = composed(root, *ROOTS[root])
    assert config.task_name == root
    check_seeds(config)


GROUPS = [
    *(("evaluate", group) for group in ("method", "retriever", "reranker", "data", "backbone")),
    *(("evaluate", group) for group in ("corpus", "pipeline", "editor", "material")),
    *(("evaluate_retrieval", group) for group in ("retriever", "reranker")),
    *(("evaluate_retrieval", group) for group in ("corpus", "pipeline")),
    *(("build_index", group) for group in ("retriever", "corpus")),
    ("train_reranker", "cross_encoder"),
    *((root, "recipe") for root in ("build_experts", "train_sft_lora")),
    *(("build_experts", group) for group in ("expert", "limits", "corpus", "experiment")),
    ("build_experts", "plan"),
    *(("ablation", group) for group in ("router", "trigger", "experts", "experiment")),
    ("train_sft_lora", "experiment"),
    ("serve", "reranker"),
    ("augment", "augmenter"),
    ("ablation", "ablation"),
    ("reproduce", "size"),
]

# Folders whose files are read by a command of their own, and no choices of a setting.
NO_GROUPS = {"papers"}  # tests/benchmarks/papers/test_entries.py composes them


@pytest.mark.parametrize(("root", "group"), GROUPS)
def test_every_option_of_a_group_composes(root, group):
    for option in options(group):
        if option.startswith("genpoe/"):  # an experiment of train_hypernet
            continue
        if option.startswith("format/") and root != "train_sft_lora":
            continue
        config = composed(root, *ROOTS[root], f"{group}={option}")
        for target in targets(config):
            assert callable(get_object(target))
        check_seeds(config)


def test_no_group_is_left_out():
    composed_groups = {group for group, _ in CASES} | {group for _, group in GROUPS}
    assert {path.name for path in CONF.iterdir() if path.is_dir()} - NO_GROUPS == composed_groups


def test_whatever_is_fixed_is_there():
    assert {key for key, _ in seeds(composed("evaluate"))} >= FIXED_SEEDS.keys()


def nodes(node):
    """Every mapping of a file that names a target."""
    if isinstance(node, dict) and "_target_" in node:
        yield node
    for part in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from nodes(part)


def test_whatever_takes_a_seed_is_given_one():
    """A class that draws with a seed of its own, which no file names, would not follow `seed=`."""
    given = {}
    for path in sorted(CONF.rglob("*.yaml")):
        for node in nodes(OmegaConf.to_container(OmegaConf.load(path))):
            target = get_object(node["_target_"])
            if "seed" in inspect.signature(target).parameters:
                given[path.relative_to(CONF).as_posix(), node["_target_"]] = "seed" in node
    assert len(given) > 5
    assert all(given.values()), given


def test_every_method_of_figure_5_composes():
    config = composed("sequential_edit", "experiment=genpoe/figure5_bios")
    for settings in config.compare.values():
        own = composed("sequential_edit", *settings, "compare=null")
        for target in targets(own):
            assert callable(get_object(target))
        check_seeds(own)


@pytest.mark.parametrize("root", ["build_experts", "train_sft_lora", "ablation"])
@pytest.mark.parametrize("model", ["llama3_2_1b", "qwen2_5_1_5b"])
def test_the_dmoe_papers_experiments_have_its_settings(root, model):
    given = [*ROOTS[root], f"experiment=dmoe/{model}"]
    config = composed(root, *given)
    assert config.backbone == composed(root, *ROOTS[root], f"backbone={model}").backbone
    expected = {"recipe.lr": 1e-5, "recipe.epochs": 1, "recipe.loss": "all"}
    if root != "train_sft_lora":
        expected |= {"expert.rank": 4, "expert.alpha": 16}
    if root == "ablation":
        expected |= {"k": 3, "trigger.threshold": 2.0, "method.max_query_tokens": 128}
        expected |= {"limit": 300}
    assert {key: OmegaConf.select(config, key) for key in expected} == expected
    assert len(config.instances.formats) == 3
    assert composed(root, *given, "recipe=tuned").recipe.epochs == 10


def test_sft_lora_takes_the_recipes_of_experts():
    config = composed("train_sft_lora")
    assert (config.recipe.lr, config.recipe.epochs, config.recipe.loss) == (1e-5, 1, "answer")
    assert config.instances.formats == ["qa"]
    for name in ("paper", "tuned"):
        config = composed("train_sft_lora", f"recipe={name}", "seed=3")
        expert = composed("build_experts", "bank.dir=bank", f"recipe={name}")
        own = {"batch_size": 16, "seed": 3}
        assert {**config.recipe} == {**expert.recipe, **own}
        assert config.instances.formats == expert.instances.formats


@pytest.mark.parametrize("logger", ["default", "csv", "tensorboard"])
def test_loggers_and_callbacks_are_built(logger, tmp_path):
    config = composed("train_hypernet", f"logger={logger}", f"paths.output_dir={tmp_path}")
    config.paths.output_dir = str(tmp_path)
    for node in [*config.logger.values(), *config.callbacks.values()]:
        assert instantiate(node) is not None


@pytest.mark.parametrize("trainer", ["default", "cpu"])
def test_trainers_are_built(trainer, tmp_path):
    config = composed("train_hypernet", f"trainer={trainer}", f"paths.output_dir={tmp_path}")
    assert instantiate(config.trainer, accelerator="cpu", logger=False).max_epochs == 1


def test_an_unknown_key_is_an_error():
    with pytest.raises(ConfigCompositionException, match=r"hypernet\.rnak"):
        composed("train_hypernet", "hypernet.rnak=3")


@pytest.mark.parametrize("data", ["nq", "triviaqa"])
@pytest.mark.parametrize(("model", "vocabulary"), [("llama2_7b", 32000), ("baichuan2_7b", 125696)])
def test_the_papers_experiments_have_the_papers_shapes(data, model, vocabulary):
    """On the meta device; Baichuan2's own code is on the hub, its shapes are Llama's."""
    from transformers import LlamaConfig

    config = composed("train_hypernet", f"experiment=genpoe/{data}_{model}")
    assert config.data.name == data
    assert (config.optim.lr, config.optim.lr_min, config.trainer.max_epochs) == (1e-4, 1e-6, 1)
    shape = LlamaConfig(vocab_size=vocabulary, tie_word_embeddings=False)
    backbone = meta_backbone(shape, config.backbone.name)
    with torch.device("meta"):
        module = build_module(config, backbone)
        experts: Any = module.hypernet.experts(torch.empty(3, backbone.d_model))
        hidden = torch.empty(3, 7, backbone.d_model, dtype=backbone.dtype)
        with module.expert_layer.injected(experts, torch.empty(3, 1)):
            assert backbone.ffn(11)(hidden).shape == hidden.shape
    assert module.expert_layer.layer == 11
    assert experts.up1.shape == (3, 1, 4096, 512)
    count = sum(parameter.numel() for parameter in module.parameters())
    assert count == pytest.approx(1.08e9, rel=0.01)
