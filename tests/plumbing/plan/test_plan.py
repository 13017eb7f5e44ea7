"""The arithmetic of plans, beside what PyTorch really holds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from plumbing.mounts import SettingValueError
from plumbing.plan import (
    Machine,
    Memory,
    PeakMemory,
    Plan,
    PlanError,
    PlanSettings,
    bytes_of,
    check_plan,
    trained_memory,
)
from plumbing.plan.machine import GIB, available_memory
from plumbing.plan.plan import duration, gib


def two_layers(device: str) -> nn.Sequential:
    with torch.device(device):
        return nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 5))


def step(model: nn.Module, device: str) -> int:
    with PeakMemory() as memory:
        model(torch.ones(7, 10, device=device)).sum().backward()
    return memory.peak


def test_the_peak_of_a_step_is_that_of_the_tensors_in_it() -> None:
    model = two_layers("cpu")
    parameters = 4 * (10 * 20 + 20 + 20 * 5 + 5)
    kept = 4 * 7 * (10 + 20)  # the input and what the ReLU made
    peak = step(model, "cpu")
    assert peak >= parameters + 4 * 7 * 10  # at the end: the gradients, and the input
    assert peak <= parameters + kept + 4 * (7 * (20 + 20 + 5) + 1)
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert bytes_of(gradients) == parameters


def test_the_meta_device_gives_the_same_number() -> None:
    assert step(two_layers("meta"), "meta") == step(two_layers("cpu"), "cpu")


def test_tensors_that_are_gone_do_not_count_and_those_from_outside_never_do() -> None:
    outside = torch.ones(1000)
    with PeakMemory() as memory:
        for _ in range(5):
            kept = outside.view(10, 100) + 1
    assert memory.peak == 2 * 4000  # one that is about to go, and the next one
    assert memory.now == bytes_of([kept]) == 4000


def test_tied_weights_count_once() -> None:
    weight = torch.ones(3, 4)
    assert bytes_of([weight, weight.T, weight[1:], torch.ones(2)]) == 4 * 12 + 4 * 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_training_holds_what_is_said(dtype: torch.dtype) -> None:
    model = two_layers("cpu").to(dtype)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(7, 10, dtype=dtype)).sum().backward()
    optimizer.step()
    numbers = sum(p.numel() for p in model.parameters())
    planned = trained_memory(numbers, "32-true" if dtype == torch.float32 else "bf16-true")
    assert planned.trained == bytes_of(model.parameters())
    assert planned.gradients == bytes_of(p.grad for p in model.parameters() if p.grad is not None)
    means = [t for s in optimizer.state.values() for name, t in s.items() if name != "step"]
    assert planned.optimiser == bytes_of(means)
    assert planned.total == 4 * planned.trained


def test_processes_exchange_gradients_in_buckets_of_their_size() -> None:
    alone, two = (trained_memory(10, None, processes) for processes in (1, 2))
    assert (alone.exchange, two.exchange) == (0, 40)


def test_mixed_precision_has_a_copy_of_the_weights() -> None:
    assert trained_memory(10, "bf16-mixed").total == 16 * 10 + 2 * 10
    with pytest.raises(ValueError, match="a plan knows the precisions"):
        trained_memory(10, "transformer-engine")


def machine(memory_gib: float = 1.0, **settings: Any) -> Machine:
    return Machine("cpu", 1, int(memory_gib * GIB), 0, PlanSettings(**settings), here=True)


def plan(working: int = 0, **changes: Any) -> Plan:
    made: dict[str, Any] = {
        "frozen": 1000,
        "trained": 10,
        "memory": Memory(working=working),
        "machine": machine(),
        "disk": {"checkpoints": 100},
        "disk_free": 1000,
        "folder": "out",
    }
    return Plan(**{**made, **changes})


def test_what_fits_is_not_refused() -> None:
    check_plan(plan(), [{"a": 1}], lambda _: pytest.fail("nothing needs a change"))


def test_the_first_change_that_fits_is_named() -> None:
    sizes = {8: 3 * GIB, 4: GIB + 1, 2: GIB // 2, 1: 1}

    def planned(change: dict[str, object]) -> Plan | None:
        return None if change["n"] == 8 else plan(sizes[int(str(change["n"]))])

    with pytest.raises(PlanError, match=r"needs 5\.0 GiB of memory and has 1\.0 GiB.*set n=2, wh"):
        check_plan(plan(5 * GIB), [{"n": n} for n in sizes], planned)


def test_if_nothing_helps_that_is_said() -> None:
    with pytest.raises(PlanError, match=r"out needs 2\.0 GiB of disk .* no setting that was tried"):
        check_plan(plan(disk={"checkpoints": 2 * GIB}), [{"n": 1}], lambda _: plan(9 * GIB))


def test_a_plan_says_all_of_it() -> None:
    said = "\n".join(replace(plan(GIB), steps=1200, seconds=7200.0, notes=["A note."]).lines())
    for words in ("1,000", "1.0 GiB of 1.0 GiB", "1,200", "about 2.0 hours", "A note."):
        assert words in said
    assert "not known" in "\n".join(plan().lines())


def test_the_numbers_of_a_plan() -> None:
    numbers = plan(7).metrics()
    assert numbers["plan/memory/working"] == numbers["plan/memory"] == 7
    assert numbers["plan/disk/checkpoints"] == 100
    assert "plan/steps" not in numbers
    assert replace(plan(), steps=3).metrics()["plan/steps"] == 3


def trainer(**settings: Any) -> Any:
    return OmegaConf.create({"accelerator": "cpu", "devices": 1, **settings})


def test_processes_share_the_memory_of_a_machine() -> None:
    one, four = (Machine.of(trainer(devices=devices), PlanSettings()) for devices in (1, "0,1,2,3"))
    assert (one.processes, four.processes) == (1, 4)
    assert four.memory == pytest.approx(one.memory / 4, rel=0.2)
    assert 0 < one.memory <= available_memory() * 1.2
    assert Machine.of(trainer(devices=2, num_nodes=3), PlanSettings()).processes == 6


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU whose memory is known")
def test_another_machines_gpus_need_their_memory() -> None:
    with pytest.raises(SettingValueError, match=r"set plan\.memory_gib to that of one of the GPUs"):
        Machine.of(trainer(accelerator="gpu"), PlanSettings())
    made = Machine.of(trainer(accelerator="gpu", devices=8), PlanSettings(memory_gib=48))
    assert (made.kind, made.processes, made.memory, made.here) == ("gpu", 8, 48 * GIB, False)


@pytest.mark.parametrize("wrong", [{"memory_gib": 0.0}, {"disk_gib": -1.0}, {"steps": -1}])
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingValueError, match=next(iter(wrong))):
        PlanSettings(**wrong)


def test_units_are_those_that_suit() -> None:
    assert (gib(3 * GIB), gib(5 * 2**20)) == ("3.0 GiB", "5 MiB")
    assert [duration(s) for s in (5, 600, 36000, 864000)] == [
        *("5.0 seconds", "10.0 minutes"),
        *("10.0 hours", "10.0 days"),
    ]


def test_the_disk_of_a_folder_that_is_not_there_yet(tmp_path: Any) -> None:
    assert machine().disk_free(tmp_path / "a" / "b") > 0
    assert machine(disk_gib=2.0).disk_free(tmp_path) == 2 * GIB
    assert machine().same_disk(tmp_path / "a", tmp_path / "b")
