"""The key that names a result of an ablation: a hash of the settings that decide the result."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from backbone.identity.weights import RECORD
from plumbing.storage import hashing
from plumbing.storage.files import sha256_of

# Settings that name files or folders whose content decides a result. A bank (bank.dir) and an index
# (retriever.index_dir) are left out because they are large, and an ablation may add to a bank.
FILES = (
    *("data.dir", "data.passages_path", "corpus.path", "router.corpus.path", "augmenter.path"),
    *("backbone.name", "backbone.adapter"),
)


def settings_key(config: DictConfig, keys: Iterable[str], *prompts: str) -> str:
    """Hash some settings, the content of the files that they name, and prompts of the code.

    The settings are hashed as written, without resolving references, so that the run folder and
    caches may move. The files are hashed by content, so that results made from a file are not used
    again after it has been edited.

    Args:
        config: A composed configuration, or a part of one.
        keys: The top-level keys of the settings.
        *prompts: The prompts that decide the result, or hashes of them.

    Returns:
        16 hexadecimal digits.

    Raises:
        OSError: If a file that a setting names cannot be read.
    """
    chosen = list(keys)
    values = OmegaConf.to_container(OmegaConf.masked_copy(config, chosen), resolve=False)
    named = [key for key in FILES if key.partition(".")[0] in chosen]
    contents = {key: content for key in named if (content := _content(config, key))}
    return hashing.digest([values, contents, *prompts] if contents or prompts else values)[:16]


def _content(config: DictConfig, key: str) -> dict[str, str]:
    """Checksums, by file name, of the file or of all files in the folder that a setting names."""
    value = OmegaConf.select(config, key)
    path = Path(value).expanduser() if isinstance(value, str) and value else None
    if path is None or not path.exists():
        return {}  # the value is a name on the hub, or a missing file that others will report
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    # The record of the weights' hash is written when a backbone is first used, and decides nothing.
    counted = [file for file in files if file.name != RECORD]
    return {str(file.relative_to(path)): _checksum(file) for file in counted}


def _checksum(file: Path) -> str:
    state = file.stat()
    return _checksum_of(file.resolve(), state.st_size, state.st_mtime_ns)


@functools.lru_cache(maxsize=4096)
def _checksum_of(file: Path, size: int, mtime_ns: int) -> str:
    """Hash a file once for as long as its size and time stay the same; cells share files."""
    return sha256_of(file)
