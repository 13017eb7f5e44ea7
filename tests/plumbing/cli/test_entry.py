"""Errors that a user can mend take one line and exit code 2."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, InstantiationException
from hydra.utils import instantiate
from omegaconf import OmegaConf
from omegaconf.errors import ConfigKeyError

from plumbing.cli import as_folder, check_complete, one_line, run
from plumbing.cli.values import with_quotes
from plumbing.stopwatch import Stopwatch
from plumbing.storage.jsonl import DataError


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As at the start of a command; whatever `run` sets is gone afterwards."""
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    monkeypatch.delenv("GENPOE_SET_HYDRA_FULL_ERROR", raising=False)
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


def fail(error: Exception) -> None:
    raise error


def test_what_the_command_returns_comes_back() -> None:
    assert run(lambda a, b: a + b, 1, b=2) == 3


def test_the_home_folder_is_written_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    given = {"bank": {"dir": "~/bank", "n": None}, "runs": ["~/a", "b~/c", 1], "x": "???"}
    config = OmegaConf.create(given | {"same": "${bank.dir}", "none": None, "all": "${bank}"})
    OmegaConf.set_struct(config, True)
    run(lambda config: None, config)
    assert (config.bank.dir, config.same) == ("/home/me/bank", "/home/me/bank")
    assert config.runs == ["/home/me/a", "b~/c", 1]
    assert (config.bank.n, config.none, config["all"]) == (None, None, config.bank)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (DataError("dev.jsonl:3: bad\n  line"), "error: dev.jsonl:3: bad line"),
        (FileNotFoundError(2, "No such file", "x"), "error: [Errno 2] No such file: 'x'"),
        (
            HydraException("Could not override 'x'.\nKey 'x'"),
            "error: Could not override 'x'. Key 'x'",
        ),
        (ImportError("no datasets"), "error: ImportError: no datasets"),
        (ValueError(), "error: ValueError()"),
    ],
)
def test_one_line_and_exit_code_2(
    error: Exception, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit:
        run(fail, error)
    assert exit.value.code == 2
    assert capsys.readouterr().err == f"{line}\n"


def test_calls_may_nest(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run(lambda: run(fail, ValueError("once")))
    assert capsys.readouterr().err == "error: once\n"


def test_bugs_keep_their_traceback() -> None:
    with pytest.raises(KeyError):
        run(fail, KeyError("x"))


def test_full_traceback_on_demand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(ValueError, match="mine"):
        run(fail, ValueError("mine"))


def test_a_failed_composition_shows_the_reason() -> None:
    for message, start in (("Could not override 'x'.\n", "Could not override 'x'. "), ("", "")):
        with pytest.raises(HydraException) as caught:
            raise HydraException(message) from ConfigKeyError("Key 'x' is not in struct\n  more")
        assert one_line(caught.value) == f"{start}Key 'x' is not in struct"


def test_a_failed_instantiation_shows_its_cause_and_no_deeper() -> None:
    with pytest.raises(InstantiationException) as caught:
        raise_as_hydra_does()
    assert one_line(caught.value) == "dev.jsonl:3: not JSON"


def raise_as_hydra_does() -> None:
    try:
        try:
            raise KeyError("inner")
        except KeyError as error:
            raise DataError("dev.jsonl:3: not JSON") from error
    except DataError as error:
        raise InstantiationException("Error in call to target 'x'") from error


def test_a_bug_in_what_is_built_keeps_its_traceback() -> None:
    with pytest.raises(InstantiationException):
        run(instantiate, {"_target_": "operator.neg", "_args_": ["no number"]})
    with pytest.raises(SystemExit):
        run(instantiate, {"_target_": "math.sqrt", "_args_": [-1]})


def test_overrides_are_one_folders_name() -> None:
    assert as_folder("optim.lr=1e-4,seed=2") == "optim.lr-1e-4+seed-2"
    assert as_folder("data.dir=../x/y,k=2").startswith("data.dir-.._x_y+k-2-")
    assert as_folder("x=a/b") != as_folder("x=a_b")
    long = ",".join(f"key{number}={number}" for number in range(50))
    assert len(as_folder(long)) < 140
    assert as_folder(long) != as_folder(f"{long}1")


@pytest.mark.parametrize(
    "overrides",
    ["a=1,b=2", "+a=[1,2],~b", "a={x:'y z'}", "a=(1)", 'a="é"', "a=$x,b=~/c", "a=x=y,a=x-y"],
)
def test_a_sweeps_folder_can_be_given_back_as_it_is(overrides: str) -> None:
    name = as_folder(overrides)
    assert with_quotes(f"ckpt_path={name}/last.ckpt") == f"ckpt_path={name}/last.ckpt"
    parsed = OverridesParser.create().parse_override(f"ckpt_path={name}/last.ckpt")
    assert not parsed.is_sweep_override()
    assert parsed.value() == f"{name}/last.ckpt"
    assert shlex.quote(name) == name


def test_a_part_that_does_not_take_a_setting_is_an_error_of_one_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The signature shows that it is the user's; a bug inside the part keeps its traceback."""
    target = "plumbing.stopwatch.Stopwatch"
    with pytest.raises(SystemExit):
        run(instantiate, OmegaConf.create({"a": {"_target_": target, "tick": 1}}).a)
    line = capsys.readouterr().err
    assert line == "error: Stopwatch does not take the setting 'tick'; leave a.tick out\n"
    with pytest.raises(InstantiationException):
        run(instantiate, {"_target_": "tests.plumbing.cli.test_entry.with_a_bug", "tick": 1})


def with_a_bug(**settings: int) -> None:
    Stopwatch(**settings)


def test_settings_without_a_value_are_named() -> None:
    check_complete(OmegaConf.create({"a": None}))
    with pytest.raises(ValueError, match=r"expected a value for a\.b, c; give a\.b=…"):
        check_complete(OmegaConf.create({"c": "???", "a": {"b": "???"}}))
