"""What earlier code saved opens and gives the same results: see ``tests/fixtures/make.py``.

Each test works on a copy, so that nothing is written into the fixtures. Wherever code makes an
artefact anew when it finds none, the test forbids the making, so that a file which is passed over
fails the test and is not replaced in silence. Paths inside the artefacts are relative, and every
test runs in the folder of the copies; paths of the machine that made them lead nowhere.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from backbone.loading import load_backbone
from backbone.model import Backbone
from backbone.split import SplitBackbone
from dmoe.augmentation.sources import surrogates
from dmoe.bank import Bank, BankError
from dmoe.baselines.prag.method import load_prag
from dmoe.baselines.sft_lora.method import SFTLoRAMethod
from dmoe.baselines.sft_lora.module import SFTModule
from dmoe.commands.build_experts import build_experts
from dmoe.commands.train_sft_lora import train_sft_lora
from dmoe.decoding.router import OracleRouter
from dmoe.decoding.trigger import ConstantTrigger
from dmoe.method import load_dmoe
from dmoe.training.lessons import lessons_from_augmentation
from dmoe.training.warmup import warm_backbone
from genpoe.commands.train_hypernet import train
from genpoe.method import GenPoEMethod
from genpoe.model import GenPoE
from genpoe.training.curves import read_curves
from genpoe.training.datamodule import QADataModule
from genpoe.training.frozen_states import frozen_states
from genpoe.training.module import GenPoEModule
from plumbing.storage.jsonl import read_jsonl
from qa.bank.upkeep import verify
from qa.commands.report import report_command
from qa.commands.train_reranker import answers_query, labelled_queries
from qa.data.dataset import QADataset, load_folder
from qa.evaluation.run_folder import read_run
from qa.method import AnsweringMethod, BaseMethod, QuestionInput
from qa.passages.retrieved import RetrievedPassages
from qa.passages.source import Selection
from retrieval.bm25.index import BM25, BM25Settings
from retrieval.corpus.corpus import Corpus
from retrieval.corpus.formats import read_passages
from retrieval.dense.index import DenseSettings
from retrieval.encoders.settings import encoder_settings
from retrieval.pipeline import Pipeline, PipelineSettings
from retrieval.rerank.rerankers import TrainedReranker
from retrieval.rerank.training.lists import mine_cached

ROOT = Path(__file__).parents[1]
FIXTURES = ROOT / "tests" / "fixtures"
OLD = FIXTURES / "old"
EXPECTED: dict[str, Any] = json.loads((FIXTURES / "expected.json").read_text(encoding="utf-8"))

# Processors differ in the last digits of what they compute.
CLOSE: Any = {"rel": 1e-3, "abs": 1e-4}

# The settings of the runs, on the command line: what this version of the code calls them.
BACKBONE = ["backbone.name=backbone", "backbone.dtype=float32"]
DATA = ["data=local", "data.dir=people", "paths.cache_dir=cache"]
EXPERT = ["expert.rank=2", "expert.alpha=4", "recipe.lr=0.01", "recipe.epochs=2"]
TRAINER = ["trainer=cpu", "~callbacks.progress_bar", "+trainer.enable_progress_bar=false"]
GENPOE = [
    *("hypernet.rank=2", "hypernet.layer=1", "hypernet.hidden_width=8", "cache_frozen=true"),
    *("batching.passages_per_batch=4", "batching.questions_per_passage=2", "optim.lr=0.01"),
    *("callbacks.checkpoint.every_n_train_steps=1", "trainer.max_epochs=2"),
    "trainer.log_every_n_steps=1",
]

pytestmark = [
    # A checkpoint names the folder that it was written to, and the copy lies elsewhere.
    pytest.mark.filterwarnings("ignore:The dirpath has changed:UserWarning"),
]

Copy = Callable[..., Path]


def composed(name: str, *overrides: str) -> DictConfig:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose(name, list(overrides))


def forbid(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
    """Let the test fail where something is computed that the artefact holds."""

    def computed(*_: Any, **__: Any) -> None:
        pytest.fail(f"{owner.__name__}.{name} was called: the artefact was passed over")

    monkeypatch.setattr(owner, name, computed)


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Copy:
    """Copies artefacts into the working folder of the test, and returns the last one's path."""
    monkeypatch.chdir(tmp_path)

    def copy(*names: str) -> Path:
        for name in names:
            target = tmp_path / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if (OLD / name).is_dir():
                shutil.copytree(OLD / name, target)
            else:
                shutil.copy(OLD / name, target)
        return tmp_path / names[-1]

    return copy


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone(str(OLD / "backbone"), dtype="float32")  # too small for a record of it


@pytest.fixture(scope="module")
def people() -> QADataset:
    return load_folder(OLD / "people")


def corpus(old: Copy) -> Corpus:
    return Corpus.open(old("corpus.jsonl"), "new_cache")


def predicted(run: str) -> list[dict[str, Any]]:
    return [row for _, row in read_jsonl(OLD / "runs" / run / "predictions.jsonl")]


def check_answers(method: AnsweringMethod, run: str, people: QADataset, split: str = "dev") -> None:
    """Check that a method answers as it did in a run, question by question."""
    questions = {question.id: question for question in people.split(split)}
    rows = predicted(run)
    assert rows
    inputs = [
        QuestionInput(
            questions[row["id"]],
            Selection.uniform([people.passages[id] for id in row["passage_ids"]]),
        )
        for row in rows
    ]
    answers = method.answer(inputs)
    assert [answer.text for answer in answers] == [row["prediction"] for row in rows]
    nll = [row["nll"] for row in rows]
    assert [answer.nll for answer in answers] == pytest.approx(nll, **CLOSE)


def digest(*tensors: torch.Tensor) -> str:
    return sha256(b"".join(tensor.contiguous().numpy().tobytes() for tensor in tensors)).hexdigest()


def trained_weights(checkpoint: str) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(checkpoint, weights_only=True)["state_dict"]
    return state


def test_artefacts_are_as_they_were_made() -> None:
    whole = sha256()
    for path in sorted(OLD.rglob("*"), key=lambda path: path.relative_to(OLD).as_posix()):
        if path.is_file():
            whole.update(path.relative_to(OLD).as_posix().encode() + b"\0")
            whole.update(sha256(path.read_bytes()).digest())
    assert whole.hexdigest() == EXPECTED["tree"]


def test_backbone(old: Copy, people: QADataset) -> None:
    old("backbone")
    backbone = load_backbone("backbone", dtype="float32")
    assert backbone.weights.legacy == EXPECTED["backbone"]
    assert backbone.identity.difference(EXPECTED["backbone"]) == ""
    check_answers(BaseMethod(backbone, max_new_tokens=6), "base", people)


def test_genpoe_checkpoint(old: Copy, backbone: Backbone, people: QADataset) -> None:
    path = old("genpoe/checkpoints/last.ckpt")
    method = GenPoEMethod(backbone, str(path), max_new_tokens=6)
    check_answers(method, "genpoe", people)
    assert predicted("genpoe") != predicted("base")


def test_genpoe_checkpoint_names_its_backbone(old: Copy, people: QADataset) -> None:
    old("backbone", "genpoe/checkpoints/last.ckpt")
    genpoe = GenPoE.from_checkpoint("genpoe/checkpoints/last.ckpt")
    row = predicted("genpoe")[0]
    (question,) = [each for each in people.split("dev") if each.id == row["id"]]
    with genpoe.injected(people.gold(question)):
        assert genpoe.ask(question.question, max_new_tokens=6) == row["prediction"]


def test_genpoe_training_goes_on(old: Copy, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the checkpoint before the last one, with the states that were computed then."""
    old("backbone", "people", "cache/frozen", "genpoe")
    forbid(monkeypatch, SplitBackbone, "below")
    steps: list[int] = []
    step = GenPoEModule.training_step

    def counted(self: GenPoEModule, *batch: Any) -> torch.Tensor:
        steps.append(self.global_step)
        return step(self, *batch)

    monkeypatch.setattr(GenPoEModule, "training_step", counted)
    last = trained_weights("genpoe/checkpoints/last.ckpt")
    metrics = train(
        composed(
            "train_hypernet",
            *(*BACKBONE, *DATA, *TRAINER, *GENPOE, "logger=none", "paths.output_dir=new"),
            "ckpt_path=genpoe/checkpoints/last.previous.ckpt",
        )
    )
    assert (steps, metrics["steps"]) == ([3], 4)
    assert metrics["val/loss"] == pytest.approx(EXPECTED["genpoe"]["val/loss"], **CLOSE)
    weights = trained_weights("new/checkpoints/last.ckpt")
    assert weights.keys() == last.keys()
    for name, weight in weights.items():
        assert torch.allclose(weight, last[name], rtol=1e-3, atol=1e-4), name


def test_frozen_states(
    old: Copy, backbone: Backbone, people: QADataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = old("cache/frozen")
    data = QADataModule(
        people, backbone.tokenizer, passages_per_batch=4, questions_per_passage=2, val_split="dev"
    )
    data.setup("fit")
    sequences = data.sequences()
    assert len(sequences) == 2
    split = SplitBackbone(backbone, 1)
    below = split.below
    forbid(monkeypatch, SplitBackbone, "below")
    assert sorted(sequences) == sorted(EXPECTED["frozen_states"])
    for name, ids in sequences.items():
        states = frozen_states(split, ids, 1, cache)
        assert digest(states.flat_TD) == EXPECTED["frozen_states"][name]
        computed = below(torch.tensor(ids[:1]), torch.ones(1, len(ids[0]), dtype=torch.long))
        assert torch.allclose(states.rows(torch.tensor([0])), computed, rtol=1e-4, atol=1e-4)


def test_training_log(old: Copy) -> None:
    curves = read_curves(old("genpoe/csv"))
    wanted = EXPECTED["genpoe"]["curves"]
    assert {name: [list(point) for point in curve] for name, curve in curves.items()} == wanted


@pytest.mark.parametrize("name", ["bank", "packed_bank"])
def test_bank(name: str, old: Copy, backbone: Backbone, people: QADataset) -> None:
    wanted = EXPECTED[name]
    bank = Bank.open(old(name), backbone, wanted["recipe"])
    assert (bank.fingerprint, len(bank.view.shards)) == (wanted["fingerprint"], wanted["shards"])
    assert (bank.layout.dtype, bank.spec.alpha) == (wanted["dtype"], 4.0)
    experts = {id: digest(*map(as_bytes, bank.get([id]).values())) for id in bank}
    assert experts == wanted["experts"]
    made_of = {question.passage_ids[0] for question in people.split("train")}
    assert not list(bank.missing(people.passages[id] for id in sorted(made_of)))
    assert verify(bank.path).sound


def as_bytes(tensor: torch.Tensor) -> torch.Tensor:
    """The bytes of a tensor in whatever dtype; NumPy has no bfloat16."""
    return tensor.contiguous().view(torch.uint8)


def test_bank_answers(old: Copy, backbone: Backbone, people: QADataset) -> None:
    method = load_dmoe(
        backbone,
        old("bank"),
        router=OracleRouter,
        trigger=ConstantTrigger(True),
        experts=1,
        max_new_tokens=6,
    )
    check_answers(method, "dmoe", people, "train")


def test_bank_is_not_built_again(
    old: Copy, people: QADataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    old("backbone", "people", "bank")
    before = Bank.open("bank").fingerprint
    config = composed(
        "build_experts",
        *(*BACKBONE, *DATA, *EXPERT, "trainer=cpu", "limits.group_size=4", "bank.dir=bank"),
        "paths.output_dir=new",
    )
    config.trainer.default_root_dir = "new"
    metrics = build_experts(config)
    assert (metrics["experts"], metrics["skipped"]) == (0, 8)
    assert Bank.open("bank").fingerprint == before
    monkeypatch.setattr("qa.prompts.INSTRUCTION", "Answer in Latin.")
    with pytest.raises(BankError, match=r"recipe\.prompt: .*Latin.* here, .*short phrase"):
        build_experts(config)


def check_hits(found: Sequence[Sequence[Any]], wanted: Sequence[Sequence[Any]]) -> None:
    assert [[hit.passage_id for hit in hits] for hits in found] == [
        [id for id, _ in hits] for hits in wanted
    ]
    for hits, scored in zip(found, wanted, strict=True):
        assert [hit.score for hit in hits] == pytest.approx([s for _, s in scored], **CLOSE)


def test_bm25_index(old: Copy) -> None:
    passages = corpus(old)
    index = BM25Settings(old("bm25")).open(passages)
    assert index.fingerprint == EXPECTED["bm25"]["fingerprint"]
    check_hits(index.search(EXPECTED["queries"], 3), EXPECTED["bm25"]["hits"])


def test_dense_index(old: Copy) -> None:
    encoder = encoder_settings(
        passage_model=str(old("encoder")),
        dtype="float32",
        device="cpu",
        max_passage_tokens=64,
        max_question_tokens=64,
    )
    index = DenseSettings(old("dense"), encoder).open(corpus(old))
    assert index.fingerprint == EXPECTED["dense"]["fingerprint"]
    check_hits(index.search(EXPECTED["queries"], 3), EXPECTED["dense"]["hits"])


def test_corpus_store(old: Copy) -> None:
    (store,) = old("cache/corpora").iterdir()
    passages = Corpus(OLD / "corpus.jsonl", store)
    assert list(passages.values()) == read_passages(OLD / "corpus.jsonl")
    assert (passages.sha256, passages.members) == tuple(EXPECTED["corpus"])


def test_reranker(old: Copy, people: QADataset) -> None:
    reranker = TrainedReranker(old("reranker/reranker"), "cpu", "float32")
    assert reranker.fingerprint == EXPECTED["reranker"]["fingerprint"]
    pairs = [(query, people.passages["p8"]) for query in EXPECTED["queries"]]
    assert reranker.score(pairs) == pytest.approx(EXPECTED["reranker"]["scores"], **CLOSE)


def test_mined_lists(old: Copy, people: QADataset, monkeypatch: pytest.MonkeyPatch) -> None:
    passages = corpus(old)
    index = BM25Settings(old("bm25")).open(passages)
    forbid(monkeypatch, BM25, "search")
    held_out = {id for question in people.split("dev") for id in question.passage_ids}
    mined = mine_cached(
        labelled_queries(people.split("train")),
        index,
        passages,
        answers_query,
        20,
        held_out,
        old("cache/reranker_lists"),
    )
    assert len(mined.lists) == 8
    assert mined.lists[0].query == "Where was Tova born?"
    assert list(mined.lists[0].negative_ids) == [f"p{i}" for i in range(1, 8)]


def test_hits_and_scores(old: Copy, people: QADataset, monkeypatch: pytest.MonkeyPatch) -> None:
    passages = corpus(old)
    index = BM25Settings(old("bm25")).open(passages)
    reranker = TrainedReranker(old("reranker/reranker"), "cpu", "float32")
    forbid(monkeypatch, BM25, "search")
    forbid(monkeypatch, TrainedReranker, "score")
    settings = PipelineSettings(n=5, cache_dir=old("cache/retrieval"))
    source = RetrievedPassages(Pipeline(passages, index, reranker, settings), k=2)
    rows = {row["id"]: row for row in predicted("rag")}
    questions = people.split("dev")
    for question, selection in zip(questions, source.select(questions), strict=True):
        row = rows[question.id]
        assert [passage.id for passage in selection.passages] == row["passage_ids"]
        assert selection.weights == pytest.approx(row["weights"])


def test_sft_lora(old: Copy, backbone: Backbone, people: QADataset) -> None:
    method = SFTLoRAMethod(backbone, old("sft_lora/adapter"), max_new_tokens=6)
    check_answers(method, "sft_lora", people)


def test_sft_lora_training_goes_on(old: Copy, monkeypatch: pytest.MonkeyPatch) -> None:
    old("backbone", "people", "sft_lora")
    steps: list[int] = []
    step = SFTModule.training_step

    def counted(self: SFTModule, *batch: Any) -> torch.Tensor:
        steps.append(self.global_step)
        return step(self, *batch)

    monkeypatch.setattr(SFTModule, "training_step", counted)
    metrics = train_sft_lora(
        composed(
            "train_sft_lora",
            *(*BACKBONE, *DATA, *TRAINER, "logger=none", "lora.rank=2", "recipe.lr=0.01"),
            *("recipe.epochs=2", "ckpt_path=sft_lora/checkpoints/last.ckpt"),
            "paths.output_dir=new",
        )
    )
    assert (steps, metrics["steps"]) == ([1], 2)
    assert metrics["train/loss"] == pytest.approx(EXPECTED["sft_lora"]["train/loss"], **CLOSE)


def test_prag_adapters(old: Copy, backbone: Backbone, people: QADataset) -> None:
    old("augmentation", "cache/prag")
    config: Any = OmegaConf.to_container(OmegaConf.load(OLD / "runs/prag/.hydra/config.yaml"))
    method = load_prag(
        backbone,
        max_new_tokens=6,
        augmentation="augmentation/augmentations.jsonl",
        formats=config["instances"]["formats"],
        expert=config["expert"],
        recipe=config["recipe"],
        cache_dir="cache/prag",
    )
    check_answers(method, "prag", people, "train")
    measured = method.measure([])
    assert (measured["adapters_trained"], measured["adapters_read"]) == (0, 2)


def test_warm_up(old: Copy, people: QADataset) -> None:
    old("backbone", "warmup")
    warm = warm_backbone("warmup/adapter", "backbone", dtype="float32")
    assert warm.weights.legacy == EXPECTED["warm_up"]["fingerprint"]
    answers = BaseMethod(warm, max_new_tokens=6).answer(
        [QuestionInput(question) for question in people.split("dev")]
    )
    wanted = EXPECTED["warm_up"]
    assert [answer.nll for answer in answers] == pytest.approx(wanted["nll"], **CLOSE)
    assert wanted["nll"] != pytest.approx([row["nll"] for row in predicted("base")], **CLOSE)


def test_augmentations(old: Copy, people: QADataset) -> None:
    folder = old("augmentation")
    lessons = list(lessons_from_augmentation(folder / "augmentations.jsonl", dict(people.passages)))
    assert [lesson.passage.id for lesson in lessons] == [f"p{i}" for i in range(8)]
    written = read_passages(folder / "surrogates.jsonl")
    assert written == list(surrogates(people.passages, lessons))
    assert written[0].text.endswith(EXPECTED["surrogate_ends"])


def test_run_folders(old: Copy) -> None:
    old("runs")
    run = read_run("runs/genpoe")
    assert (len(run.questions), run.metrics["nll"]) == (8, EXPECTED["report"]["genpoe/nll"])
    config = composed(
        "report", "runs=[runs/base,runs/genpoe]", "labels=[base,genpoe]", "paths.output_dir=new"
    )
    metrics = report_command(config)
    wanted = EXPECTED["report"]
    means = [name for name in wanted if not name.endswith(("_low", "_high"))]
    assert {name: metrics[name] for name in means} == pytest.approx({n: wanted[n] for n in means})
    # Intervals are computed anew: eight wrong answers were 0 to 0 then.
    for name in means:
        if f"{name}_low" in wanted:
            assert metrics[f"{name}_low"] <= wanted[f"{name}_low"]
            assert metrics[f"{name}_high"] > wanted[f"{name}_high"]
    assert np.isfinite(list(metrics.values())).all()
    page = Path("new/table.md").read_text(encoding="utf-8")
    assert "| genpoe" in page
    assert "cluster of its own: base, genpoe." in page.replace("\n", " ")
