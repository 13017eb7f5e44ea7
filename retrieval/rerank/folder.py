"""A fine-tuned reranker on disk: safetensors, configuration, tokenizer and a manifest.

An encoder is saved as a whole. For a decoder, only the LoRA adapter is saved (in PEFT's format),
together with the name of the model that it belongs to.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from plumbing.quiet import without_loading_bar
from plumbing.storage.folders import new_folder
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
    """Save a reranker in one step: it is written to another folder, which is then renamed.

    A reranker that is already in the folder is replaced.

    Args:
        cross_encoder: The reranker.
        folder: The folder to save it in.
        training: How the reranker was trained, as plain JSON values. The manifest keeps this for
            human readers.
    """
    with new_folder(folder, replace=True) as part:
        settings = _write(cross_encoder, part) | {"training": training or {}}
        write_manifest(part, settings, [file.name for file in part.iterdir()])


def load_cross_encoder(
    folder: Path,
    dtype: torch.dtype = torch.float32,
    tokens_at_once: int = 8192,
    attention: str = "sdpa",
) -> tuple[CrossEncoder, dict[str, Any]]:
    """Load a reranker that `save_cross_encoder` wrote, after checking every file.

    Args:
        folder: The folder of the reranker.
        dtype: The dtype of the weights.
        tokens_at_once: As in `CrossEncoder`.
        attention: transformers' ``attn_implementation``.

    Returns:
        The reranker, in evaluation mode on the CPU, and the manifest.

    Raises:
        RerankerError: If there is no reranker, if it is of an unknown kind, or if its base model
            has changed.
        FolderError: If a file is damaged or missing.
    """
    if not (folder / MANIFEST).is_file():
        found = f"no {MANIFEST}" if folder.is_dir() else "no such folder"
        raise RerankerError(f"{folder}: expected a reranker, found {found}; {_MAKE}")
    manifest = read_manifest(folder, _WHAT, remedy=_MAKE)
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
        # Otherwise PEFT asks the hub if the vocabulary has grown; ours never does.
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
