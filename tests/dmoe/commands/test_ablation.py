"""Ablations: composing of cells, sharing of banks, resuming, and the files that are written."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

import dmoe.commands.ablation
from dmoe.ablation.report import Row, differences
from dmoe.bank import Bank
from dmoe.commands.ablation import RESULTS, Cell, Workshop, _set_rate, ablate, read_cells
from dmoe.commands.build_experts import build_experts
from dmoe.decoding.controls import SomeExperts
from plumbing.storage.jsonl import DataError, read_jsonl, write_jsonl
from qa.commands.evaluate import evaluate_run
from tests.helpers.dmoe_doubles import MemoryExperts
from tests.helpers.fakes import WordRetriever

CONF = Path(__file__).parents[3] / "conf"
ABLATIONS = sorted(path.stem for path in (CONF / "ablation").glob("*.yaml"))

# Two axes of two: there are two banks, and each is evaluated twice.
AXES = {
    "epochs": {1: ["recipe.epochs=1"], 3: ["recipe.epochs=3"]},
    "k": {1: ["k=1"], 2: ["k=2"]},
}
ONE = {"k": {1: ["k=1"]}}


@dataclass
class Run:
    """Runs ablations in one folder; ``made`` lists what the last run built and evaluated."""

    ablate: Callable[..., dict[str, float]]
    made: list[str]
    folder: Path

    def __call__(self, *overrides: str, **given: Any) -> dict[str, float]:
        return self.ablate(*overrides, **given)


@pytest.fixture(autouse=True)
def hydra():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


@pytest.fixture
def run(model, tmp_path, no_sync, monkeypatch):
    """A `Run` with a tiny model, in a temporary folder."""
    made = []

    def spy(name):
        wrapped = getattr(dmoe.commands.ablation, name)

        def call(*args):
            made.append(name)
            return wrapped(*args)

        monkeypatch.setattr(dmoe.commands.ablation, name, call)

    for name in ("augment", "build_experts", "evaluate_run"):
        spy(name)

    def ablation(*overrides, axes=AXES, name="controls"):
        made.clear()
        given = [
            *(f"ablation={name}", "augmenter=questions"),
            *(f"backbone.name={model}", "backbone.dtype=float32"),
            *("data.train_entities=1", "data.dev_entities=3", "data.distractor_entities=0"),
            *("data.test_entities=0", "data.unseen_entities=0"),
            *("trainer=cpu", f"trainer.default_root_dir={tmp_path}"),
            *("router=random", "max_new_tokens=3", "limit=4"),
            *(f"paths.output_dir={tmp_path / 'run'}", f"paths.cache_dir={tmp_path / 'cache'}"),
            *overrides,
        ]
        if "augmenter=file" not in overrides:
            given.insert(2, "augmenter.split=dev")
        if name != "placement":
            given.insert(2, "trigger=always")
        config = compose("ablation", given)
        if axes is not None:
            config.ablation.axes = axes
        return ablate(config, given)

    return Run(ablation, made, tmp_path / "run")


def counts(run):
    return [run.made.count(name) for name in ("augment", "build_experts", "evaluate_run")]


PAPERS: dict[
    str, tuple[dict[str, str], dict[str, Any]]
] = {  # the labels of a cell with the paper's settings, and these settings
    "bank_fraction": ({"bank": "100"}, {"method.fraction": 1}),
    "k": ({"k": "3"}, {"method.experts": 3}),
    "placement": ({"placement": "0", "cache": "stale"}, {"method.placement": 0}),
    "rank_alpha": ({"rank": "4", "alpha": "16"}, {"expert.rank": 4, "expert.alpha": 16}),
    "recipe": ({"lr": "1e-05", "epochs": "1"}, {"recipe.lr": 1e-5, "recipe.epochs": 1}),
    "threshold": ({"threshold": "2"}, {"trigger.threshold": 2}),
    "warmup": ({"backbone": "warm"}, {"backbone.adapter": "some folder/adapter"}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ABLATIONS)
def test_every_cell_of_every_ablation_composes(name):
    given = [f"ablation={name}", "augmenter=questions", "paths.output_dir=out"]
    if name == "warmup":
        given.append("ablation.adapter=some folder/adapter")
    cells = list(read_cells(compose("ablation", given), given))
    shared = 3 if name == "trigger_router" else 0  # with trigger=never, four routers share a result
    assert len({cell.key for cell in cells}) + shared == len(cells) > 1
    if name in PAPERS:
        labels, settings = PAPERS[name]
        (config,) = [cell.config for cell in cells if cell.labels == labels]
        assert {key: OmegaConf.select(config, key) for key in settings} == settings


@pytest.mark.slow
def test_the_crossed_cells_have_different_passages_in_prompt_and_bank(run):
    metrics = run("rag=true", "router=oracle", axes=None, name="crossed")
    assert len({value for key, value in metrics.items() if key.endswith("/nll")}) == 8
    assert counts(run) == [1, 1, 8]


@pytest.mark.parametrize("model", ["smollm2_135m", "qwen2_5_1_5b"])
def test_the_warm_up_keeps_the_model(model):
    given = [f"backbone={model}", "ablation=warmup", "ablation.adapter=x", "augmenter=file"]
    plain, warm = (cell.config.backbone for cell in read_cells(compose("ablation", given), given))
    assert plain == compose("ablation", given).backbone
    assert plain._target_ == "backbone.load_backbone"
    ours = {"_target_": "dmoe.training.warmup.warm_backbone", "adapter": "x"}
    assert warm == {**plain, **ours}
    named = ["backbone=smollm2_135m_warm", "backbone.adapter=x", *given[1:]]
    if model == "smollm2_135m":
        assert compose("ablation", named).backbone == warm


@pytest.mark.slow
def test_two_by_two(run):
    metrics = run()
    assert counts(run) == [1, 2, 4]
    assert metrics == json.loads((run.folder / "metrics.json").read_text())
    rows = [row for _, row in read_jsonl(run.folder / RESULTS)]
    assert len(rows) == 4
    assert {"em", "f1_low", "nll_high", "trigger_rate", "routed_gold", "expert_norm"} <= (
        rows[0]["metrics"].keys()
    )
    assert metrics["1/1/n"] == 4
    assert metrics["1/1/expert_norm"] == metrics["1/2/expert_norm"] < metrics["3/1/expert_norm"]
    assert "1/1/nll_difference" not in metrics
    assert metrics["3/2/nll_difference"] == pytest.approx(metrics["3/2/nll"] - metrics["1/1/nll"])
    with (run.folder / "results.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [(line["epochs"], line["k"]) for line in lines] == [
        *(("1", "1"), ("1", "2"), ("3", "1"), ("3", "2")),
    ]
    assert float(lines[3]["nll"]) == metrics["3/2/nll"]
    shown = (run.folder / "table.md").read_text().splitlines()
    assert len(shown) == 6
    assert shown[0].startswith("| epochs | k | EM | F1 | nll |")
    assert (run.folder / "figure.png").read_bytes().startswith(b"\x89PNG")
    banks = [Bank.open(folder / "bank") for folder in (run.folder / "banks").iterdir()]
    assert sorted(bank.spec.recipe["epochs"] for bank in banks) == [1, 3]
    assert all(len(bank) == 3 for bank in banks)


@pytest.mark.parametrize(
    ("other", "problem"),
    [
        ("limit=2", "split=dev, limit=4, sample_seed=0, got split=dev, limit=2, sample_seed=0;"),
        (
            "split=train",
            "split=dev, limit=4, sample_seed=0, got split=train, limit=4, sample_seed=0",
        ),
        ("seed=1", "got split=dev, limit=4, sample_seed=1; run one ablation each"),
        ("limit=null", "got split=dev, limit=None; run"),
    ],
)
def test_cells_over_other_samples_are_refused(run, other, problem):
    axes = {"sample": {"first": [], "second": [other]}}
    with pytest.raises(ValueError, match=rf"cell {{'sample': 'second'}}: all cells.*{problem}"):
        run(axes=axes)
    assert counts(run) == [0, 0, 0]


@pytest.mark.slow
def test_a_sweep_over_seeds_trains_other_experts_for_the_same_questions(run):
    axes = {"seed": {0: [], 1: ["seed=1"]}}
    metrics = run("sample_seed=0", axes=axes)
    assert counts(run) == [1, 2, 2]
    assert metrics["0/expert_norm"] != metrics["1/expert_norm"]
    assert metrics["1/nll_difference"] == pytest.approx(metrics["1/nll"] - metrics["0/nll"])
    banks = [Bank.open(folder / "bank") for folder in (run.folder / "banks").iterdir()]
    assert sorted(bank.spec.recipe["seed"] for bank in banks) == [0, 1]


def cell(path, ids, nll=1.0):
    rows = [{"id": id, "answers": ["x"], "em": 0.0, "f1": 0.0, "nll": nll} for id in ids]
    write_jsonl(path, rows)
    return Row({"cell": path.stem}, {}, path)


def test_cells_are_paired_by_id(tmp_path):
    first, second = (
        cell(tmp_path / f"{name}.jsonl", ids) for name, ids in (("one", "abc"), ("two", "cab"))
    )
    rows = [{"id": id, "answers": ["x"], "em": 0.0, "f1": 0.0, "nll": ord(id)} for id in "cab"]
    write_jsonl(second.predictions, rows)
    write_jsonl(first.predictions, sorted(rows, key=lambda row: row["id"]))
    found = differences(second, first)
    assert [found[f"nll_difference{end}"] for end in ("", "_low", "_high")] == [0, 0, 0]
    assert found["f1_difference_low"] < 0 < found["f1_difference_high"]


@pytest.mark.parametrize("ids", ["abd", "ab", "abcd"])
def test_cells_with_other_questions_are_not_compared(tmp_path, ids):
    first, second = cell(tmp_path / "one.jsonl", "abc"), cell(tmp_path / "two.jsonl", ids)
    with pytest.raises(DataError, match="are missing, such as"):
        differences(second, first)


@pytest.mark.slow
def test_an_interrupted_one_goes_on(run, monkeypatch):
    def fail_at_the_third(*args):
        if run.made.count("evaluate_run") == 2:
            raise KeyboardInterrupt
        return evaluate(*args)

    evaluate = vars(dmoe.commands.ablation)["evaluate_run"]
    with monkeypatch.context() as patch:
        patch.setattr(dmoe.commands.ablation, "evaluate_run", fail_at_the_third)
        with pytest.raises(KeyboardInterrupt):
            run()
    assert counts(run) == [1, 2, 2]
    before = (run.folder / RESULTS).read_text()
    elsewhere = [f"paths.output_dir={run.folder / 'other'}", f"resume={run.folder}"]
    assert run(*elsewhere).keys() >= {"1/1/nll", "3/2/nll"}
    assert counts(run) == [0, 0, 2]
    assert (run.folder / RESULTS).read_text().startswith(before)
    assert not (run.folder / "other").exists()
    run("limit=3", axes={"epochs": AXES["epochs"]})  # evaluates fewer questions with the same banks
    assert counts(run) == [0, 0, 2]


def test_a_bank_and_an_index_that_are_named_are_used(run, tmp_path, monkeypatch):
    first = run(axes=ONE)
    (bank,) = (run.folder / "banks").glob("*/bank")
    monkeypatch.setattr(
        "retrieval.bm25.index.BM25Settings.open", lambda self, corpus: WordRetriever(corpus)
    )
    corpus = tmp_path / "surrogates.jsonl"
    texts = {"x": "Someone was born in Lisbon.", next(iter(Bank.open(bank))): "zzz"}
    write_jsonl(corpus, [{"id": id, "title": "", "text": text} for id, text in texts.items()])
    named = ["router.retriever.index_dir=index", f"router.corpus.path={corpus}"]
    metrics = run(f"bank.dir={bank}", "router=bm25", *named, axes=ONE)
    assert metrics["1/expert_norm"] == first["1/expert_norm"]
    assert metrics["1/routed_gold"] == 0
    assert len(Bank.open(bank)) == 3
    with pytest.raises(ValueError, match=r"the bank does not fit: recipe\.lr: "):
        run(f"bank.dir={bank}", axes={"lr": {1: ["recipe.lr=1"]}})


@pytest.mark.slow
def test_a_bank_of_questions_is_used_where_it_has_every_expert(run, model, tmp_path):
    bank = tmp_path / "bank"
    small = ["data.train_entities=1", "data.dev_entities=3", "data.distractor_entities=0"]
    for limit in (2, 3):
        given = [f"backbone.name={model}", "backbone.dtype=float32", *small]
        given += [f"bank.dir={bank}", "instances.split=dev", f"instances.limit={limit}"]
        given += ["trainer=cpu", f"trainer.default_root_dir={tmp_path}"]
        build_experts(compose("build_experts", [*given, f"paths.output_dir={tmp_path / 'built'}"]))
        if limit == 2:
            differs = r"does not fit: recipe\.source: 'augmentation' here, 'questions \(all\)' in"
            with pytest.raises(ValueError, match=differs):
                run(f"bank.dir={bank}", axes=ONE)
    before = Bank.open(bank).fingerprint
    assert run(f"bank.dir={bank}", axes=ONE).keys() >= {"1/expert_norm"}
    assert counts(run) == [0, 0, 1]
    assert Bank.open(bank).fingerprint == before
    with pytest.raises(ValueError, match=r"the bank does not fit: recipe\.lr: 1 here, "):
        run(f"bank.dir={bank}", axes={"lr": {1: ["recipe.lr=1"]}})


@pytest.mark.slow
def test_an_index_of_the_surrogates_is_built_once(run, monkeypatch):
    built = []

    def build(self, corpus):
        Path(self.index_dir).mkdir(parents=True)
        built.append(sorted(corpus))

    monkeypatch.setattr("retrieval.bm25.index.BM25Settings.build", build)
    monkeypatch.setattr(
        "retrieval.bm25.index.BM25Settings.open", lambda self, corpus: WordRetriever(corpus)
    )
    metrics = run("router=bm25", axes={"k": AXES["k"]})
    assert len(built) == 1
    assert len(built[0]) == 4  # all passages of the data
    assert metrics["2/routed_gold"] > 0


@pytest.mark.slow
def test_random_triggers_fire_at_the_rate_of_uncertainty(run, monkeypatch):
    axes = {
        "trigger": {
            "uncertainty": ["trigger=uncertainty"],
            "random": ["trigger=random"],
        },
        "router": {"random": ["router=random"], "oracle": ["router=oracle"]},
    }
    rates: dict[Any, Any] = {}

    def note(config, *others):
        rates[config.trigger.get("rate"), config.router._target_] = None
        metrics = evaluate_run(config, *others)
        return metrics | {"trigger_rate": 40.0 if "Oracle" in config.router._target_ else 20.0}

    monkeypatch.setattr(dmoe.commands.ablation, "evaluate_run", note)
    run(axes=axes)
    assert list(rates)[2:] == [
        (0.2, "dmoe.decoding.RandomRouter"),
        (0.4, "dmoe.decoding.OracleRouter"),
    ]


@pytest.mark.slow
def test_what_never_triggers_is_evaluated_once(run):
    metrics = run(
        axes={
            "trigger": {"always": [], "never": ["trigger=never"]},
            "router": {"random": [], "oracle": ["router=oracle"]},
        }
    )
    assert counts(run) == [1, 1, 3]
    assert metrics["never/random/nll"] == metrics["never/oracle/nll"]
    assert metrics["always/random/nll"] != metrics["always/oracle/nll"]
    assert len((run.folder / "table.md").read_text().splitlines()) == 6


@pytest.mark.slow
def test_experts_in_more_layers(run):
    axes = {
        "placement": {0: ["method.placement=0"], 100: ["method.placement=1"]},
        "cache": {"stale": ["method=swapped", "trigger=first"], "fresh": ["method=placed"]},
    }
    metrics = run("router=oracle", name="placement", axes=axes)
    assert counts(run) == [1, 0, 4]
    assert metrics["0/stale/nll"] == pytest.approx(metrics["0/fresh/nll"], rel=1e-4)
    assert len({metrics[f"{name}/nll"] for name in ("0/fresh", "100/fresh", "100/stale")}) == 3
    for cell in ("0/stale", "100/stale", "0/fresh", "100/fresh"):
        assert metrics[f"{cell}/routed_gold"] == 100
        assert metrics[f"{cell}/seconds_per_question"] > 0
    assert metrics["0/stale/adapters_trained"] == metrics["100/stale/adapters_trained"] > 0
    assert metrics["100/fresh/adapters_trained"] == 0  # they are those of the cell before
    header = (run.folder / "table.md").read_text().splitlines()[0]
    assert "EM | F1 | nll" in header
    assert header.endswith("s/question |")


@pytest.mark.slow
def test_an_edited_file_makes_another_bank(run, tmp_path):
    """The file keeps its name, and is edited after the ablation has ended."""
    first = run(axes=ONE)
    lines = next(run.folder.glob("augmentations/*/augmentations.jsonl")).read_text()
    file = tmp_path / "given.jsonl"
    file.write_text(lines)
    given = ["augmenter=file", f"augmenter.path={file}"]
    again = run(*given, axes=ONE)
    assert counts(run) == [1, 1, 1]
    assert again["1/nll"] == first["1/nll"]
    run(*given, axes=ONE)
    assert counts(run) == [0, 0, 0]
    file.write_text(lines.replace("?", "!"))
    edited = run(*given, axes=ONE)
    assert counts(run) == [1, 1, 1]
    assert edited["1/expert_norm"] != again["1/expert_norm"]


def test_a_rate_that_is_given_stays():
    cell = Cell({"trigger": "random"}, OmegaConf.create({"trigger": {"rate": 0.5}}))
    _set_rate(cell, [Row({"trigger": "uncertainty"}, {"trigger_rate": 10.0}, Path())])
    assert cell.config.trigger.rate == 0.5


@pytest.mark.slow
def test_the_controls(run):
    metrics = run(axes=None)
    assert counts(run) == [1, 1, 4]  # two cells are equal, because both routers are random
    assert metrics["none/trigger_rate"] == 0
    assert metrics["routed/trigger_rate"] == metrics["noise/trigger_rate"] == 100
    assert metrics["noise/nll"] != metrics["routed/nll"]
    assert metrics["random/nll"] == metrics["routed/nll"]


@pytest.mark.slow
def test_a_part_of_the_bank(run):
    metrics = run("router=oracle", name="bank_fraction", axes=None)
    assert counts(run) == [1, 1, 5]
    routed = [metrics[f"{part}/routed_gold"] for part in (0, 25, 50, 75, 100)]
    assert routed == sorted(routed)
    assert (routed[0], routed[-1]) == (0, 100)


def test_parts_of_a_bank_lie_in_one_another(tiny_backbone):
    source = MemoryExperts(tiny_backbone)
    parts = [SomeExperts(source, fraction) for fraction in (0, 0.25, 0.5, 1)]
    assert [len(list(part)) for part in parts] == [0, 3, 6, 12]
    for smaller, larger in pairwise(parts):
        assert set(smaller) < set(larger)
        assert all(id in larger for id in smaller)
    assert "p0" not in parts[0]
    assert list(parts[2]) != list(SomeExperts(source, 0.5, seed=1))
    assert parts[1].scaling == source.scaling
    ids = list(parts[1])
    assert torch.equal(parts[1].get(ids)["up.lora_A"], source.get(ids)["up.lora_A"])
    with pytest.raises(ValueError, match=r"fraction must be in 0\.\.1, got 25; set fraction"):
        SomeExperts(source, 25)


@pytest.mark.parametrize(
    ("overrides", "axes", "message"),
    [
        ([], {"k": {1: ["kk=1"]}}, r"cell \{'k': '1'\}: Could not override 'kk'"),
        ([], {"k": {1: ["recipe=none"]}}, r"cell .*Could not find 'recipe/none'"),
        ([], {"rank": {0: ["expert.rank=0"]}}, "cell .*rank must be positive"),
        ([], {"data": {0: ["data.seed=1"]}}, "all cells must share data, corpus, augmenter"),
        ([], {"trigger": {0: ["trigger=random"]}}, r"a value for trigger\.rate"),
        (["trainer.devices=2"], ONE, "one device, got trainer.devices=2"),
        (["resume=nowhere"], ONE, "resume must be the run folder of an ablation, got nowhere"),
        (["split=train"], ONE, "augmentations of the 1 passages that split=train asks"),
        (["augmenter=file"], ONE, r"a value for augmenter\.path"),
        (["augmenter=file", "augmenter.path=x"], ONE, "x: expected a JSON-lines file"),
    ],
)
def test_errors(run, overrides, axes, message):
    with pytest.raises(ValueError, match=message):
        run(*overrides, axes=axes)
    assert "evaluate_run" not in run.made or "rate" in message


def test_the_warm_up_needs_its_adapter(run):
    with pytest.raises(ValueError, match=r"ablation\.adapter"):
        run(axes=None, name="warmup")


def test_the_warm_backbone_is_not_taken_for_the_plain_one(monkeypatch):
    given = ["ablation=warmup", "ablation.adapter=x", "augmenter=file"]
    plain, warm = (cell.config for cell in read_cells(compose("ablation", given), given))
    monkeypatch.setattr(dmoe.commands.ablation, "instantiate", lambda config: object())
    workshop = object.__new__(Workshop)
    workshop._backbones = {}
    assert workshop._backbone(plain) is workshop._backbone(plain)
    assert workshop._backbone(plain) is not workshop._backbone(warm)


@pytest.mark.slow
def test_the_bins_of_an_ablation_are_those_of_its_first_cell(run):
    axes = {"experts": {"none": ["trigger=never"], "routed": []}}
    metrics = run("+ablation.bins=2", axes=axes)
    for label in ("none", "routed"):
        scores = [metrics[f"{label}/bins/{number}/nll"] for number in (1, 2)]
        assert sum(scores) / 2 == pytest.approx(metrics[f"{label}/nll"])
        assert metrics[f"{label}/bins/1/n"] == 2
    ends = [
        metrics[f"routed/bins/{n}/uncertainty_{end}"] for n in (1, 2) for end in ("low", "high")
    ]
    assert (
        ends
        == sorted(ends)
        == [metrics[f"none/bins/{n}/uncertainty_{end}"] for n in (1, 2) for end in ("low", "high")]
    )
    assert metrics["none/bins/1/trigger_rate"] == 0 < metrics["routed/bins/1/trigger_rate"]
    assert "| 2 | routed |" in (run.folder / "bins.md").read_text()
    assert (run.folder / "bins.png").exists()
    with pytest.raises(ValueError, match="5 groups need 5 questions at least, got limit=4; set"):
        run("+ablation.bins=5", axes=axes)
