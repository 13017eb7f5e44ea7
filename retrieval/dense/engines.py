"""Engines, which have the shards of a corpus encoded.

``plain`` encodes in this process, ``lightning`` on several devices of this machine with Lightning's
predict loop, and ``ray`` on a cluster. All engines hand out whole shards, so the choice does not
change the vectors on devices of the same kind. They are the same bit for bit if all processes use
the same number of threads; otherwise some processors add numbers in another order.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from plumbing.devices import pick_device
from plumbing.mounts import SettingValueError
from plumbing.progress import progress
from plumbing.quiet import without_advice_on_workers
from plumbing.ray_cluster import ray_cluster
from retrieval.dense.encoding import EncodingJob, Engine, ShardEncoder, check_rounding
from retrieval.dense.shard import store_shard
from retrieval.encoders.encoder import EncoderMaker
from retrieval.passage import Passage

log = logging.getLogger(__name__)

ENGINES = ("plain", "lightning", "ray")


def make_engine(
    name: str, workers: int = 1, device: str = "auto", ray_address: str | None = None
) -> Engine:
    """Create the engine that a configuration names.

    Args:
        name: "plain", "lightning" or "ray".
        workers: The number of processes of "lightning" or "ray"; each has one device.
        device: The devices of "lightning" or "ray": "auto", "cpu" or "cuda". With one process,
            "lightning" also takes the name of one device, such as "cuda:1".
        ray_address: The address of a Ray cluster. If it is None, Ray is started on this machine for
            the time of the encoding.

    Raises:
        ValueError: If the name or the number of workers is impossible, or if one device is named
            where the engine chooses the devices.
    """
    if workers < 1:
        raise SettingValueError("workers", f"workers must be positive, got {workers}")
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
            "encoder.device",
            f"engine={name} with workers={workers} chooses the devices, got {device!r}",
            f"set {{}}={device.partition(':')[0]}",
        )
    if name == "lightning":
        return LightningEngine(workers, device)
    if name == "ray":
        return RayEngine(workers, device, ray_address)
    raise SettingValueError("engine", f"engine must be one of {', '.join(ENGINES)}, got {name!r}")


class PlainEngine:
    """Encodes in this process, one shard after another."""

    def encode(self, job: EncodingJob, numbers: Sequence[int], folder: Path) -> None:
        """Encode shards and store them (`retrieval.dense.encoding.Engine.encode`)."""
        encoder = job.load()
        for number in progress(numbers, "Encoding shards"):
            store_shard(folder, number, encoder.encode(job.passages(number)))
            log.info("encoded shard %d of %d", number + 1, job.shards)


class LightningEngine:
    """Encodes on several devices of this machine with Lightning's predict loop.

    Args:
        devices: The number of devices. If there are several, each has its own process.
        device: "auto" (a GPU if there is one), "cpu", "cuda", or one device, such as "cuda:1".
    """

    def __init__(self, devices: int, device: str = "auto") -> None:
        self._devices, self._device = devices, device

    def encode(self, job: EncodingJob, numbers: Sequence[int], folder: Path) -> None:
        """Encode shards and store them (`retrieval.dense.encoding.Engine.encode`)."""
        import lightning

        from plumbing.training.bar import NamedProgressBar
        from retrieval.dense.encoding_module import EncodingModule

        device = pick_device(self._device)
        trainer = lightning.Trainer(
            accelerator={"cuda": "gpu"}.get(device.type, device.type),
            devices=self._devices if device.index is None else [device.index],
            # Processes are spawned. Lightning's default would run the command line again, and that
            # may belong to another program.
            strategy="auto" if self._devices == 1 else "ddp_spawn",
            logger=False,
            enable_checkpointing=False,
            callbacks=[NamedProgressBar("Encoding shards")],
            enable_model_summary=False,
            use_distributed_sampler=False,  # the module's loader hands out the shards itself
        )
        with without_advice_on_workers():
            trainer.predict(EncodingModule(job, numbers, folder), return_predictions=False)


class RayEngine:
    """Encodes with Ray, on a cluster or on this machine.

    Passages are sent to the workers, and the encoded shards come back, so no shared disk is needed.
    If the machine of a worker fails, the worker is started again and its shard is encoded again.

    Args:
        workers: The number of workers.
        device: "cpu", or "auto" or "cuda", which both give each worker a GPU if the cluster has
            any.
        address: The address of the cluster. If it is None, the cluster that this process is
            connected to is used, or else a new one on this machine, which ends with the encoding.
    """

    def __init__(self, workers: int, device: str = "auto", address: str | None = None) -> None:
        self._workers, self._device, self._address = workers, device, address

    def encode(self, job: EncodingJob, numbers: Sequence[int], folder: Path) -> None:
        """Encode shards and store them (`retrieval.dense.encoding.Engine.encode`)."""
        with ray_cluster(self._workers, self._address, otherwise="plain") as ray:
            self._encode(ray, job, numbers, folder)

    def _encode(self, ray: Any, job: EncodingJob, numbers: Sequence[int], folder: Path) -> None:
        stored = self._store(ray, job, numbers, folder)
        for number in progress(stored, "Encoding shards", len(numbers)):
            log.info("encoded shard %d of %d", number + 1, job.shards)

    def _store(
        self, ray: Any, job: EncodingJob, numbers: Sequence[int], folder: Path
    ) -> Iterator[int]:
        """Have shards encoded; yield the number of each as soon as it is stored."""
        gpus = int(self._device != "cpu" and ray.cluster_resources().get("GPU", 0) > 0)
        actor = ray.remote(num_cpus=1, num_gpus=gpus, max_restarts=-1, max_task_retries=3)(_Worker)
        workers = [
            actor.remote(job.maker, job.storage) for _ in range(min(self._workers, len(numbers)))
        ]
        # A worker gets a shard only once it runs: the cluster may lack room for all workers.
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
                busy[worker.encode.remote(number, job.passages(number))] = worker
            if not isinstance(result, str):
                number, data = result
                store_shard(folder, number, data)
                stored += 1
                yield number
        for worker in workers:
            ray.kill(worker)


class _Worker:
    """The part that runs in a process of Ray's."""

    def __init__(self, maker: EncoderMaker, storage: str) -> None:
        self._encoder = ShardEncoder(maker, storage)

    def start(self) -> str:
        """The encoder's rounding; it also tells that the process runs."""
        return self._encoder.rounding

    def encode(self, number: int, passages: list[Passage]) -> tuple[int, bytes]:
        return number, self._encoder.encode(passages)
