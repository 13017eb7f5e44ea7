"""The study of the reader's parts: one table of all trainings, which goes on after a stop."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from genpoe.commands import reader_study as study
from genpoe.commands.reader_study import reader_study, study_table
from tests.helpers.tiny import make_backbone

CONF = Path(__file__).parents[3] / "conf"
SMALL = [
    *("data.train_entities=8", "data.dev_entities=4", "data.distractor_entities=0"),
    *("data.test_entities=0", "data.unseen_entities=0", "hypernet.layer=1"),
    *("hypernet.read_layer=1", "hypernet.query_layers=[1]", "hypernet.hidden_width=8"),
    *("hypernet.key_width=4", "hypernet.common_rank=2", "trainer.accelerator=cpu"),
    *("trainer.devices=1", "trainer.max_epochs=1", "logger=none", "~callbacks.progress_bar"),
    *("+trainer.enable_progress_bar=false", "study.seeds=[0,1]"),
]


@pytest.fixture
def backbone(monkeypatch):
    made = make_backbone(max_position_embeddings=2048)
    monkeypatch.setattr(study, "training_backbone", lambda _: made)
    return made


def run(folder, *overrides):
    given = [*SMALL, f"paths.output_dir={folder}", f"paths.cache_dir={folder.parent}/cache"]
    given += overrides
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return reader_study(compose("reader_study", given), given)


@pytest.mark.slow
def test_each_part_and_seed_is_trained_once(backbone, tmp_path, monkeypatch):
    trained: list[tuple[bool, float, int]] = []
    train = study.train  # type: ignore[attr-defined]

    def noted(config, *given):
        trained.append((config.hypernet.lexical, config.hypernet.copy_loss, config.seed))
        return train(config, *given)

    monkeypatch.setattr(study, "train", noted)
    folder = tmp_path / "run"
    parts = "study.without=[nothing,lexical,copy_loss]"
    metrics = run(folder, parts)
    assert trained == [
        *((True, 0.5, 0), (False, 0.5, 0), (True, 0.0, 0)),
        *((True, 0.5, 1), (False, 0.5, 1), (True, 0.0, 1)),
    ]
    assert len(metrics) == 12
    assert metrics["nothing/0/val/loss"] != metrics["lexical/0/val/loss"]
    table = (folder / "table.md").read_text()
    assert [line.split("|")[1].strip() for line in table.splitlines()[2:5]] == [
        *("nothing", "lexical", "copy_loss")
    ]
    # Called again, it trains what is missing: here one that has left nothing, and another seed.
    trained.clear()
    before = {path.parent.name for path in folder.glob("trainings/*/metrics.json")}
    shutil.rmtree(sorted(folder.glob("trainings/*"))[0])
    again = run(folder, parts)
    assert len(trained) == 1
    assert again == metrics
    assert {path.parent.name for path in folder.glob("trainings/*/metrics.json")} == before
    run(folder, parts, "study.seeds=[1,2]")
    assert [seed for *_, seed in trained[1:]] == [2, 2, 2]


def test_the_table_has_means_and_differences_under_the_same_seed():
    losses = {("nothing", 0): 1.0, ("nothing", 1): 2.0, ("lexical", 0): 1.5, ("lexical", 1): 2.25}
    metrics = {f"{part}/{seed}/val/loss": loss for (part, seed), loss in losses.items()}
    table = study_table(metrics, list(losses))
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:4]]
    assert rows == [
        ["nothing", "1.500 (1.000 to 2.000)", "", "", ""],
        ["lexical", "1.875 (1.500 to 2.250)", "+0.375 (+0.250 to +0.500)", "", ""],
    ]
    assert table.endswith("2 seeds: mean (smallest to largest)\n")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("study.without=[wings]", "without wings, seed 0: .*wings"),
        ("study.without=[]", r"study\.without must name at least one, each once, got \[\]"),
        ("study.seeds=[1,1]", r"study\.seeds must name at least one, each once, got \[1, 1\]"),
        ("trainer.devices=2", r"one device at a time, got trainer\.devices=2"),
    ],
)
def test_a_wrong_setting_is_named_before_anything_is_loaded(tmp_path, override, message):
    with pytest.raises(ValueError, match=message):
        run(tmp_path / "run", override)
