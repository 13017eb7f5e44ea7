"""How every training with Lightning is set up, run and reported.

A command calls `check_ckpt_path` before it loads anything, and `seed` before it makes what is to be
trained. `make_trainer` then builds the trainer of the configuration, `fit` runs it, and
`write_metrics` leaves ``metrics.json`` in the run folder.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from lightning import Callback, LightningDataModule, LightningModule, Trainer, seed_everything
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig

from plumbing.cli.parts import build
from plumbing.mounts import SettingValueError, mounted
from plumbing.quiet import without_advice_on_workers
from plumbing.storage.files import write_json
from plumbing.training.checkpoint import AtomicCheckpointIO, CheckpointError
from plumbing.training.trainer import check_trainer_arguments

T = TypeVar("T")

_REFUSALS = (MisconfigurationException, ImportError)  # of settings that do not fit together
# What Lightning only finds out while it trains: its words, the setting, and what to do.
_COMPLAINTS = {
    "does not allow for gradient clipping": (
        "trainer.precision",
        "set {} to bf16-mixed or 32-true, or the gradient_clip_val beside it to null",
    ),
    "conditioned on metric": ("callbacks", "change the monitor of its callback in {}"),
}
_LIGHTNING_WORDS = ("last", "best", "hpc")


def check_ckpt_path(ckpt_path: str | Path | None) -> None:
    """Check that training is to go on from a file, if from anything.

    Raises:
        CheckpointError: If the path is empty or one of Lightning's words, such as "last". Where
            Lightning finds nothing behind such a word, it starts afresh and does not say so.
    """
    if ckpt_path in ("", *_LIGHTNING_WORDS):
        raise CheckpointError(
            f"ckpt_path must be a file, got {ckpt_path!r}: where there is none, Lightning would "
            "silently start afresh; name the file, as in "
            "logs/<command>/runs/…/checkpoints/last.ckpt, or leave ckpt_path out"
        )


def seed(number: int) -> None:
    """Seed the generators of Python, NumPy, PyTorch and the workers of data loaders."""
    seed_everything(number, workers=True, verbose=False)


def make_trainer(config: DictConfig, **changes: Any) -> Trainer:
    """The trainer of a configuration, with the callbacks and loggers that it names.

    Call it before anything is loaded, so that a wrong setting shows at once.

    Args:
        config: Has ``trainer`` and ``logger``, and may have ``callbacks``.
        **changes: Arguments of the trainer that replace those of the configuration.

    Raises:
        SettingValueError: If Lightning refuses a setting of the trainer, of a callback or of a
            logger. The message names it.
    """
    with mounted("trainer"):
        check_trainer_arguments(config.trainer, changes)
    arguments = {
        "callbacks": training_callbacks(config),
        "plugins": [AtomicCheckpointIO()],
        "logger": training_loggers(config),
        **changes,
    }
    trainer: Trainer = build(config, "trainer", _REFUSALS, **arguments)
    return trainer


def training_callbacks(config: DictConfig) -> list[Callback]:
    """The callbacks of the configuration; without a logger, none that only writes to one."""
    callbacks: list[Any] = _parts(config, "callbacks")
    return [c for c in callbacks if config.logger or not isinstance(c, LearningRateMonitor)]


def training_loggers(config: DictConfig) -> list[Logger] | bool:
    """The loggers of the configuration; if there are none, False, as the trainer wants it."""
    return _parts(config, "logger") or False


def _parts(config: DictConfig, section: str) -> list[Any]:
    """What a section names; a part that is null is left out."""
    named = config.get(section) or {}
    return [
        build(config, f"{section}.{name}", _REFUSALS) for name in named if named[name] is not None
    ]


def fit(
    trainer: Trainer,
    module: LightningModule,
    datamodule: LightningDataModule | None = None,
    ckpt_path: str | Path | None = None,
) -> dict[str, float]:
    """Train from the first step, or go on from a checkpoint.

    Args:
        trainer: Made by `make_trainer`.
        module: What is trained.
        datamodule: The data, unless the module has its own.
        ckpt_path: The checkpoint to go on from. A missing or damaged one is an error.

    Returns:
        The last value of everything that was logged, and the number of ``steps``.

    Raises:
        CheckpointError: If the checkpoint cannot be loaded; see `check_ckpt_path`, too.
        SettingValueError: If Lightning refuses settings that do not fit the module or its data.
    """
    check_ckpt_path(ckpt_path)
    try:
        with without_advice_on_workers():
            trainer.fit(module, datamodule=datamodule, ckpt_path=ckpt_path, weights_only=True)
    except MisconfigurationException as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise SettingValueError("trainer", reason, "change the settings of {}") from error
    except RuntimeError as error:
        for words, (key, remedy) in _COMPLAINTS.items():
            if words in str(error):
                raise SettingValueError(key, " ".join(str(error).split()), remedy) from error
        raise
    metrics = {name: value.item() for name, value in trainer.callback_metrics.items()}
    return {**metrics, "steps": trainer.global_step}


def once_on_a_machine(trainer: Trainer, compute: Callable[[], T]) -> T:
    """Compute something that is kept on the disk: on one process of each machine first.

    Args:
        trainer: The trainer, whose processes all call this.
        compute: Computes it, or finds it on the disk.
    """
    if trainer.world_size > 1:
        if trainer.local_rank == 0:  # the other ranks of this machine find it on the disk
            compute()
        trainer.strategy.barrier("kept on the disk")
    return compute()


def write_metrics(trainer: Trainer, run_dir: str | Path, metrics: dict[str, float]) -> None:
    """Write ``metrics.json`` into the run folder, on the first process alone."""
    if trainer.is_global_zero:
        write_json(Path(run_dir, "metrics.json"), metrics)
