"""One writer at a time, and folders that are whole or not there."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from plumbing.storage.manifest import IndexFolderError


@contextmanager
def only_writer(folder: Path, what: str, wait: bool = False) -> Iterator[None]:
    """Hold the right to write a folder, which need not exist yet.

    The lock is a file beside the folder, ``.<name>.lock``; it stays, and the system frees it when
    its holder ends, however it ends. Readers need none.

    Args:
        folder: The folder.
        what: How messages call it, such as "BM25 index".
        wait: Whether to wait for another writer.

    Raises:
        IndexFolderError: If another process or thread writes it and ``wait`` is false.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f".{folder.name}.lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            file.seek(0)
            raise IndexFolderError(
                f"{folder}: another process (id {file.read().strip() or 'unknown'}) is writing "
                f"this {what}; wait until it has ended, or give another folder"
            ) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


_HERE = -100  # Linux: AT_FDCWD
_EXCHANGE = 2  # Linux: RENAME_EXCHANGE


def publish_folder(new: Path, folder: Path) -> None:
    """Give a folder its final name, in place of the one that may be there, which is removed.

    On Linux the two change names at once, so that under the final name there is always one of them.
    Where the system or the file system cannot do that, the old one first moves aside, to
    ``.<name>.old``, and is there if the process is killed before the new one has its name.

    Args:
        new: The folder, whole, in the same parent.
        folder: Its final path.
    """
    if not folder.exists():
        new.rename(folder)
    elif _exchanged(new, folder):
        shutil.rmtree(new)
    else:
        old = folder.with_name(f".{folder.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
        new.rename(folder)
        shutil.rmtree(old)


def _exchanged(one: Path, other: Path) -> bool:
    """Let two folders change names; False where that cannot be done at once."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    if rename(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), str(other))


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Fill a folder under a temporary name; give it its own by one rename when the block ends well.

    Call it as the only writer: what a crashed builder left under the temporary name,
    ``.<name>.building``, is removed first.

    Args:
        folder: Its final path, where nothing or an empty folder may be.

    Yields:
        The empty folder to fill, in the same parent.
    """
    temporary = folder.with_name(f".{folder.name}.building")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
