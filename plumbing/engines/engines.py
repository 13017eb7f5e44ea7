"""Engines, which have the pieces of a job done.

``plain`` works in this process, ``lightning`` on several devices of this machine with Lightning's
predict loop, and ``ray`` on a cluster. All engines hand out whole pieces, so the choice does not
change the results on devices of the same kind. They are the same bit for bit if all processes use
the same number of threads; otherwise some processors add numbers in another order.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from plumbing.devices import pick_device
from plumbing.engines.job import Engine, Job, Worker, check_rounding
from plumbing.mounts import SettingValueError
from plumbing.progress import progress
from plumbing.quiet import without_advice_on_workers
from plumbing.ray_cluster import ray_cluster

log = logging.getLogger(__name__)

ENGINES = ("plain", "lightning", "ray")


def make_engine(
    name: str,
    workers: int = 1,
    device: str = "auto",
    ray_address: str | None = None,
    device_setting: str = "encoder.device",
) -> Engine:
    """Create the engine that a configuration names.

    Args:
        name: "plain", "lightning" or "ray".
        workers: The number of processes of "lightning" or "ray"; each has one device.
        device: The devices of "lightning" or "ray": "auto", "cpu" or "cuda". With one process,
            "lightning" also takes the name of one device, such as "cuda:1".
        ray_address: The address of a Ray cluster. If it is None, Ray is started on this machine for
            the time of the job.
        device_setting: The name of the setting that ``device`` came from, for messages.

    Raises:
        ValueError: If the name or the number of workers is impossible, or if one device is named
            where the engine chooses the devices.
    """
    if type(workers) is not int or workers < 1:
        raise SettingValueError("workers", f"workers must be positive, got {workers!r}")
    if name == "plain":
        if workers > 1:
            raise SettingValueError(
                "engine",
                f"the plain engine is one process, got workers={workers}",
                "set {}=lightning or {}=ray",
            )
        return PlainEngine()
    if name in ENGINES and ":" in device and (name == "ray" or workers > 1):
        raise SettingValueError(
            device_setting,
            f"engine={name} with workers={workers} chooses the devices, got {device!r}",
            f"set {{}}={device.partition(':')[0]}",
        )
    if name == "lightning":
        return LightningEngine(workers, device)
    if name == "ray":
        return RayEngine(workers, device, ray_address)
    raise SettingValueError("engine", f"engine must be one of {', '.join(ENGINES)}, got {name!r}")


class PlainEngine:
    """Works in this process, one piece after another."""

    def run(self, job: Job, numbers: Sequence[int]) -> None:
        """Do pieces and store them (`plumbing.engines.job.Engine.run`)."""
        worker = job.load()
        for number in progress(numbers, job.doing):
            job.store(number, worker.work(job.piece(number)))
            log.info("%s: %d of %d", job.doing, number + 1, job.pieces)


class LightningEngine:
    """Works on several devices of this machine with Lightning's predict loop.

    Args:
        devices: The number of devices. If there are several, each has its own process.
        device: "auto" (a GPU if there is one), "cpu", "cuda", or one device, such as "cuda:1".
    """

    def __init__(self, devices: int, device: str = "auto") -> None:
        self._devices, self._device = devices, device

    def run(self, job: Job, numbers: Sequence[int]) -> None:
        """Do pieces and store them (`plumbing.engines.job.Engine.run`)."""
        import lightning

        from plumbing.engines.module import PiecesModule
        from plumbing.training.bar import NamedProgressBar

        device = pick_device(self._device)
        trainer = lightning.Trainer(
            accelerator={"cuda": "gpu"}.get(device.type, device.type),
            devices=self._devices if device.index is None else [device.index],
            # Processes are spawned. Lightning's default would run the command line again, and that
            # may belong to another program.
            strategy="auto" if self._devices == 1 else "ddp_spawn",
            logger=False,
            enable_checkpointing=False,
            callbacks=[NamedProgressBar(job.doing)],
            enable_model_summary=False,
            use_distributed_sampler=False,  # the module's loader hands out the pieces itself
        )
        with without_advice_on_workers():
            trainer.predict(PiecesModule(job, numbers), return_predictions=False)


class RayEngine:
    """Works with Ray, on a cluster or on this machine.

    Pieces are sent to the workers, and the results come back, so no shared disk is needed. If the
    machine of a worker fails, the worker is started again and its piece is done again.

    Args:
        workers: The number of workers.
        device: "cpu", or "auto" or "cuda", which both give each worker a GPU if the cluster has
            any.
        address: The address of the cluster. If it is None, the cluster that this process is
            connected to is used, or else a new one on this machine, which ends with the job.
    """

    def __init__(self, workers: int, device: str = "auto", address: str | None = None) -> None:
        self._workers, self._device, self._address = workers, device, address

    def run(self, job: Job, numbers: Sequence[int]) -> None:
        """Do pieces and store them (`plumbing.engines.job.Engine.run`)."""
        with ray_cluster(self._workers, self._address, otherwise="plain") as ray:
            self._run(ray, job, numbers)

    def _run(self, ray: Any, job: Job, numbers: Sequence[int]) -> None:
        stored = self._store(ray, job, numbers)
        for number in progress(stored, job.doing, len(numbers)):
            log.info("%s: %d of %d", job.doing, number + 1, job.pieces)

    def _store(self, ray: Any, job: Job, numbers: Sequence[int]) -> Iterator[int]:
        """Have pieces done; yield the number of each as soon as it is stored."""
        gpus = int(self._device != "cpu" and ray.cluster_resources().get("GPU", 0) > 0)
        actor = ray.remote(num_cpus=1, num_gpus=gpus, max_restarts=-1, max_task_retries=3)(_Actor)
        workers = [actor.remote(job.loader()) for _ in range(min(self._workers, len(numbers)))]
        # A worker gets a piece only once it runs: the cluster may lack room for all workers.
        busy = {worker.start.remote(): worker for worker in workers}
        left, stored = list(reversed(numbers)), 0
        planned = job.load().rounding
        while stored < len(numbers):
            (done,), _ = ray.wait(list(busy), num_returns=1)
            worker, result = busy.pop(done), ray.get(done)
            if isinstance(result, str):
                check_rounding(result, planned)
            if left:
                number = left.pop()
                busy[worker.work.remote(number, job.piece(number))] = worker
            if not isinstance(result, str):
                number, data = result
                job.store(number, data)
                stored += 1
                yield number
        for worker in workers:
            ray.kill(worker)


class _Actor:
    """The part that runs in a process of Ray's."""

    def __init__(self, loader: Callable[[], Worker]) -> None:
        self._worker = loader()

    def start(self) -> str:
        """The worker's rounding; it also tells that the process runs."""
        return self._worker.rounding

    def work(self, number: int, piece: Any) -> tuple[int, Any]:
        return number, self._worker.work(piece)
