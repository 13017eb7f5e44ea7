"""Training an editor as users do: killed and resumed, opened again, and refused elsewhere."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from backbone.edits import state_hash
from genpoe.commands.train_editor import train_editor
from genpoe.editors.recipes import open_editor
from genpoe.editors.trained.examples import question_facts
from genpoe.editors.trained.malmen import MALMEN
from genpoe.editors.trained.mend import MEND
from genpoe.model import BackboneMismatchError
from plumbing.mounts import SettingValueError
from plumbing.storage.jsonl import DataError, write_jsonl
from plumbing.training.checkpoint import CheckpointError
from qa.commands.evaluate import evaluate_run
from qa.data.bios import generate
from tests.helpers.killed import die_at
from tests.helpers.tiny import make_backbone
from tests.test_conf import composed

STEPS = 8
SMALL = [
    *("data.train_entities=3", "data.dev_entities=1", "data.test_entities=0"),
    *("data.distractor_entities=0", "data.unseen_entities=0", "facts.held_out=2"),
    *("facts.statistics=4", "trainer.max_epochs=2", "trainer.accelerator=cpu"),
    *("trainer.log_every_n_steps=1", "callbacks.checkpoint.every_n_train_steps=2"),
    *("~callbacks.progress_bar", "+trainer.enable_progress_bar=false"),
]
NETWORKS = {"layers": "[1]", "rank": 4, "edits": 4}


def config_for(folder, name="mend", *overrides):
    own = [f"editor.recipes.tuned.{key}={value}" for key, value in NETWORKS.items()]
    output = [f"paths.output_dir={folder}", f"paths.cache_dir={folder}/cache"]
    return composed("train_editor", f"editor={name}", *SMALL, *own, *output, *overrides)


def weights(folder):
    state = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    return torch.cat([tensor.double().flatten() for tensor in state.values()])


def opened(backbone, folder, name="mend", **changes):
    config = config_for(folder, name).editor
    values: Any = OmegaConf.to_container(config)
    values |= {"seed": 0, "ckpt_path": str(folder / "checkpoints" / "last.ckpt")}
    values["recipes"]["tuned"] |= changes
    return open_editor(backbone, **values)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    metrics = train_editor(config_for(folder), make_backbone())
    assert (metrics["steps"], metrics["facts"]) == (STEPS, 16)
    assert {"train/loss", "val/loss", "val/edit_nll", "val/locality_kl"} <= metrics.keys()
    return folder


@pytest.mark.parametrize("step", [3, 4])
def test_killed_and_resumed_is_bit_for_bit_never_stopped(whole, tmp_path, monkeypatch, step):
    config = config_for(tmp_path)
    die_at(step, lambda: train_editor(config, make_backbone()), monkeypatch)
    assert not torch.equal(weights(tmp_path), weights(whole))
    config.ckpt_path = str(tmp_path / "checkpoints" / "last.ckpt")
    assert train_editor(config, make_backbone())["steps"] == STEPS
    assert torch.equal(weights(tmp_path), weights(whole))


def test_a_run_goes_on_only_with_what_it_began(whole, tmp_path):
    last = f"ckpt_path={whole}/checkpoints/last.ckpt"
    for name, change, message in (
        ("malmen", "seed=0", "of the editor mend, got editor=malmen"),
        ("mend", "editor.recipes.tuned.rank=5", "rank was 4, is 5"),
        ("mend", "facts.limit=10", "are not those of the run .* facts was"),
    ):
        with pytest.raises(CheckpointError, match=message):
            train_editor(config_for(tmp_path, name, last, change), make_backbone())
    with pytest.raises(BackboneMismatchError):
        train_editor(config_for(tmp_path, "mend", last), make_backbone(seed=1))


def test_what_was_trained_edits(whole):
    backbone = make_backbone()
    before = state_hash(backbone)
    editor = opened(backbone, whole, lr=1.0)  # only training reads it
    assert type(editor) is MEND
    data = generate(train_entities=1, dev_entities=1, distractor_entities=0)
    with editor.edited(question_facts(data, "train")) as done:
        assert len(done.ids) == 6
        assert state_hash(backbone) != before
    assert state_hash(backbone) == before


def test_what_is_opened_must_fit(whole, tmp_path):
    backbone = make_backbone()
    with pytest.raises(CheckpointError, match="other settings: rank was 4, is 8; give the same"):
        opened(backbone, whole, rank=8)
    with pytest.raises(CheckpointError, match="of the editor mend, got editor=malmen"):
        opened(backbone, whole, "malmen")
    with pytest.raises(BackboneMismatchError, match="the checkpoint was trained with the backbone"):
        opened(make_backbone(seed=1), whole)
    values: dict[str, Any] = {"recipes": {"tuned": {"layers": [1]}}, "recipe": "tuned"}
    with pytest.raises(SettingValueError, match=r"got ckpt_path=null; set ckpt_path to .*=malmen"):
        open_editor(backbone, "malmen", **values)


def test_the_commands_work_together(tmp_path, no_sync):
    backbone = make_backbone(max_position_embeddings=2048)
    config = config_for(tmp_path, "malmen", "cache_frozen=true", "trainer.max_epochs=1")
    assert train_editor(config, backbone)["steps"] == STEPS / 2
    config = composed(
        "evaluate",
        *("method=malmen", "limit=2", "max_new_tokens=2", *SMALL[:5]),
        *(f"editor.recipes.tuned.{key}={value}" for key, value in NETWORKS.items()),
        *(f"paths.output_dir={tmp_path}/e", f"ckpt_path={tmp_path}/checkpoints/last.ckpt"),
    )
    metrics = evaluate_run(config, backbone=backbone)
    assert metrics["edits"] >= 5
    assert isinstance(opened(backbone, tmp_path, "malmen"), MALMEN)


def test_facts_of_a_file(tmp_path):
    path = tmp_path / "facts.jsonl"
    fact = {"prompt": "The home of Tova", "target": "sea", "rephrasings": ["Tova is at"]}
    write_jsonl(path, [{**fact, "id": str(n), "locality": ["The old fox"]} for n in range(8)])
    given = [f"facts.path={path}", "trainer.max_epochs=1", "facts.held_out=0"]
    metrics = train_editor(config_for(tmp_path, "mend", *given), make_backbone())
    assert (metrics["facts"], metrics["steps"]) == (8, 2)
    assert "val/loss" not in metrics
    for changes, error, message in (
        (["facts.held_out=8"], SettingValueError, r"held_out must be in 0\.\.7, got 8"),
        (["facts.statistics=1"], SettingValueError, "at least 2 facts, got 1"),
        (["facts.max_tokens=2"], DataError, "at least two facts, got 0 of at most 2 tokens"),
    ):
        with pytest.raises(error, match=message):
            train_editor(config_for(tmp_path, "mend", *given, *changes), make_backbone())
    with pytest.raises(SettingValueError, match="name must be one of mend, malmen, got 'rome'"):
        train_editor(composed("train_editor", "editor=rome"))


def test_other_splits_give_rephrasings():
    data = generate(train_entities=2, dev_entities=1, distractor_entities=0)
    facts = question_facts(data, "train", ["train_reworded"])
    assert len(facts) == 12
    for fact, question in zip(facts, data.split("train_reworded"), strict=True):
        (again,) = fact.rephrasings
        assert question.question in again
        assert again != fact.prompt
        assert (fact.target,) == question.answers
        assert fact.subject is not None
        assert fact.subject in fact.prompt
    assert question_facts(data, "dev")[0].rephrasings == ()
