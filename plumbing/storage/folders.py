"""Folders that a reader finds whole or not at all, and the right to be their only writer."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import shutil
import socket
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from plumbing.storage.manifest import FolderError


@contextmanager
def only_writer(folder: Path, what: str, wait: bool = False) -> Iterator[None]:
    """Hold the right to write a folder while the block runs. The folder need not exist yet.

    The lock is held on a file beside the folder, ``.<name>.lock``. The file stays there, but the
    system frees the lock when its holder ends, however it ends. Readers need no lock.

    Args:
        folder: The folder to write.
        what: What messages call the folder, such as "BM25 index".
        wait: Whether to wait until another writer has finished.

    Raises:
        FolderError: If another process or thread holds the right and ``wait`` is false.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f".{folder.name}.lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            file.seek(0)
            raise FolderError(
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
    """Give a folder its final name, and remove the folder that had this name before.

    On Linux the two folders exchange their names at once, so there is always a folder with the
    final name. Where the system or the file system cannot do that, the old folder first moves to
    ``.<name>.old``. If the process is killed before the new folder has its name, the old one is
    still found there.

    Args:
        new: The whole new folder, in the same parent as ``folder``.
        folder: The final path.
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
    """Exchange the names of two folders; return False where that cannot be done at once."""
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
def new_folder(
    folder: Path, replace: bool | Callable[[Path], bool] = False, alone: bool = False
) -> Iterator[Path]:
    """Fill a folder under a temporary name, and give it its own name when the block ends well.

    Readers therefore find the whole folder or none. When the block raises an error, the temporary
    folder is removed. When the process is killed, the temporary folder stays, and the next call for
    the same folder removes it.

    Args:
        folder: The final path.
        replace: What to do with a folder that is at the final path when the block ends. True
            replaces it. False leaves it, unless it is empty, and raises an error. A function gets
            its path and says whether to replace it; if the function returns False, the new folder
            is dropped, because another process was faster.
        alone: Whether nobody else makes this folder at the same time, as inside `only_writer`. The
            temporary name is then ``.<name>.building``, and whatever has it is removed. Otherwise
            the name holds this machine and process, and only what processes of this machine left
            that have ended is removed.

    Yields:
        The empty folder to fill, in the same parent, which is made if needed.

    Raises:
        OSError: If ``replace`` is False and something is at the final path.
    """
    if alone:
        temporary = folder.with_name(f".{folder.name}.building")
        shutil.rmtree(temporary, ignore_errors=True)
    else:
        prefix = f".{folder.name}.{socket.gethostname()}-{_process_space()}."
        _remove_abandoned(folder.parent, prefix)
        temporary = folder.with_name(f"{prefix}{os.getpid()}.{uuid.uuid4().hex[:8]}")
    temporary.mkdir(parents=True)
    try:
        yield temporary
        if replace is False:
            temporary.rename(folder)
        elif replace is True:
            publish_folder(temporary, folder)
        else:
            _publish_unless_made(temporary, folder, replace)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _process_space() -> str:
    """Which processes can be seen from here; containers with one host name may differ in it."""
    try:
        return str(Path("/proc/self/ns/pid").stat().st_ino)
    except OSError:
        return "0"


def _remove_abandoned(parent: Path, prefix: str) -> None:
    """Remove temporary folders of processes of this machine that have ended."""
    for path in parent.iterdir() if parent.is_dir() else ():
        process = path.name.removeprefix(prefix).partition(".")[0]
        if path.name.startswith(prefix) and process.isdecimal() and not _is_alive(int(process)):
            shutil.rmtree(path, ignore_errors=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # it is another user's
        return True
    return True


def _publish_unless_made(new: Path, folder: Path, replace: Callable[[Path], bool]) -> None:
    """Publish a folder, unless another process has published one there that is good enough."""
    if folder.exists() and not replace(folder):
        return
    try:
        publish_folder(new, folder)
    except OSError:
        # Another process published one between the check and the rename.
        if not folder.exists() or replace(folder):
            raise
