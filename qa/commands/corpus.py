"""The passages that a configuration names: those of a corpus, or those of a data set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hydra.utils import instantiate
from omegaconf import OmegaConf

from plumbing.mounts import mounted
from retrieval.passage import Passage


def corpus_passages(data: Mapping[str, Any], corpus: Mapping[str, Any]) -> Mapping[str, Passage]:
    """Open the passages of the corpus, or those of the data set if no corpus is named.

    Args:
        data: The settings ``data``.
        corpus: The settings ``corpus``. No corpus is named if their path is null.

    Raises:
        InstantiationException: If the files are at fault; it has the error as its cause.
    """
    if corpus["path"] is None:
        with mounted(_place(data, "data")):
            found: Mapping[str, Passage] = instantiate(data).passages
            return found
    with mounted(_place(corpus, "corpus")):
        found = instantiate(corpus)
        return found


def _place(settings: Any, section: str) -> str:
    """The section to add to the key of a wrong setting: none where Hydra adds it by itself."""
    return "" if OmegaConf.is_config(settings) else section
