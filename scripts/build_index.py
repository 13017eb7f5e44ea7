"""Build an index: ``build_index.py retriever=bm25 corpus.path=FILE retriever.index_dir=DIR``."""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from plumbing.cli import check_complete, run
from retrieval.commands.build_index import build_index_command


@hydra.main(version_base="1.3", config_path="../conf", config_name="build_index")
def main(config: DictConfig) -> None:
    """See ``conf/build_index.yaml`` for the settings."""
    run(check_complete, config)
    run(build_index_command, config)


if __name__ == "__main__":
    run(main)
