"""The command that builds a bank: every engine makes the same experts, and makes none twice."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hydra import compose, initialize_config_dir

import plumbing.progress
from dmoe.bank import Bank, BankError
from dmoe.commands.build_experts import build_command, build_experts
from dmoe.commands.train_warmup import warmup
from dmoe.training.module import IndependentRanks, training_strategy
from dmoe.training.settings import check_trainer
from plumbing.cli import run as run_command
from plumbing.storage.jsonl import read_jsonl, write_jsonl

ROOT = Path(__file__).parents[3]

pytestmark = pytest.mark.filterwarnings(
    "ignore:`isinstance\\(treespec, LeafSpec\\)` is deprecated:FutureWarning",
)


@pytest.fixture
def arguments(model, tmp_path):
    return [
        f"backbone.name={model}",
        "backbone.dtype=float32",
        "data.train_entities=7",
        "data.dev_entities=2",
        "data.distractor_entities=0",
        "limits.group_size=3",
        f"bank.dir={tmp_path / 'bank'}",
    ]


@pytest.fixture
def build(arguments, tmp_path):
    def run(*overrides, command=build_experts):
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            given = [*arguments, f"paths.output_dir={tmp_path / 'run'}", "trainer=cpu"]
            config = compose("build_experts", [*given, *overrides])
        config.trainer.default_root_dir = str(tmp_path)
        return command(config)

    return run


def test_a_bank_is_built_and_its_experts_know_their_passages(build, tmp_path):
    metrics = build()
    assert metrics == json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["experts"] == 7
    assert metrics["train/last_loss"] < metrics["train/first_loss"]
    bank = Bank.open(tmp_path / "bank")
    assert len(bank) == 7
    assert bank.spec.recipe["epochs"] == 10
    assert bank.spec.recipe["formats"] == ["qa"]
    assert bank.spec.recipe["source"] == "questions (all)"
    assert bank.spec.recipe["backbone_dtype"] == "float32"


def test_what_is_there_is_not_built_again(build, tmp_path):
    assert build("instances.limit=3")["experts"] == 3
    first = Bank.open(tmp_path / "bank")
    before = first.get(list(first))
    metrics = build()
    assert (metrics["experts"], metrics["skipped"]) == (4, 3)
    after = Bank.open(tmp_path / "bank").get(list(first))
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    metrics = build()
    assert (metrics["experts"], metrics["skipped"]) == (0, 7)


def test_another_instruction_needs_another_bank(build, tmp_path, monkeypatch):
    assert build("instances.limit=1")["experts"] == 1
    monkeypatch.setattr("qa.prompts.INSTRUCTION", "Answer in Latin.")
    with pytest.raises(BankError, match=r"recipe\.prompt: .*Latin.* here, .* in the bank; use an"):
        build("instances.limit=1")
    assert build("instances.limit=1", f"bank.dir={tmp_path / 'other'}")["experts"] == 1


@pytest.mark.slow
def test_a_bar_counts_the_lessons(build, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(plumbing.progress, "sys", SimpleNamespace(stderr=terminal))
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    build("instances.limit=2")
    assert build()["skipped"] == 2  # counted as done
    bars = [bar for bar in terminal.getvalue().split("\n") if bar]
    assert len(bars) == 2
    assert all(bar.rpartition("\r")[2].startswith("Building experts: 100%") for bar in bars)
    assert " 7/7 " in bars[1]
    assert "loss=" in bars[1]


def test_the_papers_recipe(build, tmp_path):
    metrics = build("recipe=paper", f"bank.dir={tmp_path / 'paper'}")
    assert 0 < metrics["expert_norm"] < 0.1  # one epoch at 1e-5
    recipe = Bank.open(tmp_path / "paper").spec.recipe
    assert recipe["loss"] == "all"
    assert recipe["formats"] == ["qa_with_passage", "qa_with_rewrite", "qa"]


def test_augmentations_of_a_corpus(build, tmp_path):
    passages = [{"id": f"x{i}", "title": "T", "text": f"Text number {i}."} for i in range(3)]
    lines = [
        {"passage_id": "x1", "rewrite": "R.", "qa": [{"question": "Which?", "answer": "1"}]},
        {"passage_id": "x2", "rewrite": "R.", "qa": []},
    ]
    for name, rows in (("passages", passages), ("augmentation", lines)):
        (tmp_path / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    metrics = build(
        f"instances.augmentation={tmp_path / 'augmentation.jsonl'}",
        f"corpus.path={tmp_path / 'passages.jsonl'}",
        f"paths.cache_dir={tmp_path}",
    )
    assert (metrics["experts"], metrics["without"]) == (1, 1)
    assert list(Bank.open(tmp_path / "bank")) == ["x1"]
    assert left_out(tmp_path) == (["x2"], [])


def left_out(tmp_path):
    names = ("without_instances", "diverged")
    lines = (read_jsonl(tmp_path / "run" / f"{name}.jsonl") for name in names)
    return tuple([row["id"] for _, row in each] for each in lines)


def test_faults_are_found_before_the_model_is_loaded(build, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "dmoe.commands.build_experts.training_backbone", lambda config: pytest.fail("loaded")
    )
    good = {"passage_id": "x", "qa": [{"question": "Which?", "answer": "1"}]}
    write_jsonl(tmp_path / "passages.jsonl", [{"id": "x", "title": "", "text": "Text."}])
    write_jsonl(tmp_path / "augmentation.jsonl", [good, {"passage_id": "y", "qa": 1}])
    (tmp_path / "file").write_text("")
    corpus = f"corpus.path={tmp_path / 'passages.jsonl'}"
    augmented = [corpus, f"paths.cache_dir={tmp_path}"]
    for overrides, message in (
        (["bank.dtype=fp32"], "dtype must be one of float32, .*, got 'fp32'; set bank.dtype"),
        (["bank.dtype=[]"], "set bank.dtype"),
        ([f"bank.dir={tmp_path}/file"], r"dir must be a folder, got .* is a file\); set bank\.dir"),
        ([f"bank.dir={tmp_path}/file/bank"], r"/file is a file\); set bank\.dir"),
        ([*augmented, "instances.augmentation=/nope"], "/nope: expected a JSON-lines file"),
        (
            [*augmented, f"instances.augmentation={tmp_path / 'augmentation.jsonl'}"],
            r"augmentation\.jsonl:2: 'qa' must be a list",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            build(*overrides)
    assert not (tmp_path / "bank").exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["engine=slurm"], "engine must be one of lightning, ray, got 'slurm'; set engine"),
        (["instances.limit=0"], "limit must be a positive .*, got 0; set instances.limit"),
        (["instances.limit=true"], "limit must be .*, got True; set instances.limit"),
        (["instances.formats=[cot]"], "formats must be some of"),
        (["instances.formats=null"], "formats must be some of .*, as a list, got None; set inst"),
        (["instances.formats=qa"], "formats must be some of .*, got 'qa'; set instances.formats="),
        (["instances.formats=[[qa]]"], "formats must be some of"),
        (["bank.dir=null"], "dir must be the path of a folder, got None; set bank.dir"),
        (["bank.dir=''"], "dir must be the path of a folder, got ''; set bank.dir"),
        *(
            (["trainer.devices=" + n], "devices must be .*; set trainer.devices")
            for n in ("0", "none", "-2", "[]")
        ),
        *(
            (["trainer.devices=" + n], "devices must be .*; set trainer.devices")
            for n in ("null", "1.5", "true")
        ),
        (
            ["trainer.precision=bf16-true"],
            "must be 32-true, got 'bf16-true'.*leave trainer.precision",
        ),
        (["trainer.max_epochs=2"], "max_epochs must be 1, got 2: .*; set trainer.max_epochs=1"),
        (["trainer.max_epochs=0"], "max_epochs must be 1, got 0"),
        (["+trainer.max_steps=1"], "max_steps must not be set, got 1: .*; leave trainer.max_steps"),
        (["+trainer.limit_train_batches=0.5"], "limit_train_batches must not be set"),
        (["+trainer.limit_train_batches=1"], "limit_train_batches must not be set, got 1:"),
        (["+trainer.fast_dev_run=true"], "fast_dev_run must not be set, got True"),
        (["trainer.gradient_clip_val=1.0"], "gradient_clip_val must not be set"),
        (["instances.part=half"], "part must be one of"),
        (["recipe.epochs=0"], "epochs must be positive"),
        (["expert.rank=0"], "rank must be positive"),
        (["trainer.strategy=fsdp"], "must be auto or ddp, got 'fsdp'.*; set trainer.strategy"),
        (["bank.dir=???"], "expected a value for bank.dir"),
    ],
)
def test_settings_are_checked(build, overrides, message):
    with pytest.raises(ValueError, match=message):
        build(*overrides)


def test_settings_of_the_trainer_that_change_no_expert():
    fine = {"max_epochs": 1, "precision": "32-true", "max_steps": -1, "limit_train_batches": 1.0}
    for devices in (1, 8, -1, "auto", "2", "0,1", "1,", [0], [0, 3]):
        check_trainer({**fine, "devices": devices})


def test_if_every_expert_diverged_the_build_fails(build, tmp_path):
    with pytest.raises(ValueError, match=r"all 2 experts diverged, .* lower recipe\.lr"):
        build("recipe.lr=1e30", "instances.limit=2", command=build_command)
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert (metrics["experts"], metrics["failed"]) == (0, 2)
    without, diverged = left_out(tmp_path)
    assert (without, len(diverged)) == ([], 2)
    # `build_experts` itself raises no error, so that an ablation can go on.
    assert build("recipe.lr=1e30", "instances.limit=2")["failed"] == 2


@pytest.mark.parametrize(
    "other",
    [
        *("recipe.lr=3e-3", "expert.rank=2", "bank.dtype=float16"),
        "instances.part=odd",
    ],
)
def test_another_recipe_needs_another_bank(build, other):
    build("instances.limit=1")
    with pytest.raises(BankError, match="the bank does not fit"):
        build("instances.limit=1", other)


def test_another_seed_trains_other_experts(build, tmp_path):
    """A sweep, ``--multirun seed=0,1``, is no repetition of one run."""
    few = ("instances.limit=2", "recipe.epochs=1")
    experts = []
    for seed in (0, 1):
        build(f"seed={seed}", f"bank.dir={tmp_path / str(seed)}", *few)
        bank = Bank.open(tmp_path / str(seed))
        assert bank.spec.recipe["seed"] == seed
        experts.append(bank.get(sorted(bank)))
    assert not any(torch.equal(experts[1][name], tensor) for name, tensor in experts[0].items())
    build("recipe.seed=0", f"bank.dir={tmp_path / 'plain'}", *few)
    bank = Bank.open(tmp_path / "plain")
    plain = bank.get(sorted(bank))
    assert all(torch.equal(plain[name], tensor) for name, tensor in experts[0].items())
    with pytest.raises(BankError, match=r"the bank does not fit: recipe\.seed: 1 here, 0 in"):
        build("seed=1", f"bank.dir={tmp_path / 'plain'}", *few)


def test_another_seed_trains_another_warm_up(arguments, tmp_path):
    losses: list[float] = []
    for seed in (0, 0, 1):
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            given = [*[a for a in arguments if not a.startswith("bank")], "instances.limit=3"]
            output = tmp_path / f"run{len(losses)}"
            config = compose("train_warmup", [*given, f"paths.output_dir={output}", f"seed={seed}"])
        losses.append(warmup(config)["train/first_loss"])
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.slow
def test_a_warm_backbone_is_another_backbone(build, arguments, tmp_path):
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose(
            "train_warmup",
            [
                *[a for a in arguments if not a.startswith("bank")],
                f"paths.output_dir={tmp_path / 'warm'}",
                "recipe.lr=1e-2",
                "instances.limit=40",
            ],
        )
    metrics = warmup(config)
    assert metrics == json.loads((tmp_path / "warm" / "metrics.json").read_text())
    assert metrics["expert_norm"] > 0.1
    warm = ["backbone=smollm2_135m_warm", f"backbone.adapter={tmp_path / 'warm' / 'adapter'}"]
    build()
    with pytest.raises(BankError, match="what differs: what was merged into the weights"):
        build(*warm)
    plain = build(f"bank.dir={tmp_path / 'plain'}", "recipe.epochs=1", "recipe.lr=0")
    after = build(*warm, f"bank.dir={tmp_path / 'other'}", "recipe.epochs=1", "recipe.lr=0")
    assert after["train/first_loss"] < plain["train/first_loss"] - 0.1


def test_warming_up_on_what_is_evaluated_is_an_error(arguments, tmp_path):
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        given = [*[a for a in arguments if not a.startswith("bank")], "instances.held_out=train"]
        config = compose("train_warmup", [*given, f"paths.output_dir={tmp_path / 'warm'}"])
    with pytest.raises(ValueError, match="must not overlap"):
        warmup(config)


@pytest.mark.parametrize("limit", ["0", "abc", "1.5", "true"])
def test_the_limit_of_a_warm_up_is_checked(limit, arguments, tmp_path):
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        given = [*[a for a in arguments if not a.startswith("bank")], f"instances.limit={limit}"]
        config = compose("train_warmup", [*given, f"paths.output_dir={tmp_path / 'warm'}"])
    with pytest.raises(ValueError, match=r"limit must be .* whole .*; set instances\.limit"):
        warmup(config)


def test_strategies():
    assert training_strategy("auto", 1) == "auto"
    assert isinstance(training_strategy("auto", 8), IndependentRanks)
    assert isinstance(training_strategy("ddp", "auto"), IndependentRanks)


def same_experts(one, other):
    one, other = Bank.open(one), Bank.open(other)
    assert sorted(one) == sorted(other)
    ids = sorted(one)
    for name, tensor in one.get(ids).items():
        assert (other.get(ids)[name] - tensor).norm() < 1e-4 * tensor.norm()


@pytest.mark.slow
def test_two_processes_build_the_same_experts(build, arguments, tmp_path):
    build()
    others = [a for a in arguments if not a.startswith("bank")]
    for limit in (7, 1):  # with one passage, one process has nothing to do
        bank = tmp_path / f"ddp{limit}"
        command = [sys.executable, str(ROOT / "scripts" / "build_experts.py"), *others]
        command += ["trainer=ddp_sim", f"instances.limit={limit}", f"bank.dir={bank}"]
        subprocess.run(
            [*command, f"hydra.run.dir={tmp_path / 'run'}"], check=True, capture_output=True
        )
        metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
        assert metrics["experts"] == limit
    same_experts(tmp_path / "bank", tmp_path / "ddp7")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore:.*ray:FutureWarning")
def test_ray_builds_the_same_experts(build, tmp_path):
    pytest.importorskip("ray")
    build()
    assert build("engine=ray", "ray.workers=2", f"bank.dir={tmp_path / 'ray'}")["experts"] == 7
    same_experts(tmp_path / "bank", tmp_path / "ray")


@pytest.mark.slow
def test_many_shards_are_packed_at_the_end(build, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("qa.bank.upkeep._MANY", 3)
    build("limits.group_size=1", "instances.limit=3")
    assert len(Bank.open(tmp_path / "bank").view.shards) == 3
    build("limits.group_size=1", "instances.limit=4")
    bank = Bank.open(tmp_path / "bank")
    assert (len(bank), len(bank.view.shards)) == (4, 1)
    packed = bank.fingerprint
    monkeypatch.setattr("qa.bank.upkeep._MANY", 0)
    build("limits.group_size=1", "instances.limit=4")  # there is nothing to add
    assert Bank.open(tmp_path / "bank").fingerprint == packed
    bank.view.shards[0].paths[0].write_bytes(b"")  # a damaged shard cannot be packed
    assert build("limits.group_size=1", "instances.limit=5")["experts"] == 1
    assert "the bank is left unpacked: " in caplog.text


def test_rays_settings_are_checked(build):
    with pytest.raises(ValueError, match=r"workers must be a whole .*'two'; set ray\.workers"):
        build("engine=ray", "ray.workers=two")
    with pytest.raises(ValueError, match=r"workers must be positive, got 0; set ray\.workers"):
        build("engine=ray", "ray.workers=0")


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["corpus.path=/nowhere.jsonl"], "set corpus.path"),
        (["data.train_questions=0"], "set data.train_questions"),
    ],
)
def test_a_wrong_source_of_passages_is_named_by_its_key_once(
    build, tmp_path, overrides, key, capsys
):
    write_jsonl(tmp_path / "a.jsonl", [])
    augmented = f"instances.augmentation={tmp_path / 'a.jsonl'}"
    with pytest.raises(SystemExit):
        build(augmented, *overrides, command=lambda config: run_command(build_experts, config))
    assert f"; {key}" in capsys.readouterr().err
