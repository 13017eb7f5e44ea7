"""Every command of the README and the documentation composes, and runs at small size."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tests.helpers.documented import (
    DOCS,
    PAGES,
    RESULTS,
    ROOT,
    Command,
    commands,
    is_listed,
    not_run,
)
from tests.helpers.small_world import World, composed
from tests.helpers.tiny import make_backbone, save_backbone

COMMANDS = commands(PAGES)
LISTED = not_run()
SCRIPTS = [command for command in COMMANDS if command.script]
HYDRA = [command for command in SCRIPTS if command.script != "bank"]
RUN = [c for c in SCRIPTS if not any(is_listed(c, entry) for entry in LISTED)]


@pytest.fixture(autouse=True)
def at_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a reader starts commands, who has the examples of the documentation on the path."""
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(str(DOCS / "examples"))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    root = tmp_path_factory.mktemp("world")
    backbone = make_backbone(max_position_embeddings=4096)
    return World(root, save_backbone(backbone, root / "backbone"))


def test_there_are_commands() -> None:
    assert len(COMMANDS) > 50
    assert len(RUN) > 30


@pytest.mark.slow
@pytest.mark.parametrize("command", HYDRA, ids=str)
def test_commands_compose(command: Command) -> None:
    config = composed(command.script, [*command.overrides, "paths.output_dir=out"])
    assert config.task_name == command.script


@pytest.mark.slow
@pytest.mark.parametrize("command", commands(RESULTS), ids=str)
def test_commands_of_results_compose(command: Command) -> None:
    if "…" in str(command) or "NAME" in str(command) or not command.script:
        pytest.skip("an abridged command")
    composed(command.script, [*command.overrides, "paths.output_dir=out"])


@pytest.mark.parametrize("command", [c for c in COMMANDS if not c.script], ids=str)
def test_make_has_the_target(command: Command) -> None:
    targets = re.findall(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    named = [word for word in command.words[1:] if "=" not in word]
    assert set(named) <= set(" ".join(targets).split())


@pytest.mark.parametrize("command", [c for c in COMMANDS if not c.script], ids=str)
def test_make_commands_are_listed(command: Command) -> None:
    target = next((word for word in command.words[1:] if "=" not in word), "install")
    assert f"make {target}" in LISTED


@pytest.mark.parametrize("entry", LISTED)
def test_the_list_names_commands_that_there_are(entry: str) -> None:
    inline = re.findall(r"`(make [^`]+)`", "\n".join(p.read_text("utf-8") for p in PAGES[1:]))
    made = [Command(Path(), tuple(found.split())) for found in inline]
    assert any(is_listed(command, entry) for command in [*COMMANDS, *made])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The dirpath has changed:UserWarning")  # a resumed run's
@pytest.mark.parametrize("command", RUN, ids=str)
def test_commands_run(command: Command, world: World) -> None:
    if command.script == "bank" and "import-peft" in command.words:
        words = ["import-peft", str(world.bank_without), *command.overrides[2:]]
        command = Command(command.page, ("python", "scripts/bank.py", *words))
    output = world.run(command)
    assert any(output.iterdir())
    assert (output / "metrics.json").is_file() or command.script in ("train_warmup", "mean_study")


def test_examples_are_no_modules_of_others() -> None:
    names = {path.stem for path in (DOCS / "examples").glob("*.py")}
    assert not names & set(sys.stdlib_module_names)
