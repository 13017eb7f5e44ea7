"""Engines: who encodes the shards of a corpus.

``plain`` does it in this process, ``lightning`` on several devices of this machine by Lightning's
predict loop, ``ray`` on a cluster. Each hands whole shards out, so the vectors are the same
whichever does it, on devices of the same kind: bit for bit where all run as many threads; else some
processors add up in another order.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from plumbing.devices import pick_device
from plumbing.mounts import SettingValueError
from plumbing.progress import progress
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
    """The engine of a configuration.

    Args:
        name: "plain", "lightning" or "ray".
        workers: Processes of "lightning" and "ray"; one device each.
        device: Of "lightning" and "ray": "auto", "cpu", "cuda", or of one process of "lightning"
            "cuda:1", …
        ray_address: Of a cluster; None: a Ray on this machine, for the time of the encoding.

    Raises:
        ValueError: If the name or the number is impossible, or a device of a number is named where
            the engine chooses them.
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
        """See `retrieval.dense.encoding.Engine`."""
        encoder = job.load()
        for number in progress(numbers, "Encoding shards"):
            store_shard(folder, number, encoder.encode(job.passages(number)))
            log.info("encoded shard %d of %d", number + 1, job.shards)


class LightningEngine:
    """Encodes on several devices of this machine by Lightning's predict loop.

    Args:
        devices: How many; more than one are processes of their own.
        device: "auto" (a GPU if there is one), "cpu", "cuda", or the one device "cuda:1", …
    """

    def __init__(self, devices: int, device: str = "auto") -> None:
        self._devices, self._device = devices, device

    def encode(self, job: EncodingJob, numbers: Sequence[int], folder: Path) -> None:
        """See `retrieval.dense.encoding.Engine`."""
        import lightning

        from plumbing.training.bar import NamedProgressBar
        from retrieval.dense.encoding_module import EncodingModule

        device = pick_device(self._device)
        trainer = lightning.Trainer(
            accelerator={"cuda": "gpu"}.get(device.type, device.type),
            devices=self._devices if device.index is None else [device.index],
            # Spawned, not started anew with the command line, which may not be ours to start.
            strategy="auto" if self._devices == 1 else "ddp_spawn",
            logger=False,
            enable_checkpointing=False,
            callbacks=[NamedProgressBar("Encoding shards")],
            enable_model_summary=False,
            use_distributed_sampler=False,  # the module's own loader hands out the shards
        )
        with warnings.catch_warnings():
            # A shard is read in no time; workers would only copy it.
            warnings.filterwarnings("ignore", ".*does not have many workers.*")
            trainer.predict(EncodingModule(job, numbers, folder), return_predictions=False)


class RayEngine:
    """Encodes on a cluster that Ray runs, or on this machine.

    Passages are sent to the workers and shards come back, so no disk need be shared. A worker whose
    machine fails is started anew, and its shard is encoded again.

    Args:
        workers: How many.
        device: "auto" or "cuda": each worker has a GPU where the cluster has any; or "cpu".
        address: Of the cluster; None: the one that this process is connected to, else a new one on
            this machine that ends with the encoding.
    """

    def __init__(self, workers: int, device: str = "auto", address: str | None = None) -> None:
        self._workers, self._device, self._address = workers, device, address

    def encode(self, job: EncodingJob, numbers: Sequence[int], folder: Path) -> None:
        """See `retrieval.dense.encoding.Engine`."""
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
        # A shard is handed to a worker that runs: the cluster may have no room for all of them.
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
    """What runs in a process of Ray's."""

    def __init__(self, maker: EncoderMaker, storage: str) -> None:
        self._encoder = ShardEncoder(maker, storage)

    def start(self) -> str:
        """The encoder's rounding, once the process runs."""
        return self._encoder.rounding

    def encode(self, number: int, passages: list[Passage]) -> tuple[int, bytes]:
        return number, self._encoder.encode(passages)
