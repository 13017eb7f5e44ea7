"""What a command says at its end, and that the next command can be typed as it stands."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hypothesis import given, settings
from hypothesis import strategies as st

from plumbing.cli import next_command, say_written, type_script
from plumbing.cli.closing import _override
from tests.helpers.documented import ROOT
from tests.helpers.small_world import as_hydra_runs, composed


@pytest.fixture(autouse=True)
def python(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The environment is active, so that its Python is called ``python``."""
    path = tmp_path_factory.mktemp("bin") / "python"
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(path))
    monkeypatch.setenv("PATH", str(path.parent))
    return path


def parsed(line: str) -> tuple[str, list[str]]:
    """A command line's script and its words, after the shell has read it."""
    python, script, *words = shlex.split(line)
    assert python == "python"
    assert (ROOT / script).is_file()
    return Path(script).stem, words


def following(
    overrides: list[str], script: str, settings: dict[str, Any], **options: Any
) -> list[str]:
    """The words of the next command of ``scripts/train_hypernet.py`` with these overrides."""
    config = composed("train_hypernet", [*overrides, "paths.output_dir=out"], with_hydra=True)
    with as_hydra_runs(config):
        line = next_command(config, script, settings, **{"carry": ("data", "backbone")} | options)
    assert line is not None
    name, words = parsed(line)
    assert name == script
    return words


def test_only_what_is_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a.json", "b.md", "c.png"):
        (tmp_path / name).touch()
    (tmp_path / "bank").mkdir()
    written: dict[str | Path, list[str]] = {
        tmp_path: ["a.json", "none.md", "b.md", "c.png"],
        tmp_path / "bank": [],
        tmp_path / "nothing": [],
    }
    say_written(written, ["python x.py", None])
    assert capsys.readouterr().out.splitlines() == [
        f"Wrote a.json, b.md and c.png to {tmp_path}",
        f"Wrote {tmp_path}/bank",
        "Next: python x.py",
    ]


def test_paths_are_written_from_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "a.json").touch()
    say_written({tmp_path / "logs": ["a.json"]})
    assert capsys.readouterr().out == "Wrote a.json to logs\n"


@pytest.mark.parametrize("name", ["LOCAL_RANK", "SLURM_PROCID"])
def test_the_first_process_speaks_alone(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(name, "1")
    say_written({}, ["python x.py"])
    assert capsys.readouterr().out == ""
    monkeypatch.setenv(name, "0")
    say_written({}, ["python x.py"])
    assert capsys.readouterr().out == "Next: python x.py\n"


def test_the_scripts_are_named_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert type_script("quickstart", []) == "python scripts/quickstart.py"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", [str(ROOT / "scripts" / "evaluate.py")])
    assert type_script("report", ["a b"]) == f"python {ROOT}/scripts/report.py 'a b'"


def test_python_is_that_of_the_environment(python: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert type_script("quickstart", []) == f"{python} scripts/quickstart.py"
    monkeypatch.chdir(python.parents[1])
    assert type_script("quickstart", []) == f"{python.parent.name}/python scripts/quickstart.py"


def test_defaults_are_not_repeated() -> None:
    words = following([], "evaluate", {"method": "genpoe", "ckpt_path": Path("x/last.ckpt")})
    assert words == ["method=genpoe", "ckpt_path=x/last.ckpt"]


def test_the_run_is_carried_on() -> None:
    overrides = ["data=squad", "data.dir=my data", "backbone=llama3_2_1b", "paths.cache_dir=/c"]
    words = following(overrides, "evaluate", {"method": "rag"})
    assert sorted(words) == sorted(
        [
            *("method=rag", "data=squad", "data.dir='my data'"),
            *("backbone=llama3_2_1b", "paths.cache_dir=/c"),
        ]
    )
    config = composed("evaluate", [*words, "paths.output_dir=out"])
    assert (config.data.dir, config.data.name) == ("my data", "squad")
    assert config.backbone.device == "auto"  # its own default, not that of training


def test_what_an_experiment_sets_is_carried_too() -> None:
    words = following(["experiment=genpoe/bios"], "evaluate", {"method": "base"})
    assert words == ["method=base", "data.train_entities=2400", "data.train_questions=3"]


def test_added_settings_are_added_again() -> None:
    target = "dmoe.training.warmup.warm_backbone"
    overrides = [f"backbone._target_={target}", "+backbone.adapter=a", "backbone.name=DIR"]
    words = following(overrides, "evaluate", {})
    assert sorted(words) == sorted([f"backbone._target_={target}", *overrides[1:]])
    assert composed("evaluate", words).backbone.adapter == "a"


def test_what_is_given_counts_more_than_what_is_carried() -> None:
    settings = {"data": "local", "data.dir": "there"}
    words = following(["data=squad", "data.dir=here"], "evaluate", settings)
    assert words[:2] == ["data=local", "data.dir=there"]
    assert composed("evaluate", words).data.dir == "there"


def test_configurations_of_ones_own_are_found_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "docs/examples")
    search = "hydra.searchpath=[file://docs/examples/conf]"
    config = composed("train_hypernet", [search, "data=csv", "data.path=t.csv"], with_hydra=True)
    with as_hydra_runs(config):
        line = next_command(config, "evaluate", {"method": "base"}, ["data", "backbone"])
    assert line is not None
    assert line.startswith("PYTHONPATH=docs/examples python scripts/evaluate.py method=base ")
    words = shlex.split(line)[3:]
    assert {"data=csv", "data.path=t.csv"} < set(words)
    assert composed("evaluate", words).data.path == "t.csv"


def test_without_hydra_nobody_has_typed_a_command() -> None:
    assert next_command(composed("evaluate", []), "report", {"runs": ["a"]}) is None


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-1000, 1000)
    | st.floats(allow_nan=False, allow_infinity=False, width=16)
    | st.text("aZ09 _-./\\'\"$,:=[]{}()~#é\t", max_size=12).filter(lambda text: "${" not in text)
    | st.sampled_from(["null", "TRUE", "1e3", "1_0", "-inf", "nan", "0x1", "", " a", "a\\", "'"]),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)


@pytest.fixture(scope="module")
def hydra() -> Iterator[None]:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        yield


@given(values)
@settings(max_examples=15, deadline=None)
def test_hydra_reads_what_was_written(hydra: None, value: Any) -> None:
    [word] = shlex.split(shlex.quote(_override("labels", value)))
    assert compose("report", [word]).labels == value
