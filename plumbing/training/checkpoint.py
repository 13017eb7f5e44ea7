"""Checkpoints that survive a kill at any moment, and of which damage is noticed.

A checkpoint is the zip archive that ``torch.save`` writes. The comment of the archive holds the
SHA-256 of every byte before it, so that the file and its digest cannot be separated, and
``torch.load`` still reads it. The version that a save replaces is kept beside the new one: there is
a ``last.previous.ckpt`` beside ``last.ckpt``.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import struct
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import torch
from lightning.pytorch.plugins.io import CheckpointIO
from lightning.pytorch.utilities import rank_zero_warn

from plumbing.storage.files import write_whole

_MARK = b"sha256:"
_SEAL_SIZE = len(_MARK) + 64
_END_RECORD = b"PK\x05\x06"  # zip's end of central directory; its last two bytes: comment length
_END_SIZE = 22
_BLOCK = 1 << 20


class CheckpointError(ValueError):
    """A checkpoint is missing, damaged or of another kind. The message says what to do."""


class _DamageError(Exception):
    """A file is not what was written. The message says how this was noticed."""


class AtomicCheckpointIO(CheckpointIO):
    """Writes each checkpoint beside the one it replaces, and reads back only whole ones.

    Deviation from Lightning: the temporary file is always in the checkpoint's own folder, a
    checkpoint is always loaded with ``weights_only=True``, and a missing file is an error.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        """Write a checkpoint. Whenever the process dies, one whole version can be loaded.

        Args:
            checkpoint: What Lightning collected.
            path: The file. The version that is there becomes ``<stem>.previous.ckpt``.
            storage_options: Must be None.

        Raises:
            CheckpointError: If the path is not one of this machine.
            TypeError: If ``storage_options`` are given.
        """
        if storage_options is not None:
            raise TypeError("storage_options are not supported; checkpoints are local files")
        path = _local(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        # A training has one writer; what a killed save left is as large as a checkpoint.
        with write_whole(path, sync=False, sync_name=True, alone=True) as file:
            temporary = Path(file.name)
            torch.save(checkpoint, temporary)
            _seal(temporary)  # waits for the disk, before the version there is set aside
            _keep(path)

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Any | None = None,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """Read a checkpoint. If it is damaged, warn and read the version before it.

        Args:
            path: The file.
            map_location: As in ``torch.load``. The default is the CPU.
            weights_only: Must not be False: a checkpoint here never needs arbitrary pickles.

        Raises:
            CheckpointError: If neither version can be loaded.
        """
        if weights_only is False:
            raise CheckpointError(
                f"{path}: checkpoints are loaded with weights_only=True, got weights_only=False; "
                "leave it out"
            )
        return _load(_local(path), "cpu" if map_location is None else map_location)

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove a checkpoint, the version before it, and whatever a killed save left behind."""
        path = _local(path)
        for file in (path, previous_path(path), _temporary(path), _link(path)):
            file.unlink(missing_ok=True)


def previous_path(path: Path) -> Path:
    """The file that keeps the version before the one at ``path``."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def load_checkpoint(path: Path, needs: Sequence[str] = ()) -> dict[str, Any]:
    """Load what was trained beside a frozen backbone; if it is damaged, the version before it.

    Args:
        path: A file that training wrote.
        needs: The keys that a checkpoint of the expected kind has.

    Returns:
        The checkpoint, on the CPU.

    Raises:
        CheckpointError: If the checkpoint is missing, is damaged and has no version before it, or
            is of another kind.
    """
    checkpoint = _load(path, "cpu")
    missing = [key for key in needs if key not in checkpoint]
    if missing:
        raise CheckpointError(
            f"{path} is no checkpoint of this project: expected the keys {', '.join(needs)}, "
            f"got none named {', '.join(missing)}; give as ckpt_path a file that training wrote"
        )
    return checkpoint


def _load(path: Path, map_location: Any) -> dict[str, Any]:
    problems: list[str] = []
    for candidate in (path, previous_path(path)):
        try:
            _verify(candidate)
        except _DamageError as error:
            problems.append(f"{candidate}: {error}")
            continue
        if problems:
            rank_zero_warn(
                f"{problems[0]}; going on from the version before it, {candidate}",
                category=UserWarning,
            )
        return _read(candidate, map_location)
    others = sorted(file.name for file in path.parent.glob("*.ckpt") if file.is_file())
    hint = f"the folder holds {', '.join(others)}" if others else "the folder holds no *.ckpt"
    raise CheckpointError(
        f"no checkpoint can be loaded: {'; '.join(problems)}. Give another ckpt_path ({hint}), or "
        "none to start afresh"
    )


def _read(path: Path, map_location: Any) -> dict[str, Any]:
    """Unpickle a file that is known to be whole. If this fails, the file was never ours."""
    try:
        checkpoint = torch.load(path, map_location=map_location, weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, LookupError, ValueError) as error:
        raise CheckpointError(
            f"{path} is whole, but does not load with weights_only=True "
            f"({str(error).splitlines()[0]}); give a checkpoint that this project wrote"
        ) from error
    if not isinstance(checkpoint, dict):
        raise CheckpointError(
            f"{path}: expected a dictionary, got {type(checkpoint).__name__}; give a checkpoint "
            "that this project wrote"
        )
    return checkpoint


def _keep(path: Path) -> None:
    """Make the version at ``path`` the previous one, and leave it in place in the meantime."""
    try:
        _verify(path)
    except _DamageError:
        return  # the file is missing or damaged, so the previous version is worth more
    if path.is_symlink():
        return
    link = _link(path)
    link.unlink(missing_ok=True)
    try:
        link.hardlink_to(path)
    except OSError:  # The file system has no hard links: for a moment only the previous one exists.
        path.replace(previous_path(path))
    else:
        link.replace(previous_path(path))
        link.unlink(missing_ok=True)  # renaming one name of a file to another leaves both


def _seal(path: Path) -> None:
    """Put the SHA-256 of the archive into its comment, and wait until both are on the disk."""
    with path.open("r+b") as file:
        file.seek(-_END_SIZE, os.SEEK_END)
        if file.read(_END_SIZE)[: len(_END_RECORD)] != _END_RECORD:
            raise RuntimeError(f"{path}: torch.save wrote no zip archive without a comment")
        file.seek(-2, os.SEEK_END)
        file.write(struct.pack("<H", _SEAL_SIZE))
        size = file.tell()
        file.seek(0)
        digest = _digest(file, size)
        file.write(_MARK + digest.encode())
        file.flush()
        os.fsync(file.fileno())


def _verify(path: Path) -> None:
    """Check every byte of a file against its seal or, if it has none, against zip's checksums."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END) - _SEAL_SIZE
            file.seek(max(size, 0))
            seal = file.read()
            file.seek(0)
            if not seal.startswith(_MARK):
                _verify_zip(file)
            elif seal[len(_MARK) :] != _digest(file, size).encode():
                raise _DamageError("damaged, its SHA-256 is not the one it was written with")
    except FileNotFoundError as error:
        raise _DamageError("no such file") from error
    except OSError as error:
        raise _DamageError(f"cannot be read ({error.strerror or error})") from error


def _verify_zip(file: BinaryIO) -> None:
    try:
        with zipfile.ZipFile(file) as archive:
            bad = "its seal" if archive.comment else archive.testzip()
    except (zipfile.BadZipFile, zlib.error, EOFError, struct.error) as error:
        raise _DamageError(f"damaged or truncated, not a whole zip archive ({error})") from error
    except (NotImplementedError, RuntimeError, ValueError, LookupError) as error:
        raise _DamageError(f"damaged, its zip directory makes no sense ({error})") from error
    if bad is not None:
        raise _DamageError(f"damaged at {bad}")


def _digest(file: BinaryIO, size: int) -> str:
    """The SHA-256 of the next ``size`` bytes."""
    digest = hashlib.sha256()
    while size > 0 and (block := file.read(min(size, _BLOCK))):
        digest.update(block)
        size -= len(block)
    return digest.hexdigest()


def _temporary(path: Path) -> Path:
    """The temporary file of `write_whole`, which a killed save leaves behind."""
    return path.with_name(f".{path.name}.tmp")


def _link(path: Path) -> Path:
    return path.with_name(f".{path.name}.link")


def _local(path: str | Path) -> Path:
    if "://" in str(path):
        raise CheckpointError(
            f"checkpoints are local files, got {path}; copy it here, and give its path"
        )
    return Path(path)
