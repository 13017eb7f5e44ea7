"""A mistyped setting is an error that names it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import InstantiationException
from hydra.utils import instantiate

from genpoe.commands.train_hypernet import train
from genpoe.training.settings import BatchingSettings, OptimSettings
from plumbing.cli import one_line
from plumbing.settings import read_section

CONF = Path(__file__).parents[3] / "conf"


def composed(*overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train_hypernet", ["paths.output_dir=out", *overrides])


SHIPPED = sorted(path.stem for path in (CONF / "experiment" / "genpoe").glob("*.yaml"))


@pytest.mark.parametrize("experiment", SHIPPED)
def test_the_shipped_experiments_are_well_typed(experiment):
    config = composed(f"experiment=genpoe/{experiment}")
    instantiate(config.hypernet)
    read_section(config, "batching", BatchingSettings)
    read_section(config, "optim", OptimSettings)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.lr=fast", "lr must be a number, got 'fast'; set optim.lr"),
        ("hypernet.layer=last", "layer must be a whole number, got 'last'; set hypernet.layer"),
        ("hypernet.rank=null", "rank must be a whole number, got None; set hypernet.rank"),
        ("hypernet.noise=[1]", "noise must be a number, got [1]; set hypernet.noise"),
        (
            "batching.train_limit=some",
            "train_limit must be a whole number or null, got 'some'; set batching",
        ),
        ("batching.val_limit=0", "val_limit must be positive, got 0; set batching.val_limit"),
        ("batching.rag_fraction=2", "must be in 0..1, got 2; set batching.rag_fraction"),
        (
            "batching.max_passage_tokens=0",
            "max_passage_tokens must be positive, got 0; set batching.max_passage_tokens",
        ),
        ("batching.negatives=0", "negatives must be positive, got 0; set batching.negatives"),
        (
            "batching.negatives_path=FILE",
            "batching.negatives_path gives passages of others, and none is trained with; set other",
        ),
    ],
)
def test_a_mistyped_value_is_named_before_anything_is_loaded(override, message):
    with pytest.raises((ValueError, InstantiationException)) as caught:
        train(composed(override, "data.seed=nothing", "backbone.name=/nowhere"))
    assert message in one_line(caught.value)
