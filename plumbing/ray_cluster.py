"""Ray for the length of a job: a cluster, or this machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from plumbing.signals import signals_kept


@contextmanager
def ray_cluster(workers: int, address: str | None, otherwise: str) -> Iterator[Any]:
    """The package ``ray``, connected to a cluster while the block runs.

    Args:
        workers: Processors of a Ray that is started on this machine.
        address: Of the cluster; None: the one that this process is connected to, which is left
            running, else a new one on this machine that ends with the block.
        otherwise: The engine that works without Ray, for the message.

    Raises:
        ValueError: If Ray is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise ValueError(
            "engine=ray needs the package ray; install it with `pip install -e '.[ray]'`, or set "
            f"engine={otherwise}"
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
