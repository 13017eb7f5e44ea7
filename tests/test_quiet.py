"""Commands end by saying what they wrote and what to type next, and libraries keep quiet."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from dmoe.commands.bank import bank_command
from plumbing.cli import check_complete, type_script
from tests.helpers.documented import DOCS, ROOT, Command
from tests.helpers.small_world import World, composed
from tests.helpers.tiny import make_backbone, save_backbone

pytestmark = pytest.mark.slow

CHATTER = re.compile(
    r"Warning|warning:|GPU available|TPU available|💡|Trainer\.fit|to estimate number of|"
    r"is deprecated|Loading weights|Writing model shards|faiss\.loader|SentenceTransformer|"
    r"LOAD REPORT|Mixed Precision|smaller than the logging interval|does not have many workers"
)
SQUAD = (
    *("data=squad", "data.dir=DIR", "corpus.path=FILE"),
    *("retriever=bm25", "retriever.index_dir=INDEX"),
)
DENSE = ("retriever=dense", "corpus.path=FILE", "retriever.index_dir=INDEX")

# Each command's script, what it is told, and the scripts that it says to type next.
CALLS: list[tuple[str, tuple[str, ...], list[str]]] = [
    ("train_hypernet", ("experiment=genpoe/bios",), ["evaluate"]),
    ("quickstart", (), ["evaluate", "evaluate"]),
    ("evaluate", ("method=rag",), ["report"]),
    ("report", ("runs=[RUN1,RUN2]", "labels=[a,b]"), []),
    ("sequential_edit", ("method=none",), ["sequential_report"]),
    ("sequential_report", ("runs=[STREAM1,STREAM2]", "labels=[a,b]"), []),
    ("export_data", ("data=bios",), ["evaluate"]),
    ("build_index", DENSE, ["evaluate_retrieval"]),
    ("evaluate_retrieval", SQUAD, ["evaluate"]),
    ("train_reranker", SQUAD, ["evaluate_retrieval"]),
    ("augment", ("data=bios", "augmenter=questions", "augmenter.split=dev"), ["build_experts"]),
    (
        "build_experts",
        ("instances.augmentation=AUG/augmentations.jsonl", "bank.dir=BANK"),
        ["build_index", "evaluate"],
    ),
    ("build_experts", ("instances.split=dev", "bank.dir=BANK"), ["evaluate"]),
    (
        "encode_passages",
        ("ckpt_path=READER/checkpoints/last.ckpt", "bank.dir=BANK"),
        ["evaluate"],
    ),
    ("train_sft_lora", ("instances.split=dev",), ["evaluate"]),
    ("train_editor", (), ["evaluate"]),
    ("measure_covariances", (), ["evaluate"]),
    ("train_warmup", ("data=bios",), ["build_experts"]),
    ("mean_study", (), ["train_hypernet"]),
    ("look", ("ckpt_path=READER/checkpoints/last.ckpt",), ["evaluate"]),
    ("twins", ("method=base",), ["report"]),
    (
        "ablation",
        ("ablation=k", "augmenter=questions", "augmenter.split=dev", "data=bios", "k=1"),
        [],
    ),
]

# The sections that a command and the next one must have in common.
SAME = {
    ("train_hypernet", "evaluate"): ("data", "backbone"),
    ("quickstart", "evaluate"): ("data", "backbone"),
    ("build_index", "evaluate_retrieval"): ("retriever", "corpus"),
    ("evaluate_retrieval", "evaluate"): ("data", "retriever", "corpus", "reranker"),
    ("train_reranker", "evaluate_retrieval"): ("data", "retriever", "corpus"),
    ("augment", "build_experts"): ("data", "backbone"),
    ("build_experts", "evaluate"): ("data", "backbone"),
    ("encode_passages", "evaluate"): ("data", "backbone"),
    ("train_sft_lora", "evaluate"): ("data", "backbone"),
    ("train_editor", "evaluate"): ("data", "backbone", "editor"),
    ("measure_covariances", "evaluate"): ("data", "backbone", "editor"),
    ("train_warmup", "build_experts"): ("data",),
    ("mean_study", "train_hypernet"): ("data", "backbone"),
    ("look", "evaluate"): ("data", "backbone"),
}


@pytest.fixture(autouse=True)
def at_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a reader starts commands."""
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    root = tmp_path_factory.mktemp("world")
    backbone = make_backbone(max_position_embeddings=4096)
    return World(root, save_backbone(backbone, root / "backbone"))


def closing(text: str) -> list[str]:
    """The last lines of a command, from what it wrote on."""
    lines: list[str] = []
    for line in reversed(text.splitlines()):
        next_of_another = line.startswith("Next: ") and lines and lines[0].startswith("Wrote ")
        if next_of_another or not line.startswith(("Wrote ", "Next: ")):
            break
        lines.insert(0, line)
    return lines


def section(config: Any, name: str) -> dict[str, Any]:
    """A section as it is written, without the device, which each command chooses for itself."""
    found: Any = OmegaConf.to_container(config[name], resolve=False)
    return {key: value for key, value in found.items() if key != "device"}


def check_written(lines: list[str]) -> None:
    """What is said to have been written is there."""
    assert lines
    for line in lines:
        if found := re.fullmatch(r"Wrote (.+) to (\S+)", line):
            for name in re.split(r", | and ", found[1]):
                assert Path(found[2], name).exists(), line
        elif line.startswith("Wrote "):
            assert Path(line.removeprefix("Wrote ")).exists()


@pytest.mark.parametrize(("script", "overrides", "scripts"), CALLS, ids=lambda each: str(each)[:40])
def test_a_command_ends_with_what_to_type_next(
    script: str,
    overrides: tuple[str, ...],
    scripts: list[str],
    world: World,
    capfd: pytest.CaptureFixture[str],
) -> None:
    output = world.run(Command(DOCS, ("python", f"scripts/{script}.py", *overrides)))
    lines = closing(capfd.readouterr().out)
    check_written(lines)
    following = [shlex.split(line)[1:] for line in lines if line.startswith("Next: ")]
    assert any(f"to {output}" in line for line in lines)
    assert following
    found = []
    for words in following:
        if words[0] == "cat":
            assert Path(words[1]).is_file()
            continue
        found.append(Path(words[1]).stem)
        config = composed(found[-1], [*words[2:], "paths.output_dir=out"])
        check_complete(config)
        for name in SAME.get((script, found[-1]), ()):
            assert section(config, name) == section(world.configs[output], name)
    assert found == scripts


def test_the_next_command_runs(world: World, capfd: pytest.CaptureFixture[str]) -> None:
    world.run(Command(DOCS, ("python", "scripts/train_hypernet.py", "experiment=genpoe/bios")))
    *_, line = closing(capfd.readouterr().out)
    _, *words = shlex.split(line.removeprefix("Next: "))
    output = world.run(Command(DOCS, ("python", *words)))
    assert (output / "metrics.json").is_file()


@pytest.mark.parametrize(
    ("words", "wrote", "following"),
    [
        (["info"], False, "verify"),
        (["list"], False, "info"),
        (["verify"], False, "info"),
        (["compact"], True, "verify"),
    ],
)
def test_the_bank_says_it_on_stderr(
    words: list[str],
    wrote: bool,
    following: str,
    world: World,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bank = world.bank
    capsys.readouterr()
    bank_command([*words, str(bank)])
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert lines == [f"Wrote {bank}"] * wrote + [f"Next: {type_script('bank', [following, bank])}"]
    assert all(line.startswith("{") for line in captured.out.splitlines())


def test_the_bank_names_the_folder_that_it_made(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "exported"
    bank_command(["export", str(world.bank), str(target)])
    lines = capsys.readouterr().err.splitlines()
    assert lines[-2:] == [f"Wrote {target}", f"Next: {type_script('bank', ['verify', target])}"]


@pytest.mark.parametrize(
    ("script", "overrides"),
    [
        ("quickstart", ()),
        ("train_sft_lora", ("instances.split=dev",)),
        ("build_experts", ("instances.split=dev", "bank.dir=BANK")),
        ("build_index", DENSE),
        ("train_reranker", SQUAD),
        ("evaluate", ("method=genpoe", "ckpt_path=CKPT")),
    ],
)
def test_a_process_shows_no_chatter(script: str, overrides: tuple[str, ...], world: World) -> None:
    words, output = world.words(Command(DOCS, ("python", f"scripts/{script}.py", *overrides)))
    done = subprocess.run(
        [sys.executable, f"scripts/{script}.py", *words],
        env=world.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    both = done.stdout + done.stderr
    assert not CHATTER.findall(both), both
    assert any(f"to {output}" in line for line in closing(done.stdout))
    check_written(closing(done.stdout))
