"""What a plan says of a training, beside what the training holds and does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from lightning import Trainer

from backbone.loading import backbone_shapes, meta_backbone
from genpoe.commands import plan_hypernet
from genpoe.commands.plan_hypernet import plan_training
from genpoe.commands.train_hypernet import build_module, train
from genpoe.hypernet.mean import MeanSettings
from genpoe.training.datamodule import QADataModule
from genpoe.training.plan import StepSize, cached_bytes, data_size, step_peak, training_memory
from genpoe.training.settings import BatchingSettings
from plumbing.plan import PeakMemory, PlanError, bytes_of
from plumbing.plan.machine import GIB
from tests.helpers.tiny import make_backbone, save_backbone
from tests.test_conf import CONF

SMALL = ("data.train_entities=12", "data.dev_entities=6", "data.distractor_entities=0")
LITTLE = ("batching.passages_per_batch=4", "batching.questions_per_passage=3")
QUIET = ("~callbacks.progress_bar", "+trainer.enable_progress_bar=false")
# The architectures of the paper's backbones. Baichuan2's own code is on the hub; its shapes are
# Llama's.
BACKBONES = {"llama2_7b": (32000, 6_738_415_616), "baichuan2_7b": (125696, 7_505_973_248)}
# A GPU of 48 GB, of which the driver keeps some.
GPUS = ("plan.memory_gib=47.5", "trainer.devices=8", "plan.steps=0", "plan.disk_gib=200")


def composed(folder: Any, *overrides: str) -> Any:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(
            "train_hypernet",
            [f"paths.output_dir={folder}", f"paths.cache_dir={folder}/cache", *overrides],
        )


def seven_billion(name: str) -> Any:
    from transformers import LlamaConfig

    shape: Any = LlamaConfig(vocab_size=BACKBONES[name][0], tie_word_embeddings=False)
    shape.dtype = torch.bfloat16
    return meta_backbone(shape, name)


def never(*_: Any) -> Any:
    pytest.fail("nothing is built")


@pytest.mark.slow
@pytest.mark.parametrize("data", ["nq", "triviaqa"])
@pytest.mark.parametrize("name", list(BACKBONES))
def test_the_papers_experiments_fit_on_eight_gpus_of_48_gb(
    tmp_path: Any, data: str, name: str
) -> None:
    config = composed(tmp_path, f"experiment=genpoe/{data}_{name}", "data.dir=nowhere", *GPUS)
    found = plan_training(config, never, seven_billion(name))
    assert found["plan/fits"] == 1
    assert found["plan/parameters/frozen"] == BACKBONES[name][1]
    assert found["plan/parameters/trained"] == pytest.approx(1.08e9, rel=0.01)
    # By hand: bfloat16, and five times the trained weights in float32 (weights, gradients, two
    # running means, and the buckets of the exchange).
    trained = 4 * found["plan/parameters/trained"]
    fixed = 2 * found["plan/parameters/frozen"] + 5 * trained
    buffers = 4 * (4096 * 4096 + 4096)
    assert found["plan/memory"] - found["plan/memory/working"] == pytest.approx(
        fixed + buffers + found["plan/memory/process"], rel=1e-4
    )
    assert found["plan/disk/checkpoints"] == pytest.approx(3 * (3 * trained + buffers), rel=1e-4)
    # By hand: two norms in float32, queries, keys, values and what attention returns, and three
    # vectors of the FFN's width, at 96 tokens of 32 questions in the 20 layers above; and the
    # experts of 16 passages, their outputs in other units, and their gradients.
    token = 2 * 4 * 4096 + 4 * 2 * 4096 + 3 * 2 * 11008
    experts = 3 * 16 * 4 * 4 * 4096 * 512
    peak = found["plan/memory/working"] + found["plan/memory/gradients"]
    assert peak == pytest.approx(96 * 32 * token * 20 + experts, rel=0.2)


@pytest.mark.slow
def test_larger_batches_are_refused_with_a_size_that_fits(tmp_path: Any) -> None:
    large = ("batching.questions_per_passage=6", "batching.max_prompt_tokens=256")
    experiment = ("experiment=genpoe/nq_llama2_7b", "data.dir=nowhere", *GPUS, *large)
    with pytest.raises(PlanError, match=r"needs 100\.\d GiB of memory and has 47\.5") as caught:
        plan_training(composed(tmp_path, *experiment), never, seven_billion("llama2_7b"))
    change = str(caught.value).partition("; set ")[2].partition(",")[0]
    assert change.startswith("batching.passages_per_batch=")
    found = plan_training(
        composed(tmp_path, *experiment, change), never, seven_billion("llama2_7b")
    )
    assert found["plan/fits"] == 1


@pytest.fixture
def world(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any]:
    """A folder with a tiny backbone, and one for runs; a process takes 100 MiB."""
    monkeypatch.setattr("plumbing.plan.machine.peak_rss", lambda: 100 * 2**20)
    return save_backbone(make_backbone(), tmp_path / "model"), tmp_path / "run"


def small(world: tuple[Any, Any], *overrides: str) -> Any:
    folder, run = world
    run.mkdir(exist_ok=True)
    own = (f"backbone.name={folder}", "backbone.dtype=float32", "trainer.accelerator=cpu")
    sizes: tuple[str, ...] = ("hypernet.layer=1", "hypernet.hidden_width=8")
    sizes += () if any("reader" in word for word in overrides) else ("hypernet.rank=2",)
    data = () if "data=squad" in overrides else SMALL
    return composed(run, *data, *LITTLE, *own, *sizes, "logger=none", "dry_run=true", *overrides)


def test_a_plan_knows_what_the_training_then_does(world: Any, capsys: Any) -> None:
    found = plan_training(small(world, "trainer.max_epochs=2"), build_module)
    said = capsys.readouterr().out
    assert "Measured: " in said
    assert "seconds a step (3 steps" in said
    assert found["plan/seconds"] > 0
    run = world[1]
    assert [path.name for path in run.iterdir()] == ["metrics.json"]
    config = small(world, "trainer.max_epochs=2", *QUIET)
    assert train(config)["steps"] == found["plan/steps"]
    written = sum(path.stat().st_size for path in (run / "checkpoints").iterdir())
    checkpoint = (run / "checkpoints" / "last.ckpt").stat().st_size
    # Beside the tensors there are names, settings and generators: some 30 kB a file.
    assert found["plan/disk/checkpoints"] == pytest.approx(3 * checkpoint, abs=3 * 40_000)
    assert written <= 3 * checkpoint


@pytest.mark.parametrize("cache", ["false", "true", "answers"])
def test_cached_states_take_what_is_said(world: Any, cache: str) -> None:
    config = small(world, f"cache_frozen={cache}", *QUIET)
    found = plan_training(config, build_module)
    train(config)
    files = list((world[1] / "cache").rglob("states.bin"))
    assert sum(file.stat().st_size for file in files) == found.get("plan/disk/cached states", 0)
    assert bool(files) == (cache != "false")


@pytest.mark.parametrize("cache", [False, "answers"])
def test_a_step_makes_what_was_counted_on_the_meta_device(world: Any, cache: Any) -> None:
    """Within a factor of 1.5, at sizes at which activations are larger than the gradients."""
    batching = ("batching.passages_per_batch=12", "hypernet.layer=1")
    config = small(world, *batching, f"cache_frozen={str(cache).lower()}")
    backbone = make_backbone()
    module = build_module(config, backbone)
    dataset = instantiate(config.data)
    batches = BatchingSettings(
        passages_per_batch=12, questions_per_passage=3, val_split=None, train_limit=36
    )
    size = data_size(dataset, backbone.tokenizer, batches)
    datamodule = QADataModule(
        dataset,
        backbone.tokenizer,
        passages_per_batch=12,
        questions_per_passage=3,
        val_split=None,
        train_limit=36,
    )
    counted = PeakMemory()

    class Count(plan_hypernet._Measure):
        def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, _: int) -> None:
            self.sizes.append(1)
            counted.__enter__()

        def on_after_backward(self, *_: Any) -> None:
            counted.__exit__(None, None, None)

    trainer = Trainer(
        max_steps=1,
        accelerator="cpu",
        logger=False,
        callbacks=[Count()],
        enable_checkpointing=False,
        enable_progress_bar=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        enable_model_summary=False,
    )
    trainer.fit(module, datamodule)
    shapes = backbone_shapes(str(world[0]), torch.float32)
    settings = module.hypernet.settings
    assert isinstance(settings, MeanSettings)
    with torch.device("meta"):
        hypernet = settings.build(shapes)
    planned = step_peak(shapes, hypernet, size.largest, cache_frozen=cache)
    gradients = bytes_of(module.hypernet.parameters())
    assert planned > 1.5 * gradients
    assert planned == pytest.approx(counted.peak, rel=0.5)
    memory = training_memory(shapes, hypernet, size.largest)
    assert memory.frozen == bytes_of([*backbone.model.parameters(), *backbone.model.buffers()])
    weights = [*module.hypernet.parameters(), *module.hypernet.buffers()]
    assert memory.trained == bytes_of(weights)
    assert memory.gradients == gradients


def test_the_reader_is_planned_by_a_measured_step(world: Any, capsys: Any) -> None:
    reader: tuple[str, ...] = (
        "hypernet=reader",
        "hypernet.read_layer=1",
        "hypernet.query_layers=[1]",
    )
    reader += ("hypernet.common_rank=2", "cache_frozen=answers")
    found = plan_training(small(world, *reader), build_module)
    assert found["plan/memory/working"] > 0
    assert "known only from measured steps" in capsys.readouterr().out
    assert found["plan/disk/cached states"] > 0


def test_a_folder_without_weights_is_planned_and_not_measured(world: Any, capsys: Any) -> None:
    for file in world[0].glob("*.safetensors"):
        file.unlink()
    found = plan_training(small(world), build_module)
    assert "No step was measured: the backbone's weights are not on this" in capsys.readouterr().out
    assert found["plan/steps"] > 0
    assert "plan/seconds" not in found


def test_without_data_a_step_is_as_large_as_it_may_be(world: Any, capsys: Any) -> None:
    config = small(world, "data=squad", "data.dir=nowhere")
    found = plan_training(config, build_module)
    assert "The data are not at hand" in capsys.readouterr().out
    assert "plan/steps" not in found
    known = plan_training(small(world), build_module)
    assert found["plan/memory/working"] > 3 * known["plan/memory/working"]


def test_what_cannot_fit_is_refused_and_the_setting_makes_it_fit(world: Any) -> None:
    none: tuple[str, ...] = (
        "plan.steps=0",
        "batching.passages_per_batch=12",
        "batching.max_prompt_tokens=400",
    )
    none += ("data=squad", "data.dir=nowhere")
    config = small(world, *none)
    needs = plan_training(config, build_module)
    memory = (needs["plan/memory"] - needs["plan/memory/working"] / 2) / GIB
    with pytest.raises(PlanError, match="activations") as caught:
        plan_training(small(world, *none, f"plan.memory_gib={memory}"), build_module)
    change = str(caught.value).partition("; set ")[2].partition(",")[0]
    assert change.startswith("batching.passages_per_batch=")
    plan_training(small(world, *none, f"plan.memory_gib={memory}", change), build_module)


def test_a_full_disk_is_refused(world: Any) -> None:
    few = ("plan.steps=0", "plan.disk_gib=1e-5")
    with pytest.raises(PlanError, match="of disk and has 0 MiB free"):
        plan_training(small(world, *few), build_module)
    config = small(world, "cache_frozen=true", "plan.steps=0")
    states = plan_training(config, build_module)
    between = (states["plan/disk"] - states["plan/disk/cached states"] / 2) / GIB
    with pytest.raises(PlanError, match="set cache_frozen=False"):
        plan_training(
            small(world, "cache_frozen=true", "plan.steps=0", f"plan.disk_gib={between}"),
            build_module,
        )


def test_the_largest_step_of_the_limits() -> None:
    size = StepSize.most(BatchingSettings(passages_per_batch=3, questions_per_passage=2))
    assert (size.passages, size.questions, size.tokens) == (3, 6, 256)
    assert size.answer_tokens == 6 * 8


def test_nothing_is_cached_unless_it_is_asked_for(world: Any) -> None:
    shapes = backbone_shapes(str(world[0]), torch.float32)
    with torch.device("meta"):
        hypernet = MeanSettings(layer=1, rank=2, hidden_width=8).build(shapes)
    size: Any = None
    assert cached_bytes(shapes, hypernet, size, False) == 0
