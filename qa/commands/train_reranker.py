"""``scripts/train_reranker.py``: questions become lists that train a reranker."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from plumbing.cli import check_complete, next_command, say_written
from plumbing.devices import pick_device, pick_dtype
from plumbing.mounts import SettingValueError, mounted
from plumbing.settings import check_limit, check_seed, check_types, read_section
from plumbing.training.setup import check_ckpt_path, make_trainer, seed
from qa.data.dataset import QADataset, Question, drop_overlap, load_folder
from qa.evaluation.evaluate import sample
from qa.passages.containment import answers_question
from qa.passages.gold_ids import gold_ids, warn_of_missing_gold
from retrieval.corpus.corpus import Corpus
from retrieval.passage import Passage
from retrieval.rerank.training.batches import RerankerDataModule
from retrieval.rerank.training.lists import LabelledQuery, MinedLists, hold_out, mine_cached
from retrieval.rerank.training.module import FOLDER, RerankerModule, train_reranker
from retrieval.retriever import IndexSettings

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MiningSettings:
    """The section ``mining`` of ``conf/train_reranker.yaml``, which says what each setting is.

    Raises:
        SettingValueError: If a setting is mistyped or out of range.
    """

    split: str
    limit: int | None
    val_limit: int
    depth: int
    held_out_split: str | None
    held_out_dirs: Sequence[str]
    cached: bool

    def __post_init__(self) -> None:
        check_types(self)
        check_limit(self.limit)
        _check_least(self, depth=1, val_limit=0)


@dataclass(frozen=True)
class BatchingSettings:
    """The section ``batching``, whose settings are those of `RerankerDataModule`.

    Raises:
        SettingValueError: If a setting is mistyped or out of range.
    """

    batch_size: int
    negatives: int
    seed: int

    def __post_init__(self) -> None:
        check_types(self)
        _check_least(self, batch_size=1, negatives=1)
        check_seed(self.seed)


def _check_least(settings: Any, **least: int) -> None:
    for name, low in least.items():
        if (value := getattr(settings, name)) < low:
            raise SettingValueError(name, f"{name} must be at least {low}, got {value}")


def train_reranker_command(config: DictConfig) -> dict[str, float]:
    """Mine lists, fine-tune a reranker on them, and save it in the run folder.

    Args:
        config: A configuration composed from ``conf/train_reranker.yaml``.

    Returns:
        The metrics, as in ``metrics.json``; they are those of
        `retrieval.rerank.training.module.train_reranker`.

    Raises:
        ValueError: If a setting, the data or a checkpoint is at fault.
        InstantiationException: If Hydra builds the part that is at fault; the error of the part is
            the cause.
    """
    check_complete(config)
    check_seed(config.seed)
    check_ckpt_path(config.ckpt_path)
    seed(config.seed)
    # All settings are checked before mining, which takes minutes.
    mining = read_section(config, "mining", MiningSettings)
    batching = read_section(config, "batching", BatchingSettings)
    index_settings = instantiate(config.retriever)
    trainer = make_trainer(config, precision=_precision(config.trainer))
    cross_encoder = instantiate(config.cross_encoder)
    module = read_section(config, "optim", partial(RerankerModule, cross_encoder))
    corpus = instantiate(config.corpus)
    mined = _mine(config, mining, index_settings, corpus)
    train, val = hold_out(mined.lists, mining.val_limit, config.seed)
    data = RerankerDataModule(
        corpus,
        train,
        val,
        cross_encoder.tokenize,
        batching.batch_size,
        batching.negatives,
        batching.seed,
    )
    metrics = train_reranker(
        module, data, trainer, config.paths.output_dir, config.ckpt_path, _origin(config)
    )
    folder = Path(config.paths.output_dir)
    reranking = {"reranker": "minilm", "reranker.path": folder / FOLDER}
    say_written(
        {folder: [FOLDER, "metrics.json", "checkpoints/last.ckpt"]},
        [next_command(config, "evaluate_retrieval", reranking, ("data", "retriever", "corpus"))],
    )
    return metrics


def labelled_queries(questions: Sequence[Question]) -> list[LabelledQuery]:
    """Turn questions into the queries that `retrieval` knows."""
    return [LabelledQuery(q.question, q.answers, q.passage_ids) for q in questions]


def answers_query(query: LabelledQuery, passage: Passage) -> bool:
    """True if a passage answers a query, so that it is no negative of it.

    It is decided as for oracle negatives, by `qa.passages.containment.answers_question`.
    """
    question = Question(query.query, query.query, query.answers, query.gold_ids)
    return answers_question(question, passage)


def held_out_passages(
    dataset: QADataset, split: str | None, folders: Sequence[str]
) -> frozenset[str]:
    """Collect the ids of the gold passages of evaluation, which training must never see.

    Args:
        dataset: The data set that is trained on.
        split: The split of it that is evaluated; None: no split is.
        folders: Folders of further data sets, of which all splits but ``train`` are evaluated.
    """
    evaluated = [] if split is None else [dataset.split(split)]
    for folder in folders:
        other = load_folder(folder)
        evaluated += [questions for name, questions in other.splits.items() if name != "train"]
    return frozenset(id for part in evaluated for question in part for id in question.passage_ids)


def _mine(
    config: DictConfig, settings: MiningSettings, index_settings: IndexSettings, corpus: Corpus
) -> MinedLists:
    cache_dir = Path(config.paths.cache_dir).expanduser()
    dataset = instantiate(config.data)
    held_out = held_out_passages(dataset, settings.held_out_split, settings.held_out_dirs)
    if settings.held_out_split is not None:
        dataset, dropped = drop_overlap(dataset, settings.split, settings.held_out_split)
        log.info(
            "%d questions are about passages of %s: left out", dropped, settings.held_out_split
        )
    questions = sample(dataset.split(settings.split), settings.limit, config.seed)
    with mounted("retriever"):
        retriever = index_settings.open(corpus)
    warn_of_missing_gold(
        gold_ids(questions),
        corpus,
        "the corpus",
        "questions without a gold passage there are left out; give the corpus whose ids the data "
        "set's passage_ids name",
    )
    warn_of_missing_gold(
        sorted(held_out),
        corpus,
        "the corpus, of those that are held out",
        "what is evaluated is not held out if it stands in the corpus under another id; give data "
        "and a corpus with the same ids",
    )
    mined = mine_cached(
        labelled_queries(questions),
        retriever,
        corpus,
        answers_query,
        settings.depth,
        held_out,
        cache_dir / "reranker_lists" if settings.cached else None,
    )
    log.info(
        "%d lists; %d questions have no gold passage to train on, %d no negative",
        len(mined.lists),
        mined.without_positive,
        mined.without_negative,
    )
    return mined


def _precision(trainer: DictConfig) -> str:
    """Choose what the precision "auto" means on the device that the trainer will choose."""
    if trainer.precision != "auto":
        return str(trainer.precision)
    device = pick_device("cpu" if trainer.accelerator == "cpu" else "auto")
    native = pick_dtype("auto", device) == torch.bfloat16
    return "bf16-mixed" if native else "32-true"


def _origin(config: DictConfig) -> dict[str, Any]:
    """Collect what the manifest of the reranker says about how it was made."""
    settings: Any = OmegaConf.to_container(config, resolve=True)
    names = ("cross_encoder", "data", "retriever", "mining", "batching", "optim", "seed")
    return {name: settings[name] for name in names}
