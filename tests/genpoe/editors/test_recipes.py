"""Editors by name: the published values, and what is said about a wrong setting."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from omegaconf import OmegaConf

from backbone.edits import state_hash
from genpoe.editors.recipes import EDITORS, open_editor
from plumbing.mounts import SettingValueError
from tests.helpers.taught import taught_covariances
from tests.helpers.tiny import make_backbone
from tests.test_conf import CONF

PUBLISHED: dict[str, dict[str, Any]] = {
    "ultraedit": {"eta": 1e-6, "layers": [29, 30], "projections": ["down"], "tokens": "all"},
    "memit": {
        **{"layers": [4, 5, 6, 7, 8], "weight": 15000, "value.steps": 25, "value.lr": 0.5},
        **{"value.clamp": 4, "value.decay": 1e-3, "value.kl": 0.0625, "value.contexts": 5},
    },
    "rome": {
        **{"layer": 5, "adjust": False, "value.steps": 25, "value.lr": 0.5, "value.clamp": 4},
        **{"value.decay": 1e-3, "value.kl": 0.0625, "value.context_tokens": [5, 10]},
    },
    "alphaedit": {
        **{"layers": [4, 5, 6, 7, 8], "threshold": 0.02, "mu": 1, "value.lr": 0.1},
        **{"value.clamp": 0.75, "value.decay": 0.5, "value.steps": 25, "share": None},
    },
    "ft_lora": {
        **{"kind": "adalora", "targets": ["q_proj", "v_proj"], "rank": 12, "alpha": 32},
        **{"dropout": 0.1, "lr": 5e-3, "passes": 70, "batch_size": 1, "stop": 0},
    },
    "grace": {"layer": 27, "radius": 1, "lr": 1, "steps": 50},
    "mend": {
        **{"layers": [29, 30, 31], "projections": ["gate", "up", "down"], "tokens": "all"},
        **{"rank": 1920, "eta": 1e-4, "lr": 1e-6, "eta_lr": 1e-4, "edits": 1, "accumulate": 10},
        **{"clip": 100, "edit_weight": 0.1, "locality_weight": 1},
    },
    "malmen": {
        **{"layers": [42, 43, 44, 45, 46, 47], "projections": ["down"], "tokens": "all"},
        **{"rank": 1920, "eta": 1e-6, "lr": 1e-5, "edits": 1, "clip": 1, "locality_weight": 1},
    },
}


def section(name) -> Any:
    config: Any = OmegaConf.load(CONF / "editor" / f"{name}.yaml")
    config.seed = 0
    for key, value in {"ckpt_path": None, "cache_dir": "nowhere"}.items():
        if key in config:
            config[key] = value
    return OmegaConf.to_container(config)


@pytest.mark.parametrize("name", EDITORS)
def test_recipes(name):
    values = section(name)
    assert values["name"] == name
    assert set(values["recipes"]) == {"easyedit", "tuned"}
    published = OmegaConf.create(values["recipes"]["easyedit"])
    wanted = PUBLISHED[name]
    assert {key: OmegaConf.select(published, key) for key in wanted} == wanted
    deep = make_backbone(num_hidden_layers=32, hidden_size=16, intermediate_size=16, head_dim=4)
    for recipe in ("easyedit", "tuned"):
        values["recipe"] = recipe
        values["recipes"][recipe].get("value", {})["contexts"] = 0  # none is written
        if EDITORS[name].trained:
            with pytest.raises(SettingValueError, match="needs what was trained, got ckpt_path"):
                open_editor(deep, **values)
        elif EDITORS[name].statistics and name != "rome":
            with pytest.raises(SettingValueError, match="needs the covariances of the layers 4, 5"):
                open_editor(deep, **values)
        else:
            assert type(open_editor(deep, **values)) is EDITORS[name].editor


@pytest.mark.parametrize(
    ("changes", "key", "message"),
    [
        ({"recipe": "best"}, "recipe", "recipe must be one of easyedit, tuned, got 'best'"),
        ({"name": "wise"}, "name", "name must be one of"),
        ({"recipes.tuned.weight": "much"}, "recipes.tuned.weight", "weight must be a number"),
        ({"recipes.tuned.layers": [99]}, "recipes.tuned.layers", r"layers must be in 0\.\.1"),
        ({"recipes.tuned.value.lr": 0}, "recipes.tuned.value.lr", "lr must be positive, got 0"),
        ({"recipes.tuned.value.rate": 1}, "recipes.tuned.value.rate", "there is no setting 'rate'"),
        ({"recipes.tuned.lamda": 1}, "recipes.tuned.lamda", "there is no setting 'lamda'"),
    ],
)
def test_wrong_settings_are_named(changes, key, message, tmp_path, no_sync):
    backbone = make_backbone()
    statistics = tmp_path / "c"
    if "recipes.tuned.layers" in changes:
        replace(taught_covariances(), state=state_hash(backbone)).save(statistics)
    config = OmegaConf.create({**section("memit"), "statistics": str(statistics)})
    for place, value in changes.items():
        OmegaConf.update(config, place, value, force_add=True)
    plain: Any = OmegaConf.to_container(config)
    with pytest.raises(SettingValueError, match=message) as caught:
        open_editor(backbone, **plain)
    assert caught.value.key == key
