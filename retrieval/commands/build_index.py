"""``scripts/build_index.py``: build the index of a retriever.

The configuration of a retriever makes settings (`retrieval.retriever.IndexSettings`), which build
the index or open it. Both take the corpus as an argument, so that the settings of a hybrid can hold
those of its parts.
"""

from __future__ import annotations

import logging
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig

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
    log.info(
        "%d passages in %.1f s; metrics.json is in %s",
        len(corpus),
        metrics["seconds"],
        config.paths.output_dir,
    )
    return metrics
