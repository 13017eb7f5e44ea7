"""Fine-tuning of a reranker on mined lists, from the first step or from a checkpoint."""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from typing import Any

from lightning import Trainer

from retrieval.cross_encoder_folder import save_cross_encoder
from retrieval.cross_encoder_start import RerankerError
from retrieval.files import write_json
from retrieval.reranker_batches import RerankerDataModule
from retrieval.reranker_module import RerankerModule

FOLDER = "reranker"  # in the run folder: what conf/reranker's path names
_LIGHTNING_WORDS = ("last", "best", "hpc")


def train_reranker(
    module: RerankerModule,
    data: RerankerDataModule,
    trainer: Trainer,
    run_dir: str | Path,
    ckpt_path: str | None = None,
    training: dict[str, Any] | None = None,
) -> dict[str, float]:
    """Train, save the reranker, and write ``metrics.json``.

    Args:
        module: The model and its optimiser's settings.
        data: The lists.
        trainer: Lightning's.
        run_dir: Where the folder ``reranker`` and ``metrics.json`` go.
        ckpt_path: Go on from this checkpoint; None: from the start.
        training: How the reranker was made, plain JSON values; kept in its manifest.

    Returns:
        What was measured: ``train/loss`` (the last step's); of the lists held out ``val/loss``,
        ``val/accuracy@1`` (percent) and ``val/mrr`` (0 … 1), both of the best gold passage among
        all candidates, and ``val/retriever_accuracy@1``, ``val/retriever_mrr`` in the retriever's
        own order; ``steps``, ``lists``, ``val_lists`` and ``seconds``.

    Raises:
        RerankerError: If ``ckpt_path`` is a word of Lightning's, or of another reranker.
        ValueError: If the checkpoint or a setting is at fault.
    """
    if ckpt_path in _LIGHTNING_WORDS:
        raise RerankerError(
            f"ckpt_path must be a file, got {ckpt_path!r}: where there is none, Lightning would "
            "silently start afresh; name it, as in logs/train_reranker/runs/…/checkpoints/last.ckpt"
        )
    start = time.perf_counter()
    with warnings.catch_warnings():
        # Tokenising takes a hundredth of a step.
        warnings.filterwarnings("ignore", ".*does not have many workers.*")
        trainer.fit(module, datamodule=data, ckpt_path=ckpt_path, weights_only=True)
    metrics = {
        name: value.item()
        for name, value in trainer.callback_metrics.items()
        if name.startswith(("train/", "val/"))  # a monitor adds the learning rate's last value
    }
    metrics |= {"steps": trainer.global_step, "lists": len(data.train), "val_lists": len(data.val)}
    metrics["seconds"] = time.perf_counter() - start
    if trainer.is_global_zero:
        save_cross_encoder(module.cross_encoder, Path(run_dir, FOLDER), training)
        write_json(Path(run_dir, "metrics.json"), metrics)
    return metrics
