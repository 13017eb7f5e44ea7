"""How many tokens a transformer can read at once, whichever family it is of.

The number in its configuration is not always the answer. RoBERTa and its relatives (XLM-R,
CamemBERT, MPNet …) count positions from behind the padding's, so that 514 positions are room for
512 tokens. So the model itself is asked: the table of its position embeddings says what is used.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from plumbing.mounts import SettingValueError

log = logging.getLogger(__name__)

_TABLES = ("position_embeddings", "embed_positions", "wpe")  # names of tables of learned positions


def table_positions(model: Any) -> int | None:
    """The most tokens that the table of a model's position embeddings has room for.

    None means that there is no table, as in models with rotary or relative positions.
    """
    from torch import nn

    room = []
    for name, table in model.named_modules():
        if isinstance(table, nn.Embedding) and name.rpartition(".")[2] in _TABLES:
            unused = getattr(table, "offset", 0)  # BART, OPT
            if table.padding_idx is not None:  # RoBERTa and its relatives
                unused = table.padding_idx + 1
            room.append(table.num_embeddings - unused)
    return min(room, default=None)


def positions(model: Any) -> int | None:
    """The most tokens that a model should read; None means that there is no limit.

    Without a table it is the number in its configuration, up to which it was trained.
    """
    found = table_positions(model)
    if found is not None:
        return found
    limit = getattr(model.config, "max_position_embeddings", None)
    return limit if limit and limit > 0 else None


def folder_positions(folder: Path) -> int | None:
    """`positions` of the model in a folder, without its weights; None if that cannot be known."""
    import torch
    from transformers import AutoConfig, AutoModel

    modules = folder / "modules.json"  # of sentence-transformers
    try:
        parts = json.loads(modules.read_bytes()) if modules.is_file() else []
        first = folder / parts[0]["path"] if parts else folder
        if not (first / "config.json").is_file():
            return None
        config = AutoConfig.from_pretrained(first, local_files_only=True)
        with torch.device("meta"):
            return positions(AutoModel.from_config(config))
    except (OSError, ValueError, LookupError, TypeError, RuntimeError, AttributeError) as error:
        log.debug("%s: the number of positions is not known before loading: %s", folder, error)
        return None


def check_positions(limit: int, room: int | None, name: str) -> None:
    """Check that a model has a position for every token that it may get.

    Args:
        limit: The most tokens that the model may get.
        room: The most tokens that it can read. None means that there is no limit.
        name: The setting that limits the tokens.

    Raises:
        SettingValueError: If the model can read fewer tokens.
    """
    if room is not None and limit > room:
        raise SettingValueError(
            name, f"{name} must be at most {room}, the positions that the model has, got {limit}"
        )


def check_special_tokens(limit: int, tokenizer: Any, name: str, pair: bool = False) -> None:
    """Check that a text keeps some tokens beside those that the tokenizer always adds.

    Args:
        limit: The most tokens that the model may get.
        tokenizer: The model's tokenizer.
        name: The setting that limits the tokens.
        pair: Whether two texts are read together.

    Raises:
        SettingValueError: If the limit leaves no room for the text.
    """
    special = tokenizer.num_special_tokens_to_add(pair=pair)
    if limit <= special:
        raise SettingValueError(
            name,
            f"{name} must be at least {special + 1}, since the model adds {special} tokens of "
            f"its own to a text, got {limit}",
        )
