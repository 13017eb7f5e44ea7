"""The hashes of a backbone's settings and of its tokenizer, as they are in memory."""

from __future__ import annotations

import functools
import inspect
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from plumbing.storage.files import sha256_of
from plumbing.storage.hashing import digest

# Settings that do not change what the weights compute, or only while they are trained.
_IDLE = frozenset(
    (
        *("_name_or_path", "_commit_hash", "transformers_version", "architectures", "auto_map"),
        *("dtype", "torch_dtype", "use_cache", "initializer_range", "gradient_checkpointing"),
        *("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id"),
        *("id2label", "label2id", "num_labels", "problem_type", "finetuning_task"),
        *("task_specific_params", "output_hidden_states", "output_attentions", "return_dict"),
        *("attention_dropout", "hidden_dropout", "resid_pdrop", "embd_pdrop", "attn_pdrop"),
        *("residual_dropout", "embedding_dropout", "classifier_dropout", "pretraining_tp"),
    )
)


def settings_hash(model: Any) -> str:
    """The hash of the settings that decide what the weights of a model compute.

    A setting that has its class's default is left out. So a new version of transformers that knows
    more settings changes nothing, and neither does a file that spells the defaults out. The code of
    a model that brings its own counts as a setting.
    """
    config = model.config.get_text_config()
    values, defaults = config.to_dict(), _defaults(type(config))
    kept = {
        key: value
        for key, value in values.items()
        if key not in _IDLE and (key not in defaults or value != defaults[key])
    }
    kind = type(model)
    kept |= {"class": kind.__name__, "model_type": config.model_type}
    if kind.__module__.startswith("transformers_modules."):
        kept["code"] = sha256_of(Path(inspect.getfile(kind)))
    return digest(json.loads(json.dumps(kept, default=str)))


def _defaults(kind: type[Any]) -> dict[str, Any]:
    try:
        found: dict[str, Any] = kind().to_dict()
    except (TypeError, ValueError, AttributeError):  # some classes need arguments
        return {}
    return found


def tokenizer_hash(tokenizer: Any) -> str:
    """The hash of everything that decides a tokenizer's ids and the text that it makes of them.

    The chat template is not part of it, because only `qa.writing.writer` uses it. The
    padding token is not either, because padding never counts.

    Args:
        tokenizer: A tokenizer of transformers, or None.
    """
    if tokenizer is None:
        return digest(None)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    to_str = getattr(backend, "to_str", None)
    rules = _hash_of_files(tokenizer) if to_str is None else _hash_of_backend(to_str())
    flags = ("clean_up_tokenization_spaces", "split_special_tokens")
    return digest(
        [rules, tokenizer.eos_token_id, [bool(getattr(tokenizer, name, False)) for name in flags]]
    )


@functools.lru_cache(maxsize=2)  # a tokenizer is asked for its hash again and again
def _hash_of_backend(serialised: str) -> str:
    """Hash a fast tokenizer: its vocabulary, merges, added tokens, normaliser and so on."""
    rules = json.loads(serialised)
    for name in ("padding", "truncation"):  # what the last call asked for
        rules.pop(name, None)
    return digest(_set(rules))


def _set(value: Any) -> Any:
    """Leave out what is null or false: a new version of the library adds such keys."""
    if isinstance(value, Mapping):
        return {
            key: part if key in ("vocab", "merges") else _set(part)
            for key, part in value.items()
            if part is not None and part is not False
        }
    return [_set(part) for part in value] if isinstance(value, list) else value


def _hash_of_files(tokenizer: Any) -> str:
    """Hash a slow tokenizer by the files that it saves."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        files = sorted(Path(folder).glob("*"))
        return digest([[file.name, sha256_of(file)] for file in files if _decides(file.name)])


def _decides(name: str) -> bool:
    return not name.endswith(".jinja")  # a chat template
