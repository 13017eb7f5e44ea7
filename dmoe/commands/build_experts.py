"""``scripts/build_experts.py``: builds a bank of experts from a composed configuration.

First the bank is opened and checked, or made. Then the experts that it lacks are trained and added.
At the end the bank is packed.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from lightning import Trainer
from omegaconf import DictConfig, OmegaConf

from backbone.final_ffn import FinalFFN
from backbone.loading import training_backbone
from backbone.model import Backbone
from dmoe.bank import Bank, BankError, BankSpec, ExpertLayout
from dmoe.bank.layout import DTYPES
from dmoe.commands.plan_experts import plan_experts
from dmoe.experts.expert import ExpertSpec
from dmoe.experts.recipe import Recipe
from dmoe.training.cluster import Cluster, train_on_cluster
from dmoe.training.grouped import Limits
from dmoe.training.groups import Groups, instances_of_others
from dmoe.training.lessons import (
    Lesson,
    check_formats,
    lessons_from_augmentation,
    lessons_from_questions,
    prompt_of,
)
from dmoe.training.module import ExpertModule, LessonsBar, training_strategy
from dmoe.training.settings import check_trainer, typed_settings
from dmoe.training.tally import Tally
from plumbing.cli import check_complete, next_command, say_written
from plumbing.mounts import SettingValueError, mounted
from plumbing.settings import check_choice, check_limit
from plumbing.stopwatch import Stopwatch
from plumbing.storage.files import write_json
from plumbing.training.setup import fit, make_trainer
from qa.bank.bank import check_folder
from qa.bank.upkeep import pack
from qa.commands.corpus import corpus_passages
from qa.data.dataset import drop_overlap
from retrieval.passage import Passage

log = logging.getLogger(__name__)

ENGINES = ("lightning", "ray")
_CARRIED = ("data", "backbone")  # what an evaluation of the experts has in common with this run
Lessons = Callable[[], Iterable[Lesson]]


@dataclass(frozen=True)
class Job:
    """What is built and how; the fields are the arguments of `ExpertModule`."""

    backbone: Backbone
    bank: Bank
    lessons: Lessons
    formats: list[str]
    spec: ExpertSpec
    recipe: Recipe
    limits: Limits


def build_experts(
    config: DictConfig, lessons: Lessons | None = None, backbone: Backbone | None = None
) -> dict[str, float]:
    """Train the experts that are not in the bank yet, and write metrics.

    The run folder gets ``metrics.json``, and the ids of passages that got no expert, one a line, in
    ``without_instances.jsonl`` and ``diverged.jsonl``.

    Args:
        config: Composed from ``conf/build_experts.yaml``.
        lessons: A function that makes the stream of lessons. None means the one that the
            configuration names.
        backbone: The model. None means the one that the configuration names.

    Returns:
        How many experts were built, skipped and left out, their mean losses in the first and the
        last epoch (nats per label), their mean ``‖ΔW‖``, and the seconds in all and per expert.

    Raises:
        ValueError: If a setting, the data or the bank is at fault.
    """
    _check(config)
    trainer = None if config.engine == "ray" else _trainer(config)
    watch = Stopwatch()
    spec, recipe, limits = typed_settings(config)
    # The data is opened before the model, so that errors in it show at once.
    lessons = lessons or open_lessons(config)
    backbone = backbone or training_backbone(config)
    bank = open_bank(config, backbone, spec, recipe)
    formats = list(config.instances.formats)
    job = Job(backbone, bank, lessons, formats, spec, recipe, limits)
    tally, is_first = _by_ray(config, job) if trainer is None else _by_lightning(trainer, job)
    metrics = tally.metrics(watch.seconds)
    if is_first:
        folder = Path(config.paths.output_dir)
        tally.write_left_out(folder)
        write_json(folder / "metrics.json", metrics)
        if tally.experts:
            pack(bank)
        log.info(
            "%d experts built, %d there already, %d without instances, %d diverged; bank: %s",
            *(tally.experts, tally.skipped, len(tally.without), len(tally.failed), bank.path),
        )
    return metrics


def build_command(config: DictConfig) -> dict[str, float]:
    """Run `build_experts`, and fail if it leaves the passages without any expert.

    It then says what to type next. With ``dry_run=true`` it only plans what would be built.

    Raises:
        PlanError: With ``dry_run=true``, if it cannot fit.
        ValueError: If `build_experts` raises one, or if every expert diverged and none was there
            before. In the second case ``metrics.json`` has been written.
    """
    if config.dry_run:
        _check(config)
        return plan_experts(config, open_lessons(config))
    metrics = build_experts(config)
    if metrics["failed"] and not metrics["experts"] and not metrics["skipped"]:
        raise ValueError(
            f"all {metrics['failed']:.0f} experts diverged, and none of these passages has one in "
            "the bank; lower recipe.lr"
        )
    files = ["metrics.json", "without_instances.jsonl", "diverged.jsonl"]
    say_written({config.paths.output_dir: files, config.bank.dir: []}, _following(config))
    return metrics


def _following(config: DictConfig) -> list[str | None]:
    """The commands to type next: first build the router's index, then evaluate with the bank.

    A bank that was built from a data set's own questions has no surrogates to search: its experts
    are chosen by the passages that are known to answer the questions.
    """
    chosen = config.instances
    settings: dict[str, Any] = {"method": "dmoe", "bank.dir": Path(config.bank.dir)}
    if chosen.augmentation is None:
        settings |= {"router": "oracle", "passages": "gold", "split": chosen.split}
        return [next_command(config, "evaluate", settings, _CARRIED)]
    surrogates = Path(chosen.augmentation).with_name("surrogates.jsonl")
    if not surrogates.exists():
        return [next_command(config, "evaluate", settings | {"router": "oracle"}, _CARRIED)]
    index = surrogates.with_name("index")
    settings |= {"router.corpus.path": surrogates, "router.retriever.index_dir": index}
    evaluating = next_command(config, "evaluate", settings, _CARRIED)
    return [evaluating] if index.exists() else [index_of(config, surrogates, index), evaluating]


def index_of(config: DictConfig, surrogates: Path, index: Path) -> str | None:
    """The command line that builds the index of a router over surrogates."""
    settings = {"retriever": "bm25", "corpus.path": surrogates, "retriever.index_dir": index}
    return next_command(config, "build_index", settings, ())


def _check(config: DictConfig) -> None:
    """Check the settings, as far as that is possible before anything is loaded."""
    check_complete(config)
    check_choice("engine", config.engine, ENGINES)
    with mounted("bank"):
        check_bank(config.bank)
    with mounted("ray"):
        Cluster(**config.ray)
    with mounted("instances"):
        check_formats(config.instances.formats)
    with mounted("trainer"):
        check_trainer(config.trainer)


def open_lessons(config: DictConfig, passages: Mapping[str, Passage] | None = None) -> Lessons:
    """Open the lessons of a configuration, and check all of them.

    Args:
        config: Composed from ``conf/build_experts.yaml``.
        passages: The passages of the augmentations, by id. None means those that the configuration
            names.

    Returns:
        A function that makes the stream of lessons.

    Raises:
        ValueError: If the data or a setting is at fault.
    """
    chosen = config.instances
    limit = chosen.limit
    check_limit(limit, "instances.limit")
    held_out = chosen.get("held_out_split")
    if held_out is not None and chosen.augmentation is not None:
        raise SettingValueError(
            "instances.held_out_split",
            f"held_out_split={held_out} leaves out questions of the data set, but the instances "
            "come from an augmentation",
            "leave {} out, and the passages out of the augmentation",
        )
    if chosen.augmentation is None:
        dataset = instantiate(config.data)
        if held_out is not None:
            dataset, dropped = drop_overlap(dataset, chosen.split, held_out)
            log.info("%d questions about passages of %s are left out", dropped, held_out)
        with mounted("instances"):
            found = lessons_from_questions(dataset, chosen.split, chosen.part)
        return lambda: islice(found, limit)
    passages = corpus_passages(config.data, config.corpus) if passages is None else passages

    def lessons() -> Iterable[Lesson]:
        return islice(lessons_from_augmentation(chosen.augmentation, passages), limit)

    for _ in lessons():
        pass
    return lessons


def _trainer(config: DictConfig) -> Trainer:
    with mounted("trainer"):
        strategy = training_strategy(config.trainer.strategy, config.trainer.devices)
    return make_trainer(config, strategy=strategy)


def _by_lightning(trainer: Trainer, job: Job) -> tuple[Tally, bool]:
    """Build with Lightning; returns the tally, and if this process is the one that reports it."""
    module = ExpertModule(**vars(job))
    fit(trainer, module)
    return module.tally, trainer.is_global_zero


def _by_ray(config: DictConfig, job: Job) -> tuple[Tally, bool]:
    """Build with Ray; returns the tally and True.

    This process hands out the groups, and it alone writes to the bank.
    """
    tokenizer, limits = job.backbone.tokenizer, job.limits
    groups = Groups(job.lessons, job.bank, tokenizer, job.formats, job.recipe, limits)
    device = "cuda" if config.ray.gpus_per_worker else "cpu"
    source: Any = OmegaConf.to_container(config.backbone, resolve=True)
    dtype = str(job.backbone.dtype).removeprefix("torch.")
    make = functools.partial(instantiate, source | {"device": device, "dtype": dtype})
    tally, cluster = Tally(), Cluster(**config.ray)
    others = instances_of_others(job.lessons(), tokenizer, job.formats, job.recipe)
    settings = (job.spec, job.recipe, limits, cluster, others)
    done = train_on_cluster(groups, make, job.backbone.fingerprint, *settings)
    bar = LessonsBar(groups, tally, job.lessons)
    try:
        for group, trained in done:
            tally.store(job.bank, group, trained)
            bar.update()
    finally:
        bar.close()
    tally.skipped, tally.without = groups.skipped, groups.without
    return tally, True


def check_bank(settings: Mapping[str, Any]) -> None:
    """Check the settings of a bank, as far as that is possible before the model is loaded.

    Args:
        settings: The settings ``bank``.

    Raises:
        ValueError: If a setting is at fault.
    """
    check_folder(settings["dir"])
    check_dtype(settings["dtype"])


def check_dtype(dtype: Any) -> None:
    """Check the dtype that a bank stores experts in.

    Raises:
        ValueError: If a bank cannot store this dtype.
    """
    check_choice("dtype", dtype, tuple(DTYPES))


def open_bank(config: DictConfig, backbone: Backbone, spec: ExpertSpec, recipe: Recipe) -> Bank:
    """Open the bank that the experts go into, or make it.

    The bank's recipe names neither the file of the augmentations nor the split of the questions,
    because data may grow, and banks grow with them.

    Raises:
        BankError: If there is a bank with another backbone, other settings or another recipe.
    """
    wanted = _bank_spec(config, backbone, spec, recipe)
    return Bank.create(config.bank.dir, wanted, exist_ok=True, backbone=backbone)


def is_built(
    config: DictConfig, lessons: Callable[[], Iterable[Lesson]], backbone: Backbone
) -> bool:
    """Return True if there is a bank that already has an expert for every lesson's passage.

    The bank's experts may come from another source of lessons (augmentations or questions). Nothing
    is added to the bank, so the sources are not mixed.

    Args:
        config: Composed from ``conf/build_experts.yaml``.
        lessons: Makes the stream of lessons.
        backbone: The model.

    Raises:
        BankError: If there is such a bank, but with other settings or another recipe.
    """
    try:
        bank = Bank.open(config.bank.dir, backbone, read_only=True)
    except BankError:
        return False  # there is no bank yet, or building it will say what is wrong
    formats = list(config.instances.formats)
    wanted = (lesson.passage for lesson in lessons() if lesson.instances(formats))
    if next(bank.missing(wanted), None) is not None:
        return False
    spec, recipe, _ = typed_settings(config)
    checked = ("backbone_sha256", "recipe.source")  # the backbone when the bank was opened
    bank.spec.check_same(_bank_spec(config, backbone, spec, recipe), bank.path, checked)
    return True


def _bank_spec(
    config: DictConfig, backbone: Backbone, spec: ExpertSpec, recipe: Recipe
) -> BankSpec:
    chosen = config.instances
    with mounted("expert"):
        shapes = spec.shapes(FinalFFN(backbone).sizes)
    layout = ExpertLayout(shapes, config.bank.dtype)
    made_by = {
        **recipe.as_dict(),
        "backbone_dtype": str(backbone.dtype).removeprefix("torch."),
        "formats": list(chosen.formats),
        **({} if (prompt := prompt_of(chosen.formats)) is None else {"prompt": prompt}),
        "source": "augmentation" if chosen.augmentation else f"questions ({chosen.part})",
    }
    return BankSpec(backbone.name, backbone.fingerprint, layout, spec.alpha, made_by)
