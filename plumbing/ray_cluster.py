"""Ray for as long as a job takes, on a cluster or on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from plumbing.mounts import SettingValueError
from plumbing.signals import signals_kept


@contextmanager
def ray_cluster(workers: int, address: str | None, otherwise: str) -> Iterator[Any]:
    """The package ``ray``, connected to a cluster while the block runs.

    Args:
        workers: How many processors Ray gets if it is started on this machine.
        address: The address of the cluster. With None it is the cluster that this process is
            connected to, which is left running. If there is none, Ray is started on this machine
            and ends with the block.
        otherwise: The engine that works without Ray. The error names it.

    Raises:
        ValueError: If Ray is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise SettingValueError(
            "engine",
            "engine=ray needs the package ray",
            f"install it with `pip install -e '.[ray]'`, or set {{}}={otherwise}",
        ) from error
    if ray.is_initialized():
        yield ray
        return
    here: dict[str, Any] = {"num_cpus": workers, "include_dashboard": False}
    with signals_kept():
        ray.init(log_to_driver=False, **({"address": address} if address else here))
    try:
        yield ray
    finally:
        with signals_kept():
            ray.shutdown()
