"""Banks as folders to share: copied out whole, pushed to a hub, and opened from either."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from backbone.model import Backbone
from dmoe.bank.bank import Bank
from dmoe.bank.card import CARD, write_card
from dmoe.bank.errors import BankError
from dmoe.bank.manifest import COPY, MANIFEST
from dmoe.bank.publish import copy_rows, publish_shards
from dmoe.bank.shard import FOLDER

_PATTERNS = [MANIFEST, COPY, CARD, f"{FOLDER}/*"]


def save_pretrained(bank: Bank, folder: str | Path) -> Bank:
    """Copy what a bank holds now into a new folder: packed, each expert checked, with a card.

    Args:
        bank: The bank.
        folder: Where to; there must be no bank in it.

    Returns:
        The copy.

    Raises:
        BankError: If there is a bank already.
        DamagedExpertError: If an expert is damaged; then the copy stays empty.
    """
    copy = Bank.create(folder, bank.spec)
    view = bank.view
    copy.view = publish_shards(copy.view, lambda: copy_rows(copy.path, view, view.table.places))
    write_card(copy.view)
    return copy


def push_to_hub(
    bank: Bank,
    repo_id: str,
    private: bool | None = None,
    token: str | None = None,
    message: str = "Upload expert bank",
) -> str:
    """Upload what a bank holds now, in one commit: who downloads sees all of it or none.

    Args:
        bank: The bank.
        repo_id: ``owner/name`` on the Hugging Face hub; made when missing.
        private: Whether a new repository is private; None: as the owner's account says.
        token: The hub's token; None: the one that is logged in.
        message: The commit's message.

    Returns:
        The commit's address.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    api.create_repo(repo_id, private=private, exist_ok=True)
    # Beside the bank, where there is room for another one.
    with tempfile.TemporaryDirectory(prefix=".push-", dir=bank.path.parent) as folder:
        save_pretrained(bank, folder)
        commit = api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            allow_patterns=_PATTERNS,
            delete_patterns=[f"{FOLDER}/*"],
            commit_message=message,
        )
    return str(commit.commit_url)


def from_pretrained(
    name: str | Path,
    backbone: Backbone | None = None,
    recipe: Mapping[str, Any] | None = None,
    revision: str | None = None,
    token: str | None = None,
) -> Bank:
    """Open a bank for reading, from a folder or from the hub.

    Args:
        name: A folder, or ``owner/name`` on the Hugging Face hub.
        backbone: The model that its experts must belong to; None: any.
        recipe: The recipe that they must have been trained by; None: any.
        revision: Branch, tag or commit on the hub.
        token: The hub's token; None: the one that is logged in.

    Raises:
        BankError: If there is no such bank, or it does not fit.
    """
    folder = Path(name)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import (
            HfHubHTTPError,
            HFValidationError,
            LocalEntryNotFoundError,
        )

        try:
            folder = Path(
                snapshot_download(
                    str(name), revision=revision, token=token, allow_patterns=_PATTERNS
                )
            )
        except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
            first_line = str(error).strip().partition("\n")[0]
            raise BankError(
                f"expected a folder or a bank on the hub that this machine can reach, got "
                f"{str(name)!r}: {first_line}; check the name, or download it first"
            ) from error
    return Bank.open(folder, backbone, recipe, read_only=True)
