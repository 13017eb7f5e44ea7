"""The contrastive loss (eq. 8) and training with it: batches, trained weights and resuming."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning import Callback, Trainer
from lightning.pytorch.plugins.io import TorchCheckpointIO
from safetensors.torch import load_file

from plumbing.storage.jsonl import DataError
from plumbing.training.checkpoint import CheckpointError
from retrieval.passage import Passage
from retrieval.rerank.cross_encoder import CrossEncoder
from retrieval.rerank.pretrained import RerankerError, decoder, encoder
from retrieval.rerank.rerankers import TrainedReranker
from retrieval.rerank.training.batches import ListBatch, RerankerDataModule, TrainingBatches
from retrieval.rerank.training.lists import RankedList
from retrieval.rerank.training.module import (
    RerankerModule,
    contrastive_loss,
    lr_factor,
    train_reranker,
)
from tests.helpers.tiny_rerankers import make_decoder_folder, make_encoder_folder

pytestmark = [
    # PEFT uses names that transformers has renamed.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated"),
]

CORPUS = {
    **{
        f"g{i}": Passage(f"g{i}", f"Gold {i}", f"The fox number {i} plays violins.")
        for i in range(8)
    },
    **{f"n{i}": Passage(f"n{i}", f"Bad {i}", f"Born in town {i} " * (i + 1)) for i in range(6)},
}
LISTS = [
    RankedList(f"Which fox is {i}?", (f"g{i}",), tuple(f"n{j}" for j in range(1 + i % 6)), i % 2)
    for i in range(8)
]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_encoder_folder(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_decoder_folder(tmp_path_factory.mktemp("gemma"))


def make_data(model: CrossEncoder, batch_size: int = 3, **options: Any) -> RerankerDataModule:
    return RerankerDataModule(
        CORPUS, LISTS, LISTS[:5], model.tokenize, **{"batch_size": batch_size, **options}
    )


def make_trainer(folder: Path, *callbacks: Callback, **options: Any) -> Trainer:
    settings = {"max_epochs": 2, "accelerator": "cpu", "logger": False, **options}
    return Trainer(
        default_root_dir=folder,
        callbacks=list(callbacks),
        plugins=[TorchCheckpointIO()],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **settings,
    )


def batches(
    lists: Any = LISTS,
    size: int = 3,
    negatives: int = 2,
    at: tuple[int, int] = (0, 0),
    seed: int = 0,
    **ranks: int,
) -> Any:
    """Training batches that are not tokenised, but stay lists."""
    as_they_are: Any = list
    return TrainingBatches(lists, as_they_are, size, negatives, seed, lambda: at, **ranks)


@given(st.lists(st.lists(st.floats(-50, 50), min_size=1, max_size=6), min_size=1, max_size=4))
def test_the_loss_is_equation_8(lists: list[list[float]]) -> None:
    expected = [-math.log(math.exp(s[0]) / sum(map(math.exp, s))) for s in lists]
    flat = torch.tensor([score for one in lists for score in one], dtype=torch.float64)
    found = contrastive_loss(flat, list(map(len, lists)))
    assert found.item() == pytest.approx(sum(expected) / len(lists), rel=1e-6, abs=1e-9)


def test_the_loss_of_equal_lists_is_cross_entropy() -> None:
    scores = torch.randn(4, 5, requires_grad=True)
    reference = torch.nn.functional.cross_entropy(scores, torch.zeros(4, dtype=torch.long))
    (expected,) = torch.autograd.grad(reference, scores)
    found = contrastive_loss(scores.flatten(), [5] * 4)
    torch.testing.assert_close(found, reference)
    torch.testing.assert_close(torch.autograd.grad(found, scores)[0], expected)


@pytest.mark.parametrize("sizes", [[], [2, 2], [6]])
def test_sizes_must_add_up(sizes: list[int]) -> None:
    with pytest.raises(ValueError, match="add up to 5 scores"):
        contrastive_loss(torch.zeros(5), sizes)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("linear", [0.5, 1, 1, 0.5, 0]),
        ("cosine", [0.5, 1, 1, 0.5, 0]),
        ("constant", [0.5, 1, 1, 1, 1]),
    ],
)
def test_the_learning_rate_rises_and_falls(schedule: str, expected: list[float]) -> None:
    places = [0.0, 0.1, 0.2, 0.6, 1.0]  # places in ten steps, two of which are warm-up
    assert [lr_factor(x, 0.2, schedule, 0.1) for x in places] == pytest.approx(expected)
    assert lr_factor(0.0, 0.0, "linear") == 1
    assert lr_factor(1.0, 1.0, "linear") == 0


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"lr": 0.0}, r"lr must be positive, got 0\.0; set lr"),
        ({"warmup": 1.5}, r"warmup must be in 0 … 1, got 1\.5"),
        ({"weight_decay": -1.0}, r"weight_decay must not be negative, got -1\.0; set weight_decay"),
        ({"schedule": "step"}, "schedule must be one of linear, cosine, constant, got 'step'"),
    ],
)
def test_wrong_settings_are_named(bert: Path, setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RerankerModule(encoder(str(bert)), **setting)


def test_a_batch_holds_one_positive_and_at_most_l_negatives() -> None:
    lists = [RankedList("q", ("g0", "g1"), tuple(f"n{i}" for i in range(5)), 2)] * 4
    for batch in batches(lists, size=2, negatives=3):
        for one in batch:
            assert len(one.positive_ids) == 1
            assert len(set(one.negative_ids)) == 3
            assert set(one.positive_ids) <= {"g0", "g1"}
            assert set(one.negative_ids) <= {f"n{i}" for i in range(5)}
    (few,) = batches(LISTS[:1], size=1, negatives=3)
    assert few[0].negative_ids == ("n0",)


def test_epochs_differ_and_repeat_exactly() -> None:
    first, again, second = (list(batches(at=at)) for at in ((0, 0), (0, 0), (1, 0)))
    assert first == again
    assert first != second
    assert first != list(batches(seed=1))
    assert len(first) == len(batches()) == 2
    queries = [one.query for batch in first for one in batch]
    assert len(set(queries)) == len(queries) == 6


def test_batches_go_on_where_the_trainer_stands() -> None:
    assert list(batches(at=(3, 1))) == list(batches(at=(3, 0)))[1:]
    assert list(batches(at=(3, 2))) == []


def test_processes_share_a_step() -> None:
    whole = list(batches(size=4))
    parts = [list(batches(size=2, rank=rank, num_replicas=2)) for rank in (0, 1)]
    for step, *shares in zip(whole, *parts, strict=True):
        mixed = [one for pair in zip(*shares, strict=True) for one in pair]
        assert mixed == step


def test_few_lists_make_one_batch() -> None:
    assert [len(batch) for batch in batches(LISTS[:2], size=16)] == [2]
    assert [len(b) for b in batches(LISTS[:3], size=16, rank=1, num_replicas=2)] == [1]
    with pytest.raises(ValueError, match="got 2 questions for 3 processes"):
        batches(LISTS[:2], num_replicas=3)
    for size, negatives in ((0, 1), (1, 0)):
        with pytest.raises(ValueError, match=r"must be positive, got 0; set "):
            batches(size=size, negatives=negatives)


def test_collated_pairs_stand_as_their_lists_do(bert: Path) -> None:
    model = encoder(str(bert))
    batch = make_data(model).collate(LISTS[:3])
    assert isinstance(batch, ListBatch)
    assert (batch.sizes, batch.num_positives, batch.above) == ([2, 3, 4], [1, 1, 1], [0, 1, 0])
    assert batch.pairs[:2] == model.tokenize(
        [(LISTS[0].query, f"{p.title}\n{p.text}") for p in (CORPUS["g0"], CORPUS["n0"])]
    )


class Recorder(Callback):
    """Records the loss of each step, and can fail after a step, as a process that dies."""

    def __init__(self, die_at: int | None = None, save: Path | None = None) -> None:
        self.losses: list[float] = []
        self.die_at, self.save = die_at, save

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, *_: Any) -> None:
        self.losses.append(float(outputs["loss"]))
        if trainer.global_step == self.die_at:
            trainer.save_checkpoint(self.save)
            raise KeyboardInterrupt


def fit(
    folder: Path, model: CrossEncoder, *callbacks: Callback, **options: Any
) -> dict[str, float]:
    data = make_data(model, **options.pop("data", {}))
    lr = options.pop("lr", 0.01)
    ckpt_path = options.pop("ckpt_path", None)
    trainer = make_trainer(folder, *callbacks, **options)
    return train_reranker(RerankerModule(model, lr), data, trainer, folder, ckpt_path)


@pytest.mark.parametrize("family", ["encoder", "decoder"])
def test_training_learns_saves_and_is_loaded(
    bert: Path, gemma: Path, tmp_path: Path, family: str
) -> None:
    torch.manual_seed(0)
    if family == "encoder":
        model: CrossEncoder = encoder(str(bert), max_tokens=64, interaction=1.0)
    else:
        model = decoder(str(gemma), max_tokens=64, dtype="float32", gradient_checkpointing=True)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    recorder = Recorder()
    metrics = fit(tmp_path, model, recorder, max_epochs=8)
    assert sum(recorder.losses[-4:]) < 0.5 * sum(recorder.losses[:4])
    for name, parameter in model.named_parameters():
        trained = family == "encoder" or "lora_" in name
        assert parameter.requires_grad == trained
        if not trained:
            assert torch.equal(parameter, before[name]), name
    assert metrics["steps"] == 16
    assert metrics["val/accuracy@1"] > metrics["val/retriever_accuracy@1"] == 60
    assert metrics["val/retriever_mrr"] == pytest.approx((1 + 0.5 + 1 + 0.5 + 1) / 5)
    pairs = [(LISTS[0].query, passage) for passage in CORPUS.values()]
    with torch.no_grad():
        texts = [(question, f"{p.title}\n{p.text}") for question, p in pairs]
        expected = model.eval()(model.tokenize(texts)).tolist()
    found = TrainedReranker(tmp_path / "reranker", "cpu", "float32").score(pairs)
    assert found == pytest.approx(expected, abs=1e-4)
    assert (tmp_path / "metrics.json").is_file()


@pytest.mark.parametrize("die_at", [1, 2, 3])
def test_a_run_that_died_goes_on_as_if_it_had_not(bert: Path, tmp_path: Path, die_at: int) -> None:
    whole, first, second = Recorder(), Recorder(die_at, tmp_path / "x.ckpt"), Recorder()
    expected, found = (encoder(str(bert), max_tokens=64, dropout=0.0) for _ in range(2))
    fit(tmp_path / "whole", expected, whole)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(tmp_path / "part", encoder(str(bert), max_tokens=64, dropout=0.0), first)
    fit(tmp_path / "part", found, second, ckpt_path=str(tmp_path / "x.ckpt"))
    assert first.losses + second.losses == whole.losses
    for a, b in zip(expected.parameters(), found.parameters(), strict=True):
        assert torch.equal(a, b)


def test_accumulated_batches_resume_at_a_step(bert: Path, tmp_path: Path) -> None:
    settings = {"accumulate_grad_batches": 2, "data": {"batch_size": 1}}
    whole, first, second = Recorder(), Recorder(5, tmp_path / "x.ckpt"), Recorder()
    fit(tmp_path, encoder(str(bert), max_tokens=64, dropout=0.0), whole, **settings)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(tmp_path, encoder(str(bert), max_tokens=64, dropout=0.0), first, **settings)
    path = str(tmp_path / "x.ckpt")
    fit(
        tmp_path, encoder(str(bert), max_tokens=64, dropout=0.0), second, ckpt_path=path, **settings
    )
    assert first.losses + second.losses == whole.losses


def checkpoint(bert: Path, folder: Path) -> str:
    path = folder / "x.ckpt"
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(folder, encoder(str(bert), max_tokens=64), Recorder(1, path))
    return str(path)


def test_a_checkpoint_is_refused_with_other_batches_or_another_model(
    bert: Path, tmp_path: Path
) -> None:
    path = checkpoint(bert, tmp_path)
    with pytest.raises(DataError, match="batch_size was 3, is 2; go on with the same data"):
        fit(tmp_path, encoder(str(bert), max_tokens=64), ckpt_path=path, data={"batch_size": 2})
    with pytest.raises(DataError, match="tokens of the first lists was"):
        fit(tmp_path, encoder(str(bert), max_tokens=16), ckpt_path=path)
    other = RerankerModule(encoder(str(make_encoder_folder(tmp_path / "xlm", "xlm-roberta"))))
    with pytest.raises(RerankerError, match="the checkpoint is of another reranker"):
        other.on_load_checkpoint(torch.load(path, weights_only=True))
    with pytest.raises(CheckpointError, match="ckpt_path must be a file, got 'last'"):
        fit(tmp_path, encoder(str(bert)), ckpt_path="last")


def test_a_checkpoint_holds_what_is_trained_and_no_pickle(gemma: Path, tmp_path: Path) -> None:
    model = decoder(str(gemma), max_tokens=64, dtype="float32", lora_rank=2)
    path = tmp_path / "x.ckpt"
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(tmp_path, model, Recorder(1, path))
    loaded = torch.load(path, weights_only=True)
    assert loaded["state_dict"]
    assert all("lora_" in name for name in loaded["state_dict"])
    assert fit(tmp_path, model, ckpt_path=str(path))["steps"] == 4
    loaded["base"]["fingerprint"] = "of another model"
    with pytest.raises(RerankerError, match="was trained beside"):
        RerankerModule(model).on_load_checkpoint(loaded)


def test_training_without_validation(bert: Path, tmp_path: Path) -> None:
    model = encoder(str(bert), max_tokens=64)
    data = RerankerDataModule(CORPUS, LISTS, [], model.tokenize, batch_size=4)
    metrics = train_reranker(RerankerModule(model), data, make_trainer(tmp_path), tmp_path)
    assert "val/mrr" not in metrics
    assert metrics["val_lists"] == 0


def test_a_data_module_alone_has_no_batches(bert: Path) -> None:
    with pytest.raises(RuntimeError, match=r"has no trainer yet; use trainer\.fit"):
        make_data(encoder(str(bert))).train_dataloader()


def test_validation_ranks_the_best_positive(bert: Path) -> None:
    module = RerankerModule(encoder(str(bert)))
    logged: dict[str, float] = {}
    scores = torch.tensor([0.0, 2.0, 1.0, 3.0, 1.0, 1.0])
    module.forward = lambda batch: scores  # type: ignore[method-assign]
    module.log = lambda name, value, **_: logged.update({name: value})  # type: ignore[method-assign]
    module.validation_step(ListBatch([], [4, 2], [2, 1], [0, 1]), 0)
    # In the first list, 2.0 ranks below 3.0. In the second, a tie counts against the positive.
    assert logged["val/accuracy@1"] == 0
    assert logged["val/mrr"] == 0.5
    assert logged["val/retriever_accuracy@1"] == 50
    assert logged["val/retriever_mrr"] == 0.75
    e = math.e
    first = math.log(1 + e + e**3)
    assert logged["val/loss"] == pytest.approx((first + math.log(2)) / 2, rel=1e-5)


SCRIPT = """
import sys
from pathlib import Path
from tests.retrieval.rerank.training.test_module import *
model = encoder(sys.argv[1], max_tokens=64, dropout=0.0)
devices = int(sys.argv[3])
strategy = "ddp" if devices > 1 else "auto"
trainer = make_trainer(Path(sys.argv[2]), devices=devices, strategy=strategy)
data = make_data(model, batch_size=4 // devices)
train_reranker(RerankerModule(model, lr=0.001), data, trainer, sys.argv[2])
"""


@pytest.mark.slow
def test_two_processes_train_as_one_does(bert: Path, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(SCRIPT)
    root = Path(__file__).parents[4]
    paths = os.pathsep.join([str(root), str(root / "tests")])
    weights, metrics = [], []
    for devices in (1, 2):
        folder = tmp_path / str(devices)
        done = subprocess.run(
            [sys.executable, str(tmp_path / "train.py"), str(bert), str(folder), str(devices)],
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        weights.append(load_file(folder / "reranker" / "model.safetensors"))
        metrics.append(json.loads((folder / "metrics.json").read_text()))
    # A key's bias has no effect. Its gradient is mere rounding, but Adam makes full steps of it.
    one, two = ({k: v for k, v in w.items() if "key.bias" not in k} for w in weights)
    torch.testing.assert_close(one, two, rtol=1e-2, atol=1e-4)
    for name in ("val/loss", "val/mrr", "val/accuracy@1", "steps"):
        assert metrics[0][name] == pytest.approx(metrics[1][name], rel=1e-3)
