"""A fine-tuned reranker on disk: safetensors, configuration, tokenizer, and a manifest over them.

Of an encoder the whole model is saved, of a decoder the LoRA adapter alone (PEFT's format), with
the name of what it belongs to.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch

from plumbing.quiet import without_loading_bar
from plumbing.storage.folders import publish_folder
from plumbing.storage.manifest import MANIFEST, read_manifest, write_manifest
from retrieval.encoders.model_folder import folder_fingerprint, model_folder
from retrieval.rerank.cross_encoder import CrossEncoder
from retrieval.rerank.decoder import DecoderCrossEncoder
from retrieval.rerank.encoder import EncoderCrossEncoder
from retrieval.rerank.pretrained import RerankerError, load_pretrained

_WHAT = "reranker"
_MAKE = "give the folder that scripts/train_reranker.py wrote, or train one"


def save_cross_encoder(
    cross_encoder: CrossEncoder, folder: Path, training: dict[str, Any] | None = None
) -> None:
    """Write a reranker aside, and publish it at once; a finished one there is replaced.

    Args:
        cross_encoder: What to save.
        folder: Where to.
        training: How it was made, plain JSON values; kept in the manifest for the reader.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        settings = _write(cross_encoder, part) | {"training": training or {}}
        part.chmod(0o755)
        write_manifest(part, settings, [file.name for file in part.iterdir()])
        publish_folder(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def load_cross_encoder(
    folder: Path,
    dtype: torch.dtype = torch.float32,
    tokens_at_once: int = 8192,
    attention: str = "sdpa",
) -> tuple[CrossEncoder, dict[str, Any]]:
    """Read a reranker that `save_cross_encoder` wrote, after checking every file.

    Args:
        folder: Where it is.
        dtype: Of the weights.
        tokens_at_once: See `CrossEncoder`.
        attention: transformers' ``attn_implementation``.

    Returns:
        The reranker, in evaluation mode on the CPU, and the manifest.

    Raises:
        RerankerError: If there is none, it is of another kind, or belongs to another base model.
        IndexFolderError: If a file is damaged or missing.
    """
    if not (folder / MANIFEST).is_file():
        found = f"no {MANIFEST}" if folder.is_dir() else "no such folder"
        raise RerankerError(f"{folder}: expected a reranker, found {found}; {_MAKE}")
    manifest = read_manifest(folder, _WHAT)
    settings = manifest["settings"]
    load = {"encoder": _load_encoder, "decoder": _load_decoder}.get(settings.get("kind"))
    if load is None:
        raise RerankerError(
            f"{folder}: expected a reranker of kind encoder or decoder, got "
            f"{settings.get('kind')!r}; {_MAKE}"
        )
    cross_encoder = load(
        folder, settings, tokens_at_once, dtype=dtype, attn_implementation=attention
    )
    return cross_encoder.eval(), manifest


def _write(cross_encoder: CrossEncoder, folder: Path) -> dict[str, Any]:
    model = cross_encoder.model
    if isinstance(cross_encoder, DecoderCrossEncoder):
        # PEFT would ask the hub whether the vocabulary grew; ours never does.
        model.save_pretrained(folder, save_embedding_layers=False)
        settings: dict[str, Any] = {"kind": "decoder", "base": cross_encoder.origin}
    else:
        with without_loading_bar():
            model.save_pretrained(folder)
        cross_encoder.tokenizer.save_pretrained(folder)
        settings = {"kind": "encoder", "interaction": getattr(cross_encoder, "interaction", 0.0)}
    return {**settings, "max_tokens": cross_encoder.max_tokens}


def _load_encoder(
    folder: Path, settings: dict[str, Any], tokens_at_once: int, **options: Any
) -> CrossEncoder:
    from transformers import AutoModelForSequenceClassification

    model, tokenizer = load_pretrained(AutoModelForSequenceClassification, folder, **options)
    sizes = (settings["max_tokens"], tokens_at_once, settings["interaction"])
    return EncoderCrossEncoder(model, tokenizer, *sizes)


def _load_decoder(
    folder: Path, settings: dict[str, Any], tokens_at_once: int, **options: Any
) -> CrossEncoder:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    origin = settings["base"]
    base_folder = model_folder(origin["name"], origin["revision"])
    found = folder_fingerprint(base_folder)
    if found != origin["fingerprint"]:
        raise RerankerError(
            f"{folder}: its adapter was trained beside {origin['name']} of fingerprint "
            f"{origin['fingerprint'][:12]}, but {base_folder} has {found[:12]}; put "
            "that model there"
        )
    base, tokenizer = load_pretrained(AutoModelForCausalLM, base_folder, **options)
    model = PeftModel.from_pretrained(base, str(folder))
    return DecoderCrossEncoder(model, tokenizer, settings["max_tokens"], tokens_at_once, origin)
