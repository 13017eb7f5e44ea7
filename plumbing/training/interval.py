"""How often a training logs: at least once in each epoch."""

from __future__ import annotations

from lightning import Trainer


def log_every_epoch(trainer: Trainer, batches: int) -> None:
    """Shorten the trainer's interval between two logs to an epoch, if an epoch is shorter.

    With a longer one Lightning would log none of the steps of a short training, and warn of it.

    Args:
        trainer: Its ``log_every_n_steps`` is changed; it is asked when training starts.
        batches: The batches of an epoch in this process.
    """
    interval = trainer.log_every_n_steps  # type: ignore[attr-defined]
    if interval:  # 0: nothing is logged at all
        trainer.log_every_n_steps = max(1, min(interval, batches))  # type: ignore[attr-defined]
