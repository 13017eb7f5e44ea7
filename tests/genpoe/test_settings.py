"""A mistyped setting is an error that names it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from genpoe.settings import check_types

CONF = Path(__file__).parents[2] / "conf"


def composed(*overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train_hypernet", ["paths.output_dir=out", *overrides])


@pytest.mark.parametrize("experiment", sorted(p.stem for p in (CONF / "experiment").glob("*.yaml")))
def test_the_shipped_experiments_are_well_typed(experiment):
    config = composed(f"experiment={experiment}")
    check_types(config)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.lr=fast", r"optim\.lr: Value 'fast' of type 'str'.*set optim\.lr="),
        ("model.layer=last", r"model\.layer: Value 'last'"),
        ("model.rank=null", r"model\.rank: .*not Optional"),
        ("model.noise=[1]", r"model\.noise: Value '\[1\]'"),
        ("batching.train_limit=some", r"batching\.train_limit: Value 'some'"),
    ],
)
def test_a_mistyped_value_is_named(override, message):
    with pytest.raises(ValueError, match=message):
        check_types(composed(override))
