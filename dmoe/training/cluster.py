"""Training experts on a cluster that Ray runs, or on this machine.

Groups are sent to the workers, and the trained experts come back. So the machines need no shared
disk, and only this process writes to the bank. If a worker's machine fails, the worker is started
again and trains its group again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from backbone.final_ffn import FinalFFN
from backbone.model import Backbone
from dmoe.bank import BankError
from dmoe.experts.expert import ExpertSpec
from dmoe.experts.recipe import Recipe
from dmoe.training.grouped import GroupedTrainer, Limits, TrainedGroup
from dmoe.training.groups import Group
from dmoe.training.instances import Encoded
from plumbing.mounts import SettingValueError
from plumbing.ray_cluster import ray_cluster
from plumbing.settings import check_positive, check_types


@dataclass(frozen=True)
class Cluster:
    """The processes that train.

    Attributes:
        workers: How many worker processes there are.
        gpus_per_worker: How many GPUs each of them has. It may be a part of one.
        address: The cluster's address. None means the cluster that this process is connected to.
            If there is none, a new one is started on this machine, and ends with the training.

    Raises:
        ValueError: If a setting is mistyped or out of range.
    """

    workers: int = 1
    gpus_per_worker: float = 0
    address: str | None = None

    def __post_init__(self) -> None:
        check_types(self)
        check_positive(self, "workers")
        if not self.gpus_per_worker >= 0:
            raise SettingValueError(
                "gpus_per_worker",
                f"gpus_per_worker must not be negative, got {self.gpus_per_worker}",
            )


def train_on_cluster(
    groups: Iterable[Group],
    make_backbone: Callable[[], Backbone],
    fingerprint: str,
    spec: ExpertSpec,
    recipe: Recipe,
    limits: Limits,
    cluster: Cluster,
    others: Mapping[str, Sequence[Encoded]] | None = None,
) -> Iterator[tuple[Group, TrainedGroup]]:
    """Train groups on workers of a cluster.

    Args:
        groups: The groups. At most two for each worker are in memory.
        make_backbone: Makes the backbone in each worker's process.
        fingerprint: The fingerprint that the backbone must have.
        spec: The experts' settings.
        recipe: The training's settings.
        limits: The limits on memory.
        cluster: The processes that train.
        others: As in `GroupedTrainer`.

    Yields:
        Each group with its experts, as soon as it is done.

    Raises:
        ValueError: If Ray is not installed.
        BankError: If a worker's backbone has another fingerprint.
    """
    gpus = cluster.gpus_per_worker
    with ray_cluster(cluster.workers, cluster.address, otherwise="lightning") as ray:
        actor = ray.remote(num_cpus=1, num_gpus=gpus, max_restarts=-1, max_task_retries=3)(_Worker)
        # A worker that the cluster has no room for would keep its groups waiting for ever.
        there = ray.cluster_resources()
        room = there.get("CPU", 1)
        if gpus:
            room = min(room, there.get("GPU", 0) / gpus)
        count = max(1, min(cluster.workers, int(room)))
        each = [
            actor.remote(make_backbone, fingerprint, spec, recipe, limits, others)
            for _ in range(count)
        ]
        yield from _train(each, groups)


def _train(workers: list[Any], groups: Iterable[Group]) -> Iterator[tuple[Group, TrainedGroup]]:
    """Keep every worker busy, with one group waiting for each."""
    import ray
    from ray.util import ActorPool

    pool = ActorPool(workers)
    waiting: dict[int, Group] = {}

    def next_done() -> tuple[Group, TrainedGroup]:
        try:
            number, trained = pool.get_next_unordered()
        except ray.exceptions.RayTaskError as error:
            cause = error.cause
            raise cause if isinstance(cause, ValueError) else error from None
        return waiting.pop(number), trained

    for number, group in enumerate(groups):
        waiting[number] = group
        pool.submit(lambda worker, task: worker.train.remote(*task), (number, group))
        if len(waiting) >= 2 * len(workers):
            yield next_done()
    while waiting:
        yield next_done()


class _Worker:
    """The trainer that runs in one of Ray's worker processes."""

    def __init__(
        self,
        make_backbone: Callable[[], Backbone],
        fingerprint: str,
        spec: ExpertSpec,
        recipe: Recipe,
        limits: Limits,
        others: Mapping[str, Sequence[Encoded]] | None,
    ) -> None:
        self._settings = (spec, recipe, limits, others)
        self._make, self._fingerprint = make_backbone, fingerprint
        self._trainer: GroupedTrainer | None = None

    def train(self, number: int, group: Group) -> tuple[int, TrainedGroup]:
        # The backbone is made here and not in the constructor, because Ray gives no reason when
        # an actor's constructor fails.
        if self._trainer is None:
            backbone = self._make()
            if backbone.fingerprint != self._fingerprint:
                raise BankError(
                    f"a worker's {backbone.name} is another model "
                    f"({backbone.fingerprint[:12]}, expected {self._fingerprint[:12]}); give all "
                    "machines the same one, by its revision"
                )
            self._trainer = GroupedTrainer(FinalFFN(backbone), *self._settings)
        ids = [passage.id for passage in group.passages]
        return number, self._trainer.train(ids, group.instances)
