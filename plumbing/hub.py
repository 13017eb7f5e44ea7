"""Folders that lie on this machine or on the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def hub_folder(
    name: str | Path,
    patterns: Sequence[str],
    revision: str | None = None,
    token: str | None = None,
) -> Path | str:
    """The folder of a name, which is downloaded if it is one of the hub.

    Args:
        name: A folder, or ``owner/name`` on the hub.
        patterns: The files that are downloaded.
        revision: A branch, tag or commit on the hub.
        token: The token for the hub. None takes the one that is logged in.

    Returns:
        The folder; or, if there is none, what the hub said about it.
    """
    folder = Path(name)
    if folder.is_dir():
        return folder
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
    )

    try:
        return Path(
            snapshot_download(
                str(name), revision=revision, token=token, allow_patterns=list(patterns)
            )
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        return str(error).strip().partition("\n")[0]
