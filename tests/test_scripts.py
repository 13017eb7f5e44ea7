"""Every command answers ``--help`` and a mistyped setting at once, before it imports torch."""

from __future__ import annotations

import ast
import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dmoe.commands.bank import bank_command
from plumbing.cli.comments import read_comments

ROOT = Path(__file__).parents[1]
SCRIPTS = ROOT / "scripts"
COMMANDS = sorted(path.stem for path in SCRIPTS.glob("*.py"))
CONFIGURED = sorted(path.stem for path in (ROOT / "conf").glob("*.yaml"))

# All calls in one process, which starts once; whatever one of them imports would stay.
DRIVER = """
import contextlib, io, json, os, runpy, sys
HEAVY = ("torch", "lightning", "transformers", "numpy", "pyserini", "matplotlib", "dmoe", "genpoe")
results = {}
for name, *arguments in json.loads(sys.argv[1]):
    sys.argv = [f"scripts/{name}.py", *arguments]
    os.environ.pop("HYDRA_FULL_ERROR", None)
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            runpy.run_path(sys.argv[0], run_name="__main__")
        except SystemExit as end:
            code = end.code
    heavy = [each for each in HEAVY if each in sys.modules]
    key = " ".join([name, *arguments])
    results[key] = {"out": out.getvalue(), "err": err.getvalue(), "code": code, "heavy": heavy}
print(json.dumps(results))
"""
CALLS = [
    *([name, "--help"] for name in COMMANDS),
    *([name, "unkown_key=1"] for name in CONFIGURED),
    *(["evaluate", "method=dmoe", "-h"], ["evaluate", "k=1,2", "--help"]),
    *(["evaluate", given] for given in ("method=dmeo", "k", "k=[1", "--foo", "method=dmoe")),
    *(["build_index"], ["evaluate", "passage=gold", "--help"], ["get_backbone", "now"]),
    # The bank's are last, since they import dmoe, whose parts import torch when used.
    *(["bank", "merge", "--help"], ["bank", "foo"], ["bank", "merge", "DIR"]),
    *(["bank"], ["bank", "info", "DIR", "--foo"]),
]
Answer = dict[str, Any]

# Seconds of processor time, so that other work on the machine makes no difference. A page of help
# takes 0.2 to 0.45 s and an error 0.6 s on the machine of 2026, so one a third as fast passes.
HELP_SECONDS = 2.0
ERROR_SECONDS = 3.0


def environment() -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if "HYDRA_FULL_ERROR" not in name}
    return {**own, "PYTHONPATH": str(ROOT)}


@pytest.fixture(scope="module")
def answers() -> dict[str, Answer]:
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, json.dumps(CALLS)],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Answer] = json.loads(done.stdout)
    return found


def error(answer: Answer) -> str:
    assert answer["code"] == 2
    assert answer["heavy"] == []
    (line,) = answer["err"].splitlines()
    assert line.startswith("error: ")
    return str(line).removeprefix("error: ")


@pytest.mark.parametrize("name", COMMANDS)
def test_help_says_what_the_command_does_and_imports_nothing_heavy(
    name: str, answers: dict[str, Answer]
) -> None:
    answer = answers[f"{name} --help"]
    assert (answer["code"], answer["err"], answer["heavy"]) == (0, "", [])
    about = ast.get_docstring(ast.parse((SCRIPTS / f"{name}.py").read_text(encoding="utf-8")))
    assert about is not None
    assert answer["out"].startswith(about.splitlines()[0])
    assert max(map(len, answer["out"].splitlines())) <= 100


@pytest.mark.parametrize("name", CONFIGURED)
def test_help_lists_the_commands_own_settings(name: str, answers: dict[str, Answer]) -> None:
    page = answers[f"{name} --help"]["out"]
    own = read_comments((ROOT / "conf" / f"{name}.yaml").read_text(encoding="utf-8"))
    shown = [line.split("=")[0].strip() for line in page.splitlines()]
    for key in own.order:
        section = any(other.startswith(f"{key}.") for other in own.order)
        hidden = key.split(".")[0] in ("defaults", "hydra", "task_name") or "._" in key
        assert section or hidden or key in shown or key == "batching.seed", key


@pytest.mark.parametrize("name", CONFIGURED)
def test_an_unknown_key_is_named(name: str, answers: dict[str, Answer]) -> None:
    line = error(answers[f"{name} unkown_key=1"])
    assert line.startswith(f"scripts/{name}.py has no setting 'unkown_key'; ")
    assert line.endswith(f"python scripts/{name}.py --help lists all settings")


def test_help_shows_the_settings_of_what_is_chosen(answers: dict[str, Answer]) -> None:
    page = answers["evaluate method=dmoe -h"]["out"]
    lines = page.splitlines()
    assert "  bank:" not in page
    assert any(line.startswith("  k=3 ") and "experts that act at a time" in line for line in lines)
    bank = "  bank.dir=???  folder of the bank that scripts/build_experts.py made"
    assert bank in lines
    assert "  trigger.threshold=2.0  the threshold tau, nats (DMoE sec. 4.3)" in lines
    assert "  reranker=none                    bge_gemma | bge_m3 | minilm | none" in lines
    titles = (
        "method=dmoe  Experts of",
        "trigger=uncertainty  Experts",
        "backbone=smollm2_135m  Smol",
    )
    assert sorted(titles, key=page.index) == list(titles)
    assert "_target_" not in page
    assert "??? stands for a value that must be given." in lines
    assert answers["evaluate k=1,2 --help"]["code"] == 0


@pytest.mark.parametrize(
    ("call", "line"),
    [
        ("evaluate method=dmeo", "method has no choice 'dmeo'; did you mean dmoe? there are"),
        ("evaluate k", "expected KEY=VALUE, got 'k'; give k=…"),
        ("evaluate k=[1", "cannot read the value of k, got '[1'"),
        ("evaluate --foo", "scripts/evaluate.py has no option --foo; settings are given as KEY="),
        ("evaluate method=dmoe", "expected a value for bank.dir, router.corpus.path, router.ret"),
        ("build_index", "expected a choice for retriever: bm25, dense, dpr, hybrid, sgpt;"),
        (
            "evaluate passage=gold --help",
            "scripts/evaluate.py has no setting 'passage'; did you mean passages?",
        ),
        ("get_backbone now", "scripts/get_backbone.py takes no settings, got now"),
    ],
)
def test_errors_at_the_door(call: str, line: str, answers: dict[str, Answer]) -> None:
    assert error(answers[call]).startswith(line)


def test_a_command_of_the_bank_has_its_page_without_torch(answers: dict[str, Answer]) -> None:
    answer = answers["bank merge --help"]
    assert (answer["code"], answer["err"], answer["heavy"]) == (0, "", ["dmoe"])
    assert "--on-conflict {error,keep,replace}" in answer["out"]


@pytest.mark.parametrize(
    ("call", "line", "page"),
    [
        ("bank", "the following arguments are required: COMMAND", "bank.py"),
        ("bank foo", "argument COMMAND: invalid choice: 'foo' (choose from ", "bank.py"),
        ("bank merge DIR", "the following arguments are required: SOURCE", "bank.py merge"),
        ("bank info DIR --foo", "unrecognized arguments: --foo", "bank.py"),
    ],
)
def test_a_wrong_command_line_of_the_bank_is_one_line(
    call: str, line: str, page: str, answers: dict[str, Answer]
) -> None:
    answer = answers[call]
    assert (answer["code"], answer["out"], answer["heavy"]) == (2, "", ["dmoe"])
    assert answer["err"].startswith(f"error: {line}")
    assert answer["err"].endswith(f"; python scripts/{page} --help shows how to call it\n")
    assert answer["err"].count("\n") == 1


@pytest.mark.parametrize(
    ("call", "limit", "said"),
    [
        ("evaluate -h", HELP_SECONDS, "max_new_tokens=32"),
        ("bank merge --help", HELP_SECONDS, "--on-conflict {error,keep,replace}"),
        ("train_hypernet unkown_key=1", ERROR_SECONDS, "has no setting 'unkown_key'"),
    ],
)
def test_an_answer_comes_within_seconds_from_any_folder(
    call: str, limit: float, said: str, tmp_path: Path
) -> None:
    name, *arguments = call.split()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / f"{name}.py"), *arguments],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert said in done.stdout
    assert list(tmp_path.iterdir()) == []
    assert seconds <= limit, f"{call} took {seconds:.2f} s of processor time, not {limit} s"


def test_the_banks_page_has_its_commands(
    answers: dict[str, Answer], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        bank_command(["--help"])
    parsed = " ".join(capsys.readouterr().out.split())
    page = answers["bank --help"]["out"].partition("Commands:\n")[2].partition("\n\n")[0]
    for line in page.splitlines():
        assert " ".join(line.split()) in parsed
    assert parsed.partition("options:")[0].endswith(" ".join(page.splitlines()[-1].split()) + " ")
