"""What an engine must know of a job, and what a job must know of an engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol


class Worker(Protocol):
    """Does pieces of a job. Each process of an engine has one.

    Attributes:
        rounding: What decides the last digits of its results: number format, device, batch.
    """

    @property
    def rounding(self) -> str:
        """What decides the last digits of its results."""
        ...

    def work(self, piece: Any) -> Any:
        """Do a piece, and return what `Job.store` takes."""
        ...


class Job(Protocol):
    """Work in numbered pieces. A job can be sent to other processes on this machine."""

    @property
    def doing(self) -> str:
        """What is done, for the bar and the log, as in "Encoding shards"."""
        ...

    @property
    def pieces(self) -> int:
        """How many pieces there are, those that are done already among them."""
        ...

    def piece(self, number: int) -> Any:
        """What a worker gets for a piece; it may be sent to another machine."""
        ...

    def load(self, device: str | None = None) -> Worker:
        """A worker for the calling process, on a device; None: where the job's settings say."""
        ...

    def loader(self) -> Callable[[], Worker]:
        """Makes a worker on another machine."""
        ...

    def store(self, number: int, result: Any) -> None:
        """Store the result of a piece, so that it survives any later crash."""
        ...


class Engine(Protocol):
    """Has pieces done, in this process, on several devices, or on a cluster."""

    def run(self, job: Job, numbers: Sequence[int]) -> None:
        """Have some pieces done, and each one stored as soon as it is done."""
        ...


def check_rounding(worker: str, planned: str) -> None:
    """Check that a worker rounds its results in the same way as the process that began the job.

    Raises:
        ValueError: If the worker's results would differ in their last digits.
    """
    if worker != planned:
        raise ValueError(
            f"expected workers that encode as this process ({planned}: number format, device, "
            f"batch), got one of {worker}; start from a machine with the workers' kind of device, "
            "or set the device and the dtype of the model to what both have"
        )
