"""The image and the compose file, read as text: no daemon is needed, and none builds them here."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

yaml = pytest.importorskip("yaml")  # OmegaConf brings it; it has no types

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "Dockerfile").read_text("utf-8")
INSTRUCTIONS = [
    (line.split(maxsplit=1)[0], line.split(maxsplit=1)[1])
    for line in re.sub(
        r"\\\n\s*", " ", re.sub(r"^#.*\n", "", TEXT, flags=re.MULTILINE)
    ).splitlines()
    if line.strip()
]
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text("utf-8"))
KNOWN = set(
    "FROM RUN ENV WORKDIR COPY USER EXPOSE VOLUME STOPSIGNAL HEALTHCHECK ENTRYPOINT CMD".split()
)


def values(name: str) -> list[str]:
    """What follows an instruction, each time that it occurs."""
    return [value for instruction, value in INSTRUCTIONS if instruction == name]


def test_every_instruction_is_one() -> None:
    assert {name for name, _ in INSTRUCTIONS} <= KNOWN
    assert INSTRUCTIONS[0][0] == "FROM"


def test_base_images_are_pinned_to_a_release() -> None:
    for image in values("FROM"):
        assert re.match(r"[\w/.-]+:\d+\.\d+\.\d+-", image), image
        assert "latest" not in image
    assert len({image.split()[0] for image in values("FROM")}) == 1


def test_packages_come_from_the_lock_with_their_hashes() -> None:
    installs = [run for run in values("RUN") if "pip install" in run]
    files = [word for run in installs for word in shlex.split(run) if word.endswith(".txt")]
    assert files == [f"requirements/{name}.txt" for name in ("lock", "torch", "weights")]
    for run in installs:
        assert "--no-deps" in run
        assert ("--require-hashes" in run) == ("torch.txt" not in run)  # its wheel differs
    assert re.fullmatch(r"torch==[\d.]+", (ROOT / files[1]).read_text("utf-8").splitlines()[-1])


def test_what_is_copied_is_there() -> None:
    for copied in values("COPY"):
        *sources, _ = [word for word in copied.split() if not word.startswith("--")]
        if not copied.startswith("--from"):
            assert all((ROOT / source).exists() for source in sources)
    ignored = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    for needed in ("conf", "scripts", "plumbing", "requirements", "pyproject.toml"):
        assert (ROOT / needed).exists()
        assert needed not in ignored
    for secret_or_large in (".git", ".venv", "logs", "served"):
        assert secret_or_large in ignored


def test_nobody_runs_it_as_root_and_it_says_how_it_is() -> None:
    assert values("USER") == ["10001"]
    assert INSTRUCTIONS.index(("USER", "10001")) > max(
        index for index, (name, _) in enumerate(INSTRUCTIONS) if name in ("COPY", "RUN")
    )
    (check,) = values("HEALTHCHECK")
    command = json.loads(check.partition("CMD ")[2])
    assert command[:2] == ["python", "-c"]
    assert "/health" in command[2]
    compile(command[2], "healthcheck", "exec")


def test_the_command_listens_to_all_and_holds_no_key() -> None:
    (entry,), (command,) = values("ENTRYPOINT"), values("CMD")
    words = json.loads(entry) + json.loads(command)
    assert words[:2] == ["python", "scripts/serve.py"]
    assert {"host=0.0.0.0", "port=8000"} <= set(words)
    assert not re.search(r"api_key|API_KEY=", TEXT)


def test_compose_publishes_to_this_machine_alone_and_wants_a_key() -> None:
    service = COMPOSE["services"]["genpoe"]
    assert service["ports"] == ["127.0.0.1:8000:8000"]
    assert service["environment"]["GENPOE_API_KEY"].startswith("${GENPOE_API_KEY:?")
    assert "./served:/data" in service["volumes"]
    assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
    assert all("=" in word for word in service["command"])
    named = [each.partition(":")[0] for each in service["volumes"] if not each.startswith(".")]
    assert set(named) == set(COMPOSE["volumes"])


@pytest.mark.skipif(
    not (ROOT / "conf" / "serve.yaml").is_file(), reason="the server has not come in yet"
)
def test_the_servers_settings_are_there() -> None:
    config = yaml.safe_load((ROOT / "conf" / "serve.yaml").read_text("utf-8"))
    assert {"host", "port", "passages_dir", "ckpt_path"} <= config.keys()
