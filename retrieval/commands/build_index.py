"""``scripts/build_index.py``: build the index of a retriever.

The configuration of a retriever makes settings (`retrieval.retriever.IndexSettings`), which build
the index or open it. Both take the corpus as an argument, so that the settings of a hybrid can hold
those of its parts.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from plumbing.cli import next_command, say_written
from plumbing.devices import peak_rss
from plumbing.mounts import mounted
from plumbing.stopwatch import Stopwatch
from plumbing.storage.files import write_json

log = logging.getLogger(__name__)


def build_index_command(config: DictConfig) -> dict[str, float]:
    """Build an index, and write ``metrics.json`` into the run folder.

    Args:
        config: A configuration composed from ``conf/build_index.yaml``.

    Returns:
        The metrics: ``seconds`` of building, ``corpus_seconds`` of opening the corpus (which takes
        long the first time), ``passages``, ``bytes`` of the index on disk, ``peak_rss`` of this
        process in bytes, and what the retriever adds.

    Raises:
        ValueError: If a setting or the corpus is at fault, or another index is in the folder.
        InstantiationException: If Hydra builds the part that is at fault; the error of the part is
            the cause.
    """
    settings = instantiate(config.retriever)  # this comes first, so that an error shows at once
    watch = Stopwatch()
    corpus = instantiate(config.corpus)
    opened = watch.lap()
    with mounted("retriever"):
        numbers = settings.build(corpus)
    metrics = {
        "seconds": watch.seconds,
        "corpus_seconds": opened,
        "passages": float(len(corpus)),
        "peak_rss": float(peak_rss()),
        **numbers,
    }
    write_json(Path(config.paths.output_dir) / "metrics.json", metrics)
    log.info("%d passages in %.1f s", len(corpus), metrics["seconds"])
    index = OmegaConf.select(config, "retriever.index_dir")
    say_written(
        {config.paths.output_dir: ["metrics.json"], **({index: []} if index else {})},
        [next_command(config, "evaluate_retrieval", _questions(config), ("retriever", "corpus"))],
    )
    return metrics


def _questions(config: DictConfig) -> dict[str, Any]:
    """The data whose questions are asked next: those beside the corpus, else the default ones."""
    folder = Path(config.corpus.path).parent
    if any(folder.glob("dev.jsonl*")):
        return {"data": "local", "data.dir": folder}
    return {"data": "bios"}
