"""Several devices that train different experts: processes side by side, and nothing to exchange."""

from __future__ import annotations

from lightning.pytorch.strategies import DDPStrategy


class IndependentRanks(DDPStrategy):
    """DDP's processes without its exchange of gradients: each device trains experts of its own."""

    def configure_ddp(self) -> None:
        """Leave the module as it is; it has no parameter that ranks would share."""


def training_strategy(strategy: str, devices: object) -> str | DDPStrategy:
    """The strategy behind a configured one.

    Args:
        strategy: "auto" or "ddp".
        devices: As in ``lightning.Trainer``.

    Raises:
        ValueError: If it is another strategy: there is no model to shard or to average.
    """
    if strategy not in ("auto", "ddp"):
        raise ValueError(
            f"trainer.strategy must be auto or ddp, got {strategy!r}: each device trains experts "
            "of its own"
        )
    return "auto" if devices in (1, "1") else IndependentRanks()
