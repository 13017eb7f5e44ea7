"""Where a pretrained model's files are, and a fingerprint of those that decide what it computes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from retrieval.embedded import embedded_minilm
from retrieval.files import sha256_of

MINILM = "minilm"  # the embedded default

# What transformers and sentence-transformers load. Anything else in a folder or a hub repository
# (exports to other frameworks, model cards, training logs) decides nothing.
_SETTINGS = (
    "config.json",
    "*.safetensors.index.json",  # where weights come in several files
    "pytorch_model.bin.index.json",
    "config_sentence_transformers.json",
    "modules.json",
    "sentence_*_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "[0-9]_*/*.json",
)
_WEIGHTS = ("*.safetensors", "[0-9]_*/*.safetensors")
_OLD_WEIGHTS = ("pytorch_model*.bin", "[0-9]_*/pytorch_model*.bin")  # where there is no safetensors


def model_folder(name: str, revision: str | None = None) -> Path:
    """The folder of a pretrained model.

    Args:
        name: "minilm" (embedded, needs no download), a folder, or a Hugging Face hub id.
        revision: Branch, tag or commit on the hub.

    Raises:
        ValueError: If there is no such folder, and the hub has it not or cannot be reached.
    """
    if name == MINILM:
        return embedded_minilm()
    if Path(name).expanduser().is_dir():
        return Path(name).expanduser()
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=_allowed(_WEIGHTS)))
        if not _matching(folder, _WEIGHTS):
            old = _allowed(_OLD_WEIGHTS)
            folder = Path(snapshot_download(name, revision=revision, allow_patterns=old))
    except (OSError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"cannot find the model {name!r}: {reason} Expected {MINILM!r}, a folder, or a hub id "
            "that this machine can reach or has in its cache"
        ) from error
    return folder


def folder_fingerprint(folder: Path) -> str:
    """Hash of the names and contents of a model's files: its weights, tokenizer and settings.

    Args:
        folder: As `model_folder` returns it.

    Raises:
        ValueError: If the folder holds no weights.
    """
    weights = _matching(folder, _WEIGHTS) or _matching(folder, _OLD_WEIGHTS)
    if not weights:
        raise ValueError(f"{folder}: expected a model's weights (*.safetensors), found none")
    digest = hashlib.sha256()
    for path in sorted({*weights, *_matching(folder, _SETTINGS)}):
        digest.update(f"{path.relative_to(folder).as_posix()} {sha256_of(path)}\n".encode())
    return digest.hexdigest()


@contextmanager
def loading(folder: Path, what: str, key: str) -> Iterator[None]:
    """Explain what goes wrong while the block loads a model.

    Args:
        folder: The model's.
        what: How the message calls it, such as "DPRContextEncoder".
        key: The setting that names it.

    Raises:
        ValueError: Instead of what the libraries raise about files.
    """
    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ValueError(
            f"{folder}: cannot be loaded as a {what}: {error}; set retriever.encoder.{key}"
        ) from error


def _allowed(weights: tuple[str, ...]) -> list[str]:
    return [*_SETTINGS, *weights]


def _matching(folder: Path, patterns: tuple[str, ...]) -> list[Path]:
    return [path for pattern in patterns for path in folder.glob(pattern) if path.is_file()]
