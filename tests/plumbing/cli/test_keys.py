"""What is wrong with a setting is said in plain words; old keys are answered by their new names."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from plumbing.cli.comments import read_comments
from plumbing.cli.help import help_page
from plumbing.cli.keys import compose_command, did_you_mean, find_fault
from plumbing.cli.renamed import RENAMED, new_settings
from plumbing.cli.values import CONF

FILES = {
    "cook.yaml": """\
# python scripts/cook.py [oven=gas]
defaults:
  - oven: electric
  - sauce: null
  - dish: ???
  - _self_
salt: 1.0e-3       # kilograms
names: ["a # b"]   # of the guests,
                   # in their order
again: ${salt}
oven:
  heat: 180        # degrees; this command's
task_name: cook
""",
    "oven/electric.yaml": "# With a plug.\n_target_: x.Y\n# Of the grill.\nheat: 200\nfan: true\n",
    "oven/gas.yaml": "heat: 220\nflame:\n  low: 1\n  high: 2\n",
    "dish/hot/soup.yaml": "water: 1\n",
    "dish/cake.yaml": "# @package _global_\nsugar: 1\n",
    "sauce/red.yaml": "{}\n",
}
OLD = {
    "pepper": "salt",
    "range.": "oven.",
    "range.low": "oven.fan",
    "dish=soup": "dish=hot/soup sauce=red spoon=big",
    "stove": "oven",
}


@pytest.fixture(scope="module")
def conf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("conf")
    write(folder, FILES)
    return folder


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        (["dish=cake", "salt=1", "+new=1", "++salt=2", "~names"], None),
        (["dish=hot/soup", "oven.fan=false"], None),
        (["salt=1"], "expected a choice for dish: cake, hot/soup; give dish=cake or another"),
        (["dish=cak"], "dish has no choice 'cak'; did you mean cake? there are cake, hot/soup"),
        (["dish=cake", "slat=1"], "scripts/cook.py has no setting 'slat'; did you mean salt? "),
        (["heat=1"], "scripts/cook.py has no setting 'heat'; did you mean oven.heat? python"),
        (["oven.flame.low=3"], "scripts/cook.py has no setting 'oven.flame.low' as it is composed"),
        (["sugar=1"], "scripts/cook.py has no setting 'sugar' as it is composed; it comes with "),
        (["zzz=1"], "scripts/cook.py has no setting 'zzz'; python scripts/cook.py --help lists"),
        (
            ["hydra.run.dri=x"],
            "scripts/cook.py has no setting 'hydra.run.dri'; did you mean hydra.",
        ),
        (["salt"], "expected KEY=VALUE, got 'salt'; give salt=…"),
        (["names=[a"], "cannot read the value of names, got '[a' ("),
        (["salt=1,2"], "expected one value for salt, got 1,2; give salt=[1,2] if it is a list"),
        (["oven=gas,wood"], "oven has no choice 'wood'; there are electric, gas"),
    ],
)
def test_faults_are_named(conf: Path, given: list[str], fault: str | None) -> None:
    found = find_fault(conf, "cook", given, {})
    assert found == fault if fault is None or found is None else found.startswith(fault)
    assert found is None or "\n" not in found


def test_sweeps_are_no_fault_where_they_are_run(conf: Path) -> None:
    given = ["salt=1,2", "oven=gas,electric", "dish=cake"]
    assert find_fault(conf, "cook", given, {}, sweeps=True) is None


@pytest.mark.parametrize(
    ("given", "instead"),
    [
        ("pepper=2", "salt=2"),
        ("+pepper=2", "salt=2"),
        ("range.heat=1", "oven.heat=1"),
        ("range.low=false", "oven.fan=false"),
        ("range.high=1", None),  # no setting today either
        ("dish=soup", "dish=hot/soup sauce=red"),  # there is no spoon
        ("stove=gas", "oven=gas"),
        ("stove=wood", None),
        ("+range.wheels=4", "+oven.wheels=4"),
    ],
)
def test_old_keys_are_answered_by_the_new_ones(conf: Path, given: str, instead: str | None) -> None:
    found = find_fault(conf, "cook", ["oven=electric", given], OLD) or ""
    key = given.partition("=")[0].lstrip("+")
    said = f"{key} has been renamed; give {instead} instead of {given}"
    assert found == said if instead else "renamed" not in found


def test_keys_that_are_still_there_are_not_old(conf: Path) -> None:
    assert find_fault(conf, "cook", ["dish=cake", "salt=2"], {"salt": "pepper"}) is None


@pytest.mark.parametrize(
    ("given", "instead"),
    [
        ("model=smollm2_135m", "backbone=smollm2_135m"),
        ("model=llama2_7b", "backbone=llama2_7b hypernet=paper_7b"),
        ("model.backbone.name=x", "backbone.name=x"),
        ("model.rank=4", "hypernet.rank=4"),
        ("model.cache_frozen=true", "cache_frozen=true"),
        ("experiment=bios", "experiment=genpoe/bios"),
        ("experiment=dmoe_qwen2_5_1_5b", "experiment=dmoe/qwen2_5_1_5b"),
    ],
)
def test_the_keys_of_the_last_release(given: str, instead: str, tmp_path: Path) -> None:
    defaults = "defaults: [{backbone: smollm2_135m}, {hypernet: mean}, {experiment: null}, _self_]"
    files = {
        "train.yaml": f"{defaults}\ncache_frozen: false\n",
        "backbone/smollm2_135m.yaml": "name: x\n",
        "backbone/llama2_7b.yaml": "name: x\n",
        "hypernet/mean.yaml": "rank: 16\n",
        "hypernet/paper_7b.yaml": "rank: 512\n",
        "experiment/genpoe/bios.yaml": "{}\n",
        "experiment/dmoe/qwen2_5_1_5b.yaml": "{}\n",
    }
    write(tmp_path, files)
    found = find_fault(tmp_path, "train", [given])
    key = given.partition("=")[0]
    assert found == f"{key} has been renamed; give {instead} instead of {given}"
    assert new_settings(key, given.removeprefix(f"{key}=")) == instead.split()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("model.rank=4", "hypernet.rank=4"),
        ("model.backbone.name=x", "backbone.name=x"),
        ("model=qwen2_5_1_5b", "backbone=qwen2_5_1_5b"),
        ("model=llama2_7b", "backbone=llama2_7b hypernet=paper_7b"),
        ("model.cache_frozen=true", "cache_frozen=true"),
        ("experiment=bios", "experiment=genpoe/bios"),
    ],
)
def test_the_keys_of_the_last_release_are_named_with_todays(old: str, new: str) -> None:
    key = old if old.startswith("experiment") else old.partition("=")[0]
    fault = find_fault(CONF, "train_hypernet", [old])
    assert fault == f"{key.partition('=')[0]} has been renamed; give {new} instead of {old}"


def test_the_real_table_leaves_todays_keys_alone() -> None:
    assert RENAMED
    given = ["hypernet.rank=4", "backbone.name=x", "experiment=genpoe/bios"]
    assert find_fault(CONF, "train_hypernet", given) is None


def test_the_closest_words() -> None:
    known = ["trigger.threshold", "k", "method.k", "passages"]
    assert did_you_mean("threshold", known) == "did you mean trigger.threshold? "
    assert did_you_mean("foo.k", known) == "did you mean k or method.k? "
    assert did_you_mean("zzz", known) == ""


def test_comments_are_read() -> None:
    found = read_comments(FILES["cook.yaml"])
    assert found.header == ["python scripts/cook.py [oven=gas]"]
    assert found.keys == {
        "salt": "kilograms",
        "names": "of the guests, in their order",
        "oven.heat": "degrees; this command's",
    }
    oven = read_comments(FILES["oven/electric.yaml"])
    assert (oven.header, oven.keys) == (["With a plug."], {"heat": "Of the grill."})
    assert oven.order == ["_target_", "heat", "fan"]
    assert read_comments(FILES["dish/cake.yaml"]).is_global


def test_the_page(conf: Path) -> None:
    page = help_page(conf, "cook", "Cook a ``dish``.", compose_command(conf, "cook", []))
    assert page.partition("\nAlso:")[0] == (
        """\
Cook a dish.

  python scripts/cook.py [oven=gas]

Settings:
  salt=0.001     kilograms
  names=[a # b]  of the guests, in their order

Choices (python scripts/cook.py KEY=CHOICE --help shows their settings):
  oven=electric  electric | gas
  sauce=null     red
  dish=???       cake | hot/soup

oven=electric  With a plug.
  oven.heat=180  degrees; this command's
  oven.fan=true

??? stands for a value that must be given.
"""
    )


JOB = """
def main(config, extra):
    print("job", config.salt, config.names, extra, flush=True)
    return {"loss": config.salt}
"""


def test_a_command_runs_sweeps_and_names_its_job(conf: Path, tmp_path: Path) -> None:
    """The function is imported last; Hydra's folders, options and log are as for ``hydra.main``."""
    write(tmp_path, {"job.py": JOB})
    start = "from pathlib import Path; import plumbing.cli.entry as cli; "
    start += f"cli.CONF = Path({str(conf)!r}); "
    call = "cli.command('cook', 'job.main', None, arguments=['x'])"
    done = subprocess.run(
        [
            *(sys.executable, "-c", start + call, "-m", "dish=cake", "salt=1,2", "names=['~/b']"),
            f"hydra.sweep.dir={tmp_path}/runs",
        ],
        cwd=tmp_path,
        env={"PYTHONPATH": f"{Path.cwd()}:{tmp_path}", "HOME": "/home/me"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("job")]
    assert lines == ["job 1 ['/home/me/b'] x", "job 2 ['/home/me/b'] x"]
    assert (tmp_path / "runs" / "1" / "cook.log").is_file()
    assert "name: cook" in (tmp_path / "runs" / "1" / ".hydra" / "hydra.yaml").read_text("utf-8")


def test_a_command_that_composes_stays_initialized(conf: Path) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        compose_command(conf, "cook", [])
        assert find_fault(conf, "cook", ["slat=1"])
        assert GlobalHydra.instance().is_initialized()
        compose("evaluate")


def test_a_fault_beside_groups_from_elsewhere_is_told_by_hydra(conf: Path, tmp_path: Path) -> None:
    write(tmp_path / "more", {"dish/soup.yaml": "warm: true"})
    start = "from pathlib import Path; import plumbing.cli.entry as cli; "
    start += f"cli.CONF = Path({str(conf)!r}); "
    given = [f"hydra.searchpath=[file://{tmp_path / 'more'}]", "dish=soup", "salt=1", "slat=1"]
    done = subprocess.run(
        [sys.executable, "-c", start + "cli.command('cook', 'job.main', None)", *given],
        cwd=tmp_path,
        env={"PYTHONPATH": f"{Path.cwd()}:{tmp_path}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "slat" in done.stderr
    assert "no choice" not in done.stderr
