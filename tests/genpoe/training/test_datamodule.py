"""Examples, batches, and runs that are killed and go on."""

from __future__ import annotations

import contextlib
import copy
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, LightningModule, Trainer

from backbone.tokens import encode_answer, encode_prompt
from genpoe.training.datamodule import QADataModule
from plumbing.storage.jsonl import DataError
from plumbing.training.checkpoint import AtomicCheckpointIO, CheckpointError
from plumbing.training.resume import RandomState, ResumableCheckpoint
from qa.data.dataset import QADataset, Question
from qa.prompts import build_prompt, encode_passage
from retrieval.passage import Passage

pytestmark = [
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
]


class Killed(BaseException):
    """Nothing catches it, as nothing catches SIGKILL."""


def make_dataset(train: int = 11, dev: int = 3) -> QADataset:
    passages: dict[str, Passage] = {}
    splits: dict[str, list[Question]] = {"train": [], "dev": []}
    for index in range(train + dev):
        split = "train" if index < train else "dev"
        id = f"p{index}"
        text = f"Number {index} was born in the old town by the sea. " * (1 + index % 3)
        passages[id] = Passage(id, f"Person {index}", text)
        for part in range(1 + index % 4):
            splits[split].append(
                Question(
                    f"q{index}-{part}",
                    f"Where was person {index} born" + " then" * part + "?",
                    (f"Town {index}", "a town"),
                    (id, "p0") if split == "train" and index else (id,),
                )
            )
    return QADataset("tiny", passages, splits)


def make_datamodule(tokenizer: Any, **settings: Any) -> QADataModule:
    dataset = settings.pop("dataset", None) or make_dataset()
    sizes = {"passages_per_batch": 2, "questions_per_passage": 2} | settings
    return QADataModule(dataset, tokenizer, **sizes)


class Recorder(LightningModule):
    """A model whose weights depend on every batch, in its order, and on random numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(4, 1)
        self.seen: list[tuple[int, list[int]]] = []
        self.validated: list[list[int]] = []

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> torch.Tensor:
        self.seen.append((self.trainer.current_epoch, batch["examples"].tolist()))
        first = batch["examples"][:1].float() + torch.arange(4.0)
        return self.linear(first / 50 + torch.rand(4)).sum()

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self.validated.append(batch["examples"].tolist())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        assert self.trainer.estimated_stepping_batches > 0  # asks for the loader before resuming
        return torch.optim.AdamW(self.parameters(), lr=0.1)


class Kill(Callback):
    """Dies before the given step of this process, or in its validation."""

    def __init__(self, steps: int | None, validations: int | None = None) -> None:
        self.steps, self.validations = steps, validations

    def on_train_batch_start(self, *_: Any) -> None:
        if self.steps == 0:
            raise Killed
        self.steps = self.steps and self.steps - 1

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking and self.validations is not None:
            self.validations -= 1
            if self.validations == 0:
                raise Killed


def fit(
    folder: Path,
    tokenizer: Any,
    resume: bool = False,
    kill: Callback | None = None,
    data: dict[str, Any] | None = None,
    save_every: int = 1,
    **settings: Any,
) -> Recorder:
    torch.manual_seed(0)
    module = Recorder()
    saving = ResumableCheckpoint(
        folder, save_top_k=0, save_last=True, every_n_train_steps=save_every
    )
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        plugins=[AtomicCheckpointIO()],
        callbacks=[saving, RandomState(), *([kill] if kill else [])],
        **{"max_epochs": 2} | settings,
    )
    datamodule = make_datamodule(tokenizer, **data or {})
    with contextlib.suppress(Killed):
        ckpt_path = folder / "last.ckpt" if resume else None
        trainer.fit(module, datamodule=datamodule, ckpt_path=ckpt_path, weights_only=True)
    return module


def same_weights(a: Recorder, b: Recorder) -> bool:
    return all(map(torch.equal, a.linear.state_dict().values(), b.linear.state_dict().values()))


SMALL = {"dataset": make_dataset(train=5, dev=2)}  # four batches an epoch


def test_a_run_killed_after_every_step_is_the_run_that_never_stopped(
    tiny_tokenizer: Any, tmp_path: Path
) -> None:
    whole = fit(tmp_path / "whole", tiny_tokenizer, data=SMALL, max_epochs=3)
    assert len(whole.seen) == 12
    assert len({tuple(batch) for _, batch in whole.seen}) > 8  # another order in every epoch
    seen = []
    for life in range(13):
        run = fit(
            tmp_path / "lives",
            tiny_tokenizer,
            resume=life > 0,
            kill=Kill(1),
            data=SMALL,
            max_epochs=3,
        )
        seen += run.seen
    assert seen == whole.seen
    assert same_weights(run, whole)


@pytest.mark.parametrize(
    ("settings", "kill", "kept"),
    [
        ({"save_every": 3}, Kill(5), 4),
        ({"save_every": 3}, Kill(None, validations=1), 3),
        ({"save_every": 3}, Kill(None, validations=2), 6),
        ({"val_check_interval": 0.5}, Kill(3), 3),
        ({"val_check_interval": 0.5}, Kill(None, validations=1), 2),
        ({"limit_train_batches": 3}, Kill(4), 4),
        ({"limit_val_batches": 0}, Kill(4), 4),
        ({"accumulate_grad_batches": 2}, Kill(3), 2),
        ({"data": SMALL | {"num_workers": 1}, "limit_val_batches": 0}, Kill(2), 2),
        ({"data": SMALL | {"num_workers": 1}, "limit_val_batches": 0}, Kill(4), 4),
        ({"data": SMALL | {"val_split": None}}, Kill(6), 6),
        ({"max_steps": 6, "max_epochs": -1}, Kill(3), 3),
    ],
    ids=[
        "every third step",
        "in the first validation",
        "in the last validation",
        "after a validation within the epoch",
        "in a validation within the epoch",
        "limited epochs",
        "without validation",
        "accumulated gradients",
        "a worker that fetches ahead",
        "a worker at the end of an epoch",
        "no split to validate on",
        "counting steps",
    ],
)
def test_a_killed_run_goes_on_with_the_batch_after_its_checkpoint(
    tiny_tokenizer: Any, tmp_path: Path, settings: dict[str, Any], kill: Kill, kept: int
) -> None:
    settings = {"data": SMALL} | settings
    whole = fit(tmp_path / "whole", tiny_tokenizer, **settings)
    killed = fit(tmp_path / "killed", tiny_tokenizer, kill=copy.copy(kill), **settings)
    assert kept <= len(killed.seen) <= len(whole.seen)
    rest = fit(tmp_path / "killed", tiny_tokenizer, resume=True, **settings)
    assert killed.seen[:kept] + rest.seen == whole.seen
    assert same_weights(rest, whole)


class Stop(Callback):
    """Ends training after a step, as a time limit does."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        trainer.should_stop = trainer.global_step >= self.step


@pytest.mark.parametrize("accumulated", [1, 2])
@pytest.mark.parametrize("stopped_by", ["max_steps", "a callback"])
def test_a_run_that_stops_within_an_epoch_goes_on_there(
    tiny_tokenizer: Any, tmp_path: Path, stopped_by: str, accumulated: int
) -> None:
    settings: dict[str, Any] = {"save_every": 100, "accumulate_grad_batches": accumulated}
    whole = fit(tmp_path / "whole", tiny_tokenizer, **settings)
    if stopped_by == "max_steps":
        part = fit(tmp_path / "part", tiny_tokenizer, **settings, max_steps=3)
    else:
        part = fit(tmp_path / "part", tiny_tokenizer, **settings, kill=Stop(3))
    assert len(part.seen) == 3 * accumulated < len(whole.seen) / 2
    rest = fit(tmp_path / "part", tiny_tokenizer, resume=True, **settings)
    assert part.seen + rest.seen == whole.seen
    assert same_weights(rest, whole)


def test_token_limits_must_be_positive(tiny_tokenizer: Any) -> None:
    for name in ("max_passage_tokens", "max_prompt_tokens"):
        with pytest.raises(ValueError, match=rf"{name} must be positive, got 0; set {name}$"):
            make_datamodule(tiny_tokenizer, **{name: 0})


def test_the_last_checkpoint_is_the_end_of_training(tiny_tokenizer: Any, tmp_path: Path) -> None:
    run = fit(tmp_path, tiny_tokenizer, save_every=3, data=SMALL, max_epochs=2)
    saved = AtomicCheckpointIO().load_checkpoint(tmp_path / "last.ckpt")
    assert torch.equal(saved["state_dict"]["linear.weight"], run.linear.weight)
    assert (saved["QADataModule"]["epoch"], saved["QADataModule"]["batch"]) == (2, 0)


def test_other_batches_within_an_epoch_are_refused(tiny_tokenizer: Any, tmp_path: Path) -> None:
    fit(tmp_path, tiny_tokenizer, kill=Kill(2), data=SMALL)
    with pytest.raises(CheckpointError, match=r"seed was 0, is 1.*same settings of batching"):
        fit(tmp_path, tiny_tokenizer, resume=True, data=SMALL | {"seed": 1})
    with pytest.raises(CheckpointError, match="training examples was"):
        fit(tmp_path, tiny_tokenizer, resume=True, data={"dataset": make_dataset(6, 2)})


def test_other_batches_in_the_next_epoch_are_only_a_warning(
    tiny_tokenizer: Any, tmp_path: Path
) -> None:
    fit(tmp_path, tiny_tokenizer, kill=Kill(4), data=SMALL)
    with pytest.warns(UserWarning, match="questions_per_passage was 2, is 3"):
        rest = fit(tmp_path, tiny_tokenizer, resume=True, data=SMALL | {"questions_per_passage": 3})
    assert {epoch for epoch, _ in rest.seen} == {1}


def test_overfitting_sees_the_same_batches_in_every_epoch(
    tiny_tokenizer: Any, tmp_path: Path
) -> None:
    run = fit(tmp_path, tiny_tokenizer, data=SMALL, overfit_batches=2, limit_val_batches=0)
    batches = [batch for _, batch in run.seen]
    assert len(batches) == 4
    assert batches[:2] == batches[2:]


def test_validation_sees_every_question_in_the_same_order(
    tiny_tokenizer: Any, tmp_path: Path
) -> None:
    data = {"dataset": make_dataset(train=5, dev=7)}
    run = fit(tmp_path, tiny_tokenizer, data=data, num_sanity_val_steps=0)
    half = len(run.validated) // 2
    assert run.validated[:half] == run.validated[half:]
    questions = [question for batch in run.validated[:half] for question in batch]
    assert sorted(questions) == list(range(len(data["dataset"].split("dev"))))


def attach(datamodule: QADataModule) -> QADataModule:
    datamodule.trainer = Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    datamodule.setup("fit")
    return datamodule


def test_a_batch_is_what_the_prompts_make_of_its_questions(tiny_tokenizer: Any) -> None:
    datamodule = attach(make_datamodule(tiny_tokenizer, max_passage_tokens=20))
    dataset = datamodule.dataset
    questions = dataset.split("train")
    for batch in datamodule.train_dataloader():
        assert batch["split"] == "train"
        assert batch["loss_weight"] == 1 / len(batch["rows"])
        for row, index in enumerate(batch["examples"].tolist()):
            question = questions[index]
            prompt = encode_prompt(tiny_tokenizer, build_prompt(question.question))
            answer = encode_answer(tiny_tokenizer, question.answers[0])
            mask = batch["attention_mask"][row].bool()
            assert batch["input_ids"][row][mask].tolist() == prompt + answer
            assert batch["labels"][row][mask].tolist() == [-100] * len(prompt) + answer
            assert datamodule.sequences()["train"][index] == prompt + answer[:-1]
            place = batch["rows"][row]
            passage = dataset.passages[question.passage_ids[0]]
            mask = batch["passage_attention_mask"][place].bool()
            expected = encode_passage(tiny_tokenizer, passage, 20)
            assert batch["passage_input_ids"][place][mask].tolist() == expected
            assert len(expected) == 20


def test_passage_batches_hold_distinct_training_passages(tiny_tokenizer: Any) -> None:
    datamodule = attach(make_datamodule(tiny_tokenizer, dataset=make_dataset(train=80)))

    def passages(n: int) -> list[list[int]]:
        rows = []
        for ids, mask in datamodule.passage_batches(n):
            assert ids.shape == mask.shape
            rows += [i[m.bool()].tolist() for i, m in zip(ids, mask, strict=True)]
        return rows

    assert len(passages(70)) == 70
    assert passages(70) == passages(70)
    expected = [
        encode_passage(tiny_tokenizer, datamodule.dataset.passages[f"p{i}"], 512) for i in range(80)
    ]
    assert sorted(passages(4096)) == sorted(expected)


def test_limits_take_whole_passages_but_for_the_last(tiny_tokenizer: Any) -> None:
    dataset = make_dataset(train=40, dev=4)
    datamodule = attach(
        make_datamodule(tiny_tokenizer, dataset=dataset, train_limit=30, val_limit=4)
    )
    train, dev = (datamodule._examples[split] for split in ("train", "dev"))
    assert (len(train), len(dev)) == (30, 4)
    full: dict[str, int] = {}
    for question in dataset.split("train"):
        full[question.passage_ids[0]] = full.get(question.passage_ids[0], 0) + 1
    sizes = [len(group) for group in train.groups]
    assert sum(sizes) == 30
    assert len(sizes) <= 30 / 2.5 + 5  # of 40 passages with 2.5 questions each
    again = attach(make_datamodule(tiny_tokenizer, dataset=dataset, train_limit=30))
    other = attach(make_datamodule(tiny_tokenizer, dataset=dataset, train_limit=30, seed=1))
    assert again._examples["train"].digest == train.digest != other._examples["train"].digest
    with pytest.raises(ValueError, match=r"limit must be positive, got 0; set limit, or None"):
        attach(make_datamodule(tiny_tokenizer, train_limit=0))


def test_some_questions_come_again_with_their_passage_in_the_prompt(
    tiny_tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = make_dataset(train=20, dev=4)
    settings = {"dataset": dataset, "rag_fraction": 0.5, "max_prompt_tokens": 512}
    with caplog.at_level(logging.INFO, "genpoe"):
        datamodule = attach(make_datamodule(tiny_tokenizer, **settings))
    assert "50 of 50 questions" in caplog.text
    assert "25 also with the passage in the prompt (0 too long)" in caplog.text
    train, dev = (datamodule._examples[split] for split in ("train", "dev"))
    assert len(train) == 75
    assert len(dev) == len(dataset.split("dev"))  # none of validation
    assert len(train.passages) == len(train.groups) > 20
    texts = [tiny_tokenizer.decode(prompt) for prompt in train.prompts]
    for passage, group in zip(train.passages, train.groups, strict=True):
        inside = [tiny_tokenizer.decode(passage) in texts[index] for index in group]
        assert inside == [group[0] >= 50] * len(group)
    assert sum(len(group) for group in train.groups if group[0] >= 50) == 25
    longest = int(train.lengths[:50].max())
    tight = attach(make_datamodule(tiny_tokenizer, **{**settings, "max_prompt_tokens": longest}))
    assert 50 <= len(tight._examples["train"]) < 75  # those that are too long stay as they are
    with pytest.raises(ValueError, match=r"must be in 0\.\.1, got 2; set rag_fraction$"):
        attach(make_datamodule(tiny_tokenizer, rag_fraction=2))


def test_all_gold_passages_of_a_question_are_in_its_batch(tiny_tokenizer: Any) -> None:
    dataset = make_dataset()
    settings = {"dataset": dataset, "max_prompt_tokens": 512, "passages_per_batch": 4}
    datamodule = attach(make_datamodule(tiny_tokenizer, gold_passages=2, **settings))
    one = attach(make_datamodule(tiny_tokenizer, **settings))._examples["train"]
    examples, questions = datamodule._examples["train"], dataset.split("train")
    assert examples.digest != one.digest
    assert len(examples.passages) == 11 + 10  # the first one's questions have one alone
    seen = 0
    for spec in datamodule._sampler("train", True).batches(0):
        batch = examples[spec]
        shape = (len(spec.chunks), 1)
        assert batch["also"].shape == shape
        for index, row in zip(batch["examples"].tolist(), batch["rows"].tolist(), strict=True):
            places = [row, *(place for place in batch["also"][row].tolist() if place >= 0)]
            found = [
                batch["passage_input_ids"][p][batch["passage_attention_mask"][p].bool()].tolist()
                for p in places
            ]
            golds = dataset.gold(questions[index])
            assert found == [encode_passage(tiny_tokenizer, gold, 512) for gold in golds]
            kept = [examples.passages[p].tolist() for p in batch["passages"][places].tolist()]
            assert kept == found  # the cached states of passages are looked up by these
            seen += 1
    assert seen == len(questions)


def test_what_cannot_be_trained_on_is_left_out_and_counted(
    tiny_tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = make_dataset(train=3, dev=1)
    dataset.splits["train"] += [
        Question("no passage", "Who?", ("Tova",), ()),
        Question("long", "Who then? " * 100, ("Tova",), ("p1",)),
    ]
    with caplog.at_level(logging.INFO):
        datamodule = attach(make_datamodule(tiny_tokenizer, dataset=dataset))
    assert len(datamodule._examples["train"]) == 6
    assert (
        "train: 6 of 8 questions (1 without a gold passage and 1 longer than 256 tokens left out)"
        in caplog.text
    )
    assert "No gold passage of train is one of dev" in caplog.text


def test_bad_data_is_an_error(tiny_tokenizer: Any) -> None:
    dataset = make_dataset(train=3, dev=1)
    with pytest.raises(DataError, match="no split 'test'; it has: train, dev"):
        attach(make_datamodule(tiny_tokenizer, dataset=dataset, val_split="test"))
    dataset.splits["dev"].append(Question("shared", "Who?", ("Tova",), ("p0",)))
    with pytest.raises(DataError, match="must not overlap"):
        attach(make_datamodule(tiny_tokenizer, dataset=dataset))
    dataset.splits["dev"] = [Question("nothing", "Who?", ("Tova",), ())]
    with pytest.raises(DataError, match=r"dev: 0 of 1 questions .*nothing to train on"):
        attach(make_datamodule(tiny_tokenizer, dataset=dataset))


def test_overlap_is_left_out_of_training_where_that_is_asked_for(
    tiny_tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = make_dataset(train=3, dev=1)
    dataset.splits["dev"].append(Question("shared", "Who?", ("Tova",), ("p1",)))
    before = len(dataset.split("train"))
    with caplog.at_level("INFO"):
        datamodule = attach(make_datamodule(tiny_tokenizer, dataset=dataset, drop_overlap=True))
    kept = datamodule.dataset.split("train")
    assert len(kept) < before
    assert not any("p1" in question.passage_ids for question in kept)
    assert f"{before - len(kept)} questions of train are left out" in caplog.text


SAME = {"p0": "The sea is deep.", "p1": "The sea is deep.", "p2": "The sea is deep."}


@pytest.mark.parametrize(
    ("texts", "settings"),
    [
        (SAME, {}),
        (SAME, {"rag_fraction": 1.0}),
        ({"p0": "The sea is deep."}, {"rag_fraction": 1.0}),
        (
            {"p0": "The sea is deep and blue.", "p1": "The sea is deep and cold."},
            {"max_passage_tokens": 3},
        ),
    ],
)
def test_training_passages_that_do_not_differ_are_an_error(
    tiny_tokenizer: Any, texts: dict[str, str], settings: dict[str, Any]
) -> None:
    dataset = with_texts(texts, answers=True)
    with pytest.raises(DataError, match=r"train: expected passages that differ, got .* the same"):
        attach(make_datamodule(tiny_tokenizer, dataset=dataset, val_split=None, **settings))


def test_questions_that_all_have_one_answer_are_said(
    tiny_tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    texts = {"p0": "The sea is deep.", "p1": "The town is old."}
    for differ in (True, False):
        caplog.clear()
        dataset = with_texts(texts, answers=differ)
        attach(make_datamodule(tiny_tokenizer, dataset=dataset, val_split=None))
        assert ("all 2 questions have the same answer" in caplog.text) is not differ


def test_passages_that_are_cut_are_counted(
    tiny_tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = with_texts({"p0": "violins " * 50, "p1": "The sea"}, answers=True)
    with caplog.at_level(logging.INFO):
        module = attach(
            make_datamodule(tiny_tokenizer, dataset=dataset, val_split=None, max_passage_tokens=20)
        )
    assert max(module._examples["train"].passages.lengths) == 20
    assert "train: 1 of 2 passages are cut to 20 tokens (max_passage_tokens)" in caplog.text


def with_texts(texts: dict[str, str], answers: bool) -> QADataset:
    """A question about each text; the answers differ or not."""
    passages = {id: Passage(id, "", text) for id, text in texts.items()}
    questions = [
        Question(f"q{id}", f"What is {id}?", (id if answers else "deep",), (id,)) for id in texts
    ]
    return QADataset("made", passages, {"train": questions})
