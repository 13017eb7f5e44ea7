"""``scripts/build_index.py``: build the index of a retriever.

A retriever's configuration creates its settings (`retrieval.retriever.IndexSettings`), which can
build the index or open it. Both take the corpus as an argument, so that the settings of a hybrid
can contain those of its retrievers.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig

from plumbing.devices import peak_rss
from plumbing.storage.files import write_json

log = logging.getLogger(__name__)


def build_index_command(config: DictConfig) -> dict[str, float]:
    """Build an index, and write ``metrics.json`` into the run folder.

    Args:
        config: The configuration, composed from ``conf/build_index.yaml``.

    Returns:
        The metrics: ``seconds`` to build the index, ``corpus_seconds`` to open the corpus (which
        takes long the first time), the number of ``passages``, ``bytes`` of the index on disk,
        ``peak_rss`` of this process in bytes, and what the retriever adds.

    Raises:
        ValueError: If a setting or the corpus is wrong, or if another index is in the folder.
        InstantiationException: If this happens while Hydra creates an object; the ``ValueError`` is
            its cause.
    """
    settings = instantiate(config.retriever)  # comes first, so that a mistake in it shows at once
    start = time.perf_counter()
    corpus = instantiate(config.corpus)
    opened = time.perf_counter()
    numbers = settings.build(corpus)
    metrics = {
        "seconds": time.perf_counter() - opened,
        "corpus_seconds": opened - start,
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
