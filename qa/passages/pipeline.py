"""Opening the retrieval pipeline that a configuration names."""

from __future__ import annotations

from hydra.utils import instantiate
from omegaconf import DictConfig

from plumbing.mounts import SettingValueError, mounted
from retrieval.pipeline import Pipeline


def open_pipeline(config: DictConfig) -> Pipeline | None:
    """Open the corpus, the retriever's index and the reranker.

    Args:
        config: With the groups ``retriever``, ``corpus``, ``reranker`` and ``pipeline``.

    Returns:
        The pipeline; None if no retriever is configured.

    Raises:
        ValueError: If there is a retriever but no corpus, or one of the parts is at fault.
        InstantiationException: If Hydra builds the part that is at fault; the error of the part is
            the cause.
    """
    if config.get("retriever") is None:
        return None
    if config.corpus.path is None:
        raise SettingValueError(
            "corpus.path", "a retriever needs the passages of its index", "give {}=FILE"
        )
    settings = instantiate(config.pipeline)
    index_settings = instantiate(config.retriever)
    reranker = instantiate(config.reranker) if config.get("reranker") is not None else None
    corpus = instantiate(config.corpus)  # this comes last, because its first time takes longest
    with mounted("retriever"):
        retriever = index_settings.open(corpus)
    return Pipeline(corpus, retriever, reranker, settings)
