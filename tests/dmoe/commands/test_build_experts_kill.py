"""A build is killed at any moment and started again: no expert that it reported is lost."""

from __future__ import annotations

import os
import random
import signal
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir

from dmoe.bank import Bank, verify
from dmoe.commands.build_experts import build_experts
from dmoe.training.tally import Tally

ROOT = Path(__file__).parents[3]

pytestmark = [
    pytest.mark.usefixtures("no_sync"),
    pytest.mark.filterwarnings(
        "ignore:`isinstance\\(treespec, LeafSpec\\)` is deprecated:FutureWarning"
    ),
]


@pytest.fixture
def build(model, tmp_path) -> Callable[[Path], Any]:
    def run(bank: Path) -> None:
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            config = compose(
                "build_experts",
                [
                    *(f"backbone.name={model}", "backbone.dtype=float32"),
                    *("data.train_entities=40", "data.dev_entities=2", "limits.group_size=2"),
                    *("data.distractor_entities=0", "recipe.epochs=2", "trainer=cpu"),
                    *(f"bank.dir={bank}", f"paths.output_dir={tmp_path / 'run'}"),
                ],
            )
        config.trainer.default_root_dir = str(tmp_path)
        build_experts(config)

    return run


def in_child(
    build: Callable[[Path], Any], bank: Path, wait: float | None
) -> tuple[set[str], bool, float]:
    """Build in a process that is killed after some seconds, or never.

    Returns:
        The passages whose experts it reported, True if it came to its end, and the seconds.
    """
    read, told = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.close(read)
            torch.set_num_threads(1)  # a pool of threads does not survive a fork
            store = Tally.store

            def telling(self: Tally, bank: Bank, group: Any, trained: Any) -> None:
                store(self, bank, group, trained)
                os.write(told, "".join(f"{p.id}\n" for p in group.passages).encode())

            Tally.store = telling  # type: ignore[method-assign]
            build(bank)
            os._exit(0)
        finally:  # reached only after an error
            traceback.print_exc()
            os._exit(1)
    os.close(told)
    start = time.perf_counter()
    if wait is not None:
        time.sleep(wait)
        os.kill(child, signal.SIGKILL)
    heard = b""
    while some := os.read(read, 4096):
        heard += some
    os.close(read)
    _, status = os.waitpid(child, 0)
    assert status == 0 or os.WIFSIGNALED(status), (
        "the build failed without being killed; see its traceback"
    )
    return set(heard.decode().split()), status == 0, time.perf_counter() - start


def check_kills(build: Callable[[Path], Any], folder: Path, count: int) -> None:
    ids, ended, seconds = in_child(build, folder / "whole", None)
    assert ended
    assert len(ids) == 40
    whole = Bank.open(folder / "whole").get(sorted(ids))
    chance = random.Random(count)
    killed = banks = 0
    while killed < count:
        path, acknowledged, ended = folder / str(banks), set[str](), False
        while not ended:
            told, ended, _ = in_child(build, path, chance.uniform(0.2, 1.2) * seconds)
            killed += not ended
            assert not told & acknowledged  # nothing is built twice
            acknowledged |= told
            if acknowledged:
                assert acknowledged <= set(Bank.open(path))
                assert not verify(path).damaged
        assert set(Bank.open(path)) == ids
        again = Bank.open(path).get(sorted(ids))
        assert all(torch.equal(again[name], tensor) for name, tensor in whole.items())
        banks += 1


@pytest.mark.slow
def test_a_killed_build_goes_on(build, tmp_path):
    check_kills(build, tmp_path, int(os.environ.get("FAULT_ROUNDS", "3")))
