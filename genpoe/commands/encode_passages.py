"""``scripts/encode_passages.py``: put the codes of a corpus into a bank."""

from __future__ import annotations

import functools
import logging
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from genpoe.codes.encoding import CodeLoader, CodesJob
from genpoe.codes.layout import KEYS
from plumbing.cli import next_command, say_written, type_script
from plumbing.engines.engines import make_engine
from plumbing.mounts import SettingValueError, mounted
from plumbing.settings import check_choice, check_limit
from plumbing.stopwatch import Stopwatch
from plumbing.storage.files import write_json
from qa.bank.bank import check_folder
from qa.bank.upkeep import pack
from qa.commands.corpus import corpus_passages

log = logging.getLogger(__name__)


def encode_passages(config: DictConfig) -> dict[str, float]:
    """Read the passages that a bank of codes lacks, and add their codes.

    The run folder gets ``metrics.json``.

    Args:
        config: Composed from ``conf/encode_passages.yaml``.

    Returns:
        ``passages`` that were read, those that were ``skipped`` since the bank has them, the
        ``tokens`` and the ``bytes`` of the codes that were added, ``bytes_per_passage`` of these,
        ``bank_bytes`` of all files of the bank, the ``seconds`` of reading and writing, without the
        loading of the model, and ``passages_per_second``.

    Raises:
        ValueError: If a setting, the corpus, the checkpoint or the bank is at fault.
    """
    # A section has a method of the name "keys", so that setting is read by brackets.
    with mounted("bank"):
        check_folder(config.bank.dir)
        check_choice("keys", config.bank["keys"], tuple(KEYS))
    if not isinstance(config.ckpt_path, str) or not config.ckpt_path:
        raise SettingValueError(
            "ckpt_path",
            "a trained hypernetwork is needed, got none",
            "set {}=RUN/checkpoints/last.ckpt",
        )
    check_limit(config.limit, "limit")
    if not isinstance(config.batch_tokens, int) or config.batch_tokens < 1:
        raise SettingValueError(
            "batch_tokens", f"batch_tokens must be positive, got {config.batch_tokens!r}"
        )
    device = config.backbone.device
    engine = make_engine(
        config.engine, config.workers, device, config.ray_address, "backbone.device"
    )
    passages = corpus_passages(config.data, config.corpus)
    source: Any = OmegaConf.to_container(config.backbone, resolve=True)
    make = functools.partial(instantiate, source)
    checkpoint = str(Path(config.ckpt_path).absolute())
    loader = CodeLoader(make, checkpoint, config.bank["keys"], config.batch_tokens)
    job = CodesJob(config.bank.dir, passages, loader, config.limit)
    watch = Stopwatch()
    if job.lacking:
        engine.run(job, job.to_do)
    seconds = watch.seconds
    metrics = _measured(job, seconds)
    write_json(Path(config.paths.output_dir, "metrics.json"), metrics)
    log.info(
        "%d passages read in %.1f s, %d there already; bank: %s",
        *(job.lacking, seconds, job.total - job.lacking, config.bank.dir),
    )
    return metrics


def _measured(job: CodesJob, seconds: float) -> dict[str, float]:
    bank = job.bank
    bank.refresh()
    # Others may write the bank at the same time, so only this job's own passages are counted.
    there = [id for id in job.lacking_ids() if id in bank]
    size = int(bank.view.sizes(bank.view.places(there)).sum()) if there else 0
    pack(bank)
    files = (path for path in bank.path.rglob("*") if path.is_file())
    return {
        "passages": float(job.lacking),
        "skipped": float(job.total - job.lacking),
        "tokens": float(size // bank.layout.token_bytes),
        "bytes": float(size),
        "bytes_per_passage": size / max(1, job.lacking),
        "bank_bytes": float(sum(path.stat().st_size for path in files)),
        "seconds": seconds,
        "passages_per_second": job.lacking / seconds,
    }


def encode_command(config: DictConfig) -> dict[str, float]:
    """Run `encode_passages`, and say what to type next.

    Raises:
        ValueError: If `encode_passages` raises one.
    """
    metrics = encode_passages(config)
    folder = Path(config.bank.dir)
    following: str | None = type_script("bank", ["info", folder])
    if config.corpus.path is None:  # the data set's own passages
        checkpoint = Path(config.ckpt_path)
        settings = {"method": "genpoe", "ckpt_path": checkpoint, "method.codes_dir": folder}
        following = next_command(config, "evaluate", settings, ("data", "backbone"))
    say_written({config.paths.output_dir: ["metrics.json"], folder: []}, [following])
    return metrics
