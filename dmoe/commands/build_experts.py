"""``scripts/build_experts.py``: build a bank of experts from a composed configuration.

The bank is checked, opened or made; the experts that it lacks are trained and added; at the end it
is packed.
"""

from __future__ import annotations

import functools
import logging
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from lightning import Trainer
from omegaconf import DictConfig, OmegaConf

from backbone.final_ffn import FinalFFN
from backbone.loading import training_backbone
from backbone.model import Backbone
from dmoe.bank import Bank, BankError, BankSpec, ExpertLayout, compact
from dmoe.bank.layout import DTYPES
from dmoe.experts.expert import ExpertSpec
from dmoe.experts.recipe import Recipe
from dmoe.training.cluster import Cluster, train_on_cluster
from dmoe.training.grouped import Limits
from dmoe.training.groups import Groups
from dmoe.training.lessons import (
    Lesson,
    check_formats,
    lessons_from_augmentation,
    lessons_from_questions,
)
from dmoe.training.module import ExpertModule, training_strategy
from dmoe.training.settings import check_trainer, typed_settings
from dmoe.training.tally import Tally
from plumbing.cli import check_complete, next_command, say_written
from plumbing.settings import check_limit
from plumbing.storage.files import write_json
from plumbing.training.setup import training_loggers
from retrieval.passage import Passage

log = logging.getLogger(__name__)

ENGINES = ("lightning", "ray")
Lessons = Callable[[], Iterable[Lesson]]


@dataclass(frozen=True)
class Job:
    """What is built, of what, and how; see `dmoe.training.module.ExpertModule`."""

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
    """Train the experts that are not in the bank yet, and write what came of it.

    In the run folder: ``metrics.json``; and the ids of the passages that got no expert, a line
    each, in ``without_instances.jsonl`` and ``diverged.jsonl``.

    Args:
        config: Composed from ``conf/build_experts.yaml``.
        lessons: What makes the stream of lessons; None: the one that the configuration names.
        backbone: The model; None: likewise.

    Returns:
        How many experts were built, skipped and left out, their mean losses in the first and the
        last epoch, their mean ``‖ΔW‖``, and the seconds that each took.

    Raises:
        ValueError: If a setting, the data or the bank is at fault.
    """
    _check(config)
    start = time.perf_counter()
    spec, recipe, limits = typed_settings(config)
    # Before the model: what is wrong with the data shows at once.
    lessons = lessons or open_lessons(config)
    backbone = backbone or training_backbone(config)
    bank = open_bank(config, backbone, spec, recipe)
    formats = list(config.instances.formats)
    job = Job(backbone, bank, lessons, formats, spec, recipe, limits)
    tally, is_first = (_by_ray if config.engine == "ray" else _by_lightning)(config, job)
    metrics = tally.metrics(time.perf_counter() - start)
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
    """``scripts/build_experts.py``: `build_experts`, which must bring something.

    It then says what to type next.

    Raises:
        ValueError: Likewise, and if every expert diverged; ``metrics.json`` is written before.
    """
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
    """The command lines that evaluate with a bank, behind the one that builds its router's index.

    A bank that was built from a data set's own questions has no surrogates to search: its experts
    are chosen by the passages that are known to answer the questions.
    """
    chosen = config.instances
    settings: dict[str, Any] = {"method": "dmoe", "bank.dir": Path(config.bank.dir)}
    if chosen.augmentation is None:
        settings |= {"router": "oracle", "passages": "gold", "split": chosen.split}
        return [next_command(config, "evaluate", settings)]
    surrogates = Path(chosen.augmentation).with_name("surrogates.jsonl")
    if not surrogates.exists():
        return [next_command(config, "evaluate", settings | {"router": "oracle"})]
    index = surrogates.with_name("index")
    settings |= {"router.corpus.path": surrogates, "router.retriever.index_dir": index}
    evaluating = next_command(config, "evaluate", settings)
    return [evaluating] if index.exists() else [index_of(config, surrogates, index), evaluating]


def index_of(config: DictConfig, surrogates: Path, index: Path) -> str | None:
    """The command line that builds the index of a router over surrogates."""
    settings = {"retriever": "bm25", "corpus.path": surrogates, "retriever.index_dir": index}
    return next_command(config, "build_index", settings, ())


def _check(config: DictConfig) -> None:
    """What can be said against the settings before anything is loaded."""
    check_complete(config)
    if config.engine not in ENGINES:
        raise ValueError(
            f"engine must be one of {', '.join(ENGINES)}, got {config.engine!r}; set engine=…"
        )
    check_bank(config.bank)
    Cluster(**config.ray)
    check_formats(config.instances.formats)
    check_trainer(config.trainer)


def open_lessons(config: DictConfig, passages: Mapping[str, Passage] | None = None) -> Lessons:
    """What makes the stream of lessons of a configuration; all of them are checked before.

    Args:
        config: Composed from ``conf/build_experts.yaml``.
        passages: Of the augmentations; None: those that the configuration names.

    Raises:
        ValueError: If the data or a setting is at fault.
    """
    chosen = config.instances
    limit = chosen.limit
    check_limit(limit, "instances.limit")
    if chosen.augmentation is None:
        found = lessons_from_questions(instantiate(config.data), chosen.split, chosen.part)
        return lambda: islice(found, limit)
    passages = corpus_passages(config.data, config.corpus) if passages is None else passages

    def lessons() -> Iterable[Lesson]:
        return islice(lessons_from_augmentation(chosen.augmentation, passages), limit)

    for _ in lessons():
        pass
    return lessons


def corpus_passages(data: Mapping[str, Any], corpus: Mapping[str, Any]) -> Mapping[str, Passage]:
    """The passages of a configuration: those of the corpus, where one is named, else of the data.

    Args:
        data: The settings ``data``.
        corpus: The settings ``corpus``; without a path there is none.

    Raises:
        InstantiationException: If the files are at fault; with its cause.
    """
    found: Mapping[str, Passage] = (
        instantiate(data).passages if corpus["path"] is None else instantiate(corpus)
    )
    return found


def _by_lightning(config: DictConfig, job: Job) -> tuple[Tally, bool]:
    """What was built, and whether this process is the one that reports it."""
    module = ExpertModule(**vars(job))
    trainer: Trainer = instantiate(
        config.trainer,
        strategy=training_strategy(config.trainer.strategy, config.trainer.devices),
        logger=training_loggers(config),
    )
    with warnings.catch_warnings():
        # Workers would only copy what is in memory already.
        warnings.filterwarnings("ignore", ".*does not have many workers.*")
        trainer.fit(module)
    return module.tally, trainer.is_global_zero


def _by_ray(config: DictConfig, job: Job) -> tuple[Tally, bool]:
    """The same; this process hands out the groups, and alone writes to the bank."""
    tokenizer, limits = job.backbone.tokenizer, job.limits
    groups = Groups(job.lessons, job.bank, tokenizer, job.formats, job.recipe, limits)
    device = "cuda" if config.ray.gpus_per_worker else "cpu"
    source: Any = OmegaConf.to_container(config.backbone, resolve=True)
    dtype = str(job.backbone.dtype).removeprefix("torch.")
    make = functools.partial(instantiate, source | {"device": device, "dtype": dtype})
    tally = Tally()
    for group, trained in train_on_cluster(
        groups, make, job.backbone.fingerprint, job.spec, job.recipe, limits, Cluster(**config.ray)
    ):
        tally.store(job.bank, group, trained)
    tally.skipped, tally.without = groups.skipped, groups.without
    return tally, True


_MANY = 64  # shards, above which a bank is packed: a build adds one a group


def check_bank(settings: Mapping[str, Any]) -> None:
    """Check what can be said of a bank before the model is loaded.

    Args:
        settings: The settings ``bank``.

    Raises:
        ValueError: If one is at fault.
    """
    path, dtype = settings["dir"], settings["dtype"]
    if not isinstance(path, str | Path) or not str(path):
        raise ValueError(f"bank.dir must be a folder's path, got {path!r}; set bank.dir")
    folder = Path(path).absolute()
    there = next(part for part in (folder, *folder.parents) if part.exists())
    if not there.is_dir():
        raise ValueError(f"bank.dir must be a folder, got {path} ({there} is a file); set bank.dir")
    check_dtype(dtype)


def check_dtype(dtype: Any) -> None:
    """Check the dtype that a bank is to store.

    Raises:
        ValueError: If there is no such.
    """
    if dtype not in tuple(DTYPES):
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}; set bank.dtype")


def open_bank(config: DictConfig, backbone: Backbone, spec: ExpertSpec, recipe: Recipe) -> Bank:
    """Open the bank that the experts go into, or make it.

    Which file augmentations came from, and which split questions, is no part of its recipe: data
    grow, and banks with them.

    Raises:
        BankError: If there is one of another backbone, other settings or another recipe.
    """
    return Bank.create(config.bank.dir, _bank_spec(config, backbone, spec, recipe), exist_ok=True)


def is_built(
    config: DictConfig, lessons: Callable[[], Iterable[Lesson]], backbone: Backbone
) -> bool:
    """Whether there is a bank that has an expert of every lesson's passage already.

    Whatever source its experts' own lessons came from: where nothing is added, none are mixed.

    Args:
        config: Composed from ``conf/build_experts.yaml``.
        lessons: What makes the stream of lessons.
        backbone: The model.

    Raises:
        BankError: If there is one that has them all, but with other settings or another recipe.
    """
    try:
        bank = Bank.open(config.bank.dir, backbone, read_only=True)
    except BankError:
        return False  # there is none yet, or building says what is the matter
    formats = list(config.instances.formats)
    wanted = (lesson.passage for lesson in lessons() if lesson.instances(formats))
    if next(bank.missing(wanted), None) is not None:
        return False
    spec, recipe, _ = typed_settings(config)
    _any_source(bank.spec).check_same(
        _any_source(_bank_spec(config, backbone, spec, recipe)), bank.path
    )
    return True


def _bank_spec(
    config: DictConfig, backbone: Backbone, spec: ExpertSpec, recipe: Recipe
) -> BankSpec:
    chosen = config.instances
    layout = ExpertLayout(spec.shapes(FinalFFN(backbone).sizes), config.bank.dtype)
    made_by = {
        **recipe.as_dict(),
        "backbone_dtype": str(backbone.dtype).removeprefix("torch."),
        "formats": list(chosen.formats),
        "source": "augmentation" if chosen.augmentation else f"questions ({chosen.part})",
    }
    return BankSpec(backbone.name, backbone.fingerprint, layout, spec.alpha, made_by)


def _any_source(spec: BankSpec) -> BankSpec:
    return replace(spec, recipe={k: v for k, v in spec.recipe.items() if k != "source"})


def pack(bank: Bank) -> None:
    """Compact a bank that has many shards; whatever prevents it is logged, no expert is lost.

    Args:
        bank: The bank; it shows the new version afterwards.
    """
    try:
        bank.refresh()
        if len(bank.view.shards) > _MANY:
            compact(bank)
    except (BankError, OSError) as error:
        log.warning("the bank is left unpacked: %s", error)
