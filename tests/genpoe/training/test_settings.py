"""A mistyped setting is an error that names it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from genpoe.training.settings import check_sections

CONF = Path(__file__).parents[3] / "conf"


def composed(*overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train_hypernet", ["paths.output_dir=out", *overrides])


SHIPPED = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))


@pytest.mark.parametrize("experiment", [name for name in SHIPPED if not name.startswith("dmoe_")])
def test_the_shipped_experiments_are_well_typed(experiment):
    config = composed(f"experiment={experiment}")
    check_sections(config)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.lr=fast", r"lr must be a number, got 'fast'; set optim\.lr"),
        ("model.layer=last", r"layer must be a whole number, got 'last'; set model\.layer"),
        ("model.rank=null", r"rank must be a whole number, got None; set model\.rank"),
        ("model.noise=[1]", r"noise must be a number, got \[1\]; set model\.noise"),
        (
            "batching.train_limit=some",
            r"train_limit must be a whole number or null, got 'some'; set batching",
        ),
    ],
)
def test_a_mistyped_value_is_named(override, message):
    with pytest.raises(ValueError, match=message):
        check_sections(composed(override))
