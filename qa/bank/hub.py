"""Sharing banks: as a packed copy in a folder, or on the Hugging Face hub."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from backbone.model import Backbone
from qa.bank.bank import Bank
from dmoe.bank.card import CARD, write_card
from qa.bank.errors import BankError
from qa.bank.manifest import COPY, MANIFEST
from qa.bank.publish import copy_rows, publish_shards
from qa.bank.shard import FOLDER

_PATTERNS = [MANIFEST, COPY, CARD, f"{FOLDER}/*"]


def save_pretrained(bank: Bank, folder: str | Path) -> Bank:
    """Copy what a bank holds now into a new folder, packed and with a card.

    Each expert is checked on the way.

    Args:
        bank: The bank to copy.
        folder: The folder of the copy, which must not hold a bank.

    Returns:
        The copy, open.

    Raises:
        BankError: If there is a bank in the folder already.
        DamagedExpertError: If an expert is damaged. Then the copy stays empty.
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
    """Upload what a bank holds now in one commit, so that nobody downloads half of it.

    Args:
        bank: The bank to upload.
        repo_id: ``owner/name`` on the Hugging Face hub. The repository is made if it is missing.
        private: Whether a new repository is private. None leaves this to the owner's account.
        token: The token for the hub. None takes the one that is logged in.
        message: The message of the commit.

    Returns:
        The address of the commit.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    api.create_repo(repo_id, private=private, exist_ok=True)
    # The copy lies beside the bank, where there is most likely room for it.
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
        backbone: The model that the experts must belong to. None accepts any.
        recipe: The recipe that the experts must have been trained with. None accepts any.
        revision: A branch, tag or commit on the hub.
        token: The token for the hub. None takes the one that is logged in.

    Raises:
        BankError: If there is no such bank, or if it belongs to another backbone or recipe.
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
