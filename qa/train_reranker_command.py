"""``scripts/train_reranker.py``: questions become lists that train a reranker."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from lightning import seed_everything
from omegaconf import DictConfig, OmegaConf

from qa.cli import check_complete
from qa.dataset import QADataset, Question, drop_overlap, load_folder
from qa.evaluation import sample
from qa.training import training_callbacks, training_loggers
from retrieval.corpus import Corpus
from retrieval.devices import pick_device, pick_dtype
from retrieval.reranker_batches import RerankerDataModule
from retrieval.reranker_data import LabelledQuery, MinedLists, hold_out, mine_cached
from retrieval.reranker_module import RerankerModule
from retrieval.reranker_train import FOLDER, train_reranker

log = logging.getLogger(__name__)


def train_reranker_command(config: DictConfig) -> dict[str, float]:
    """Mine lists, fine-tune a reranker on them, and save it in the run folder.

    Args:
        config: Composed from ``conf/train_reranker.yaml``.

    Returns:
        The metrics, as in ``metrics.json``; see `retrieval.reranker_train.train_reranker`.

    Raises:
        ValueError: If a setting, the data or a checkpoint is at fault.
        InstantiationException: The same, where Hydra builds something; with its cause.
    """
    check_complete(config)
    seed_everything(config.seed, workers=True, verbose=False)
    corpus = instantiate(config.corpus)
    mined = _mine(config, corpus)
    train, val = hold_out(mined.lists, config.mining.val_limit, config.seed)
    cross_encoder = instantiate(config.cross_encoder)
    module = RerankerModule(cross_encoder, **config.optim)
    data = RerankerDataModule(corpus, train, val, cross_encoder.tokenize, **config.batching)
    trainer = instantiate(
        config.trainer,
        precision=_precision(config.trainer),
        callbacks=training_callbacks(config),
        logger=training_loggers(config),
        plugins=[instantiate(config.checkpoint_io)],
    )
    metrics = train_reranker(
        module, data, trainer, config.paths.output_dir, config.ckpt_path, _origin(config)
    )
    log.info("metrics.json and the reranker are in %s", config.paths.output_dir)
    log.info("use it: reranker=minilm reranker.path=%s", Path(config.paths.output_dir, FOLDER))
    return metrics


def labelled_queries(questions: Sequence[Question]) -> list[LabelledQuery]:
    """Questions as `retrieval` knows them."""
    return [LabelledQuery(q.question, q.answers, q.passage_ids) for q in questions]


def held_out_passages(
    dataset: QADataset, split: str | None, folders: Sequence[str]
) -> frozenset[str]:
    """Ids of the gold passages that evaluation asks about, which training must never see.

    Args:
        dataset: The data set trained on.
        split: Its split that is evaluated; None: none.
        folders: Folders of further data sets, whose every split but ``train`` is evaluated.
    """
    evaluated = [] if split is None else [dataset.split(split)]
    for folder in folders:
        other = load_folder(folder)
        evaluated += [questions for name, questions in other.splits.items() if name != "train"]
    return frozenset(id for part in evaluated for question in part for id in question.passage_ids)


def _mine(config: DictConfig, corpus: Corpus) -> MinedLists:
    settings, cache_dir = config.mining, Path(config.paths.cache_dir).expanduser()
    dataset = instantiate(config.data)
    held_out = held_out_passages(dataset, settings.held_out_split, settings.held_out_dirs)
    if settings.held_out_split is not None:
        dataset, dropped = drop_overlap(dataset, settings.split, settings.held_out_split)
        log.info(
            "%d questions are about passages of %s: left out", dropped, settings.held_out_split
        )
    questions = sample(dataset.split(settings.split), settings.limit, config.seed)
    retriever = instantiate(config.retriever).open(corpus)
    mined = mine_cached(
        labelled_queries(questions),
        retriever,
        corpus,
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
    """What "auto" means on the device that the trainer will choose."""
    if trainer.precision != "auto":
        return str(trainer.precision)
    device = pick_device("cpu" if trainer.accelerator == "cpu" else "auto")
    native = pick_dtype("auto", device) == torch.bfloat16
    return "bf16-mixed" if native else "32-true"


def _origin(config: DictConfig) -> dict[str, Any]:
    """What the manifest says of how the reranker was made."""
    settings: Any = OmegaConf.to_container(config, resolve=True)
    names = ("cross_encoder", "data", "retriever", "mining", "batching", "optim", "seed")
    return {name: settings[name] for name in names}
