"""Sharing banks: as a packed copy in a folder, or on the Hugging Face hub."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TypeVar

from plumbing.hub import hub_folder
from qa.bank.bank import PassageBank
from qa.bank.card import CARD, write_card
from qa.bank.errors import BankError
from qa.bank.manifest import COPY, MANIFEST
from qa.bank.publish import copy_rows, publish_shards
from qa.bank.shard import FOLDER

B = TypeVar("B", bound=PassageBank)

_PATTERNS = [MANIFEST, COPY, CARD, f"{FOLDER}/*"]


def save_pretrained(bank: B, folder: str | Path) -> B:
    """Copy what a bank holds now into a new folder, packed and with a card.

    Each row is checked on the way.

    Args:
        bank: The bank to copy.
        folder: The folder of the copy, which must not hold a bank.

    Returns:
        The copy, open.

    Raises:
        BankError: If there is a bank in the folder already.
        DamagedError: If a row is damaged. Then the copy stays empty.
    """
    copy = type(bank).create(folder, bank.spec)
    view = bank.view
    copy.view = publish_shards(copy.view, lambda: copy_rows(copy.path, view, view.table.places))
    write_card(copy.view)
    return copy


def push_to_hub(
    bank: PassageBank,
    repo_id: str,
    private: bool | None = None,
    token: str | None = None,
    message: str = "Upload bank",
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


def fetched(name: str | Path, revision: str | None = None, token: str | None = None) -> Path:
    """The folder of a bank that lies in a folder or on the hub.

    Args:
        name: A folder, or ``owner/name`` on the Hugging Face hub.
        revision: A branch, tag or commit on the hub.
        token: The token for the hub. None takes the one that is logged in.

    Raises:
        BankError: If there is no such folder, and nothing on the hub.
    """
    found = hub_folder(name, _PATTERNS, revision, token)
    if isinstance(found, str):
        raise BankError(
            f"expected a folder or a bank on the hub that this machine can reach, got "
            f"{str(name)!r}: {found}; check the name, or download it first"
        )
    return found
