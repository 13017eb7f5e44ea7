"""A plan before a long run: what it will take of memory, disk and time, and if that is there.

* `plumbing.plan.peak`: the bytes that a computation makes, also on the meta device.
* `plumbing.plan.memory`: what a device has to hold in training.
* `plumbing.plan.machine`: what a device and a disk have.
* `plumbing.plan.plan`: the plan, how it is said, and what is refused.

Nothing here knows models or data. `genpoe.training.plan` and `dmoe.training.plan` say what is
computed in a step.
"""

from __future__ import annotations

from plumbing.plan.machine import Machine, PlanSettings
from plumbing.plan.memory import Memory, bytes_of, trained_memory
from plumbing.plan.peak import PeakMemory
from plumbing.plan.plan import Change, Plan, PlanError, check_plan, conclude

__all__ = [
    "Change",
    "Machine",
    "Memory",
    "PeakMemory",
    "Plan",
    "PlanError",
    "PlanSettings",
    "bytes_of",
    "check_plan",
    "conclude",
    "trained_memory",
]
