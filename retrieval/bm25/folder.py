"""The folder of a BM25 index, which is built whole and then changed in generations.

``manifest.json`` lists the files of one folder of Lucene segments, ``segments-<n>``, with their
checksums. A change is written to ``segments-<n+1>``. This folder starts as hard links to the files
of the generation before, because Lucene never changes a file that it has written. The change takes
effect when the new manifest is renamed over the old one. Readers of the old generation keep its
files open and can go on.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from plumbing.progress import progress
from plumbing.storage.folders import new_folder, only_writer
from plumbing.storage.manifest import FolderError, read_manifest, write_manifest
from retrieval.bm25 import lucene
from retrieval.corpus.corpus import Corpus
from retrieval.index_folder import BUILD, check_built, check_corpus, open_current

log = logging.getLogger(__name__)

WHAT = "BM25 index"
_SEGMENTS = "segments-{}"


def build_index(folder: Path, corpus: Corpus, settings: dict[str, Any], threads: int) -> None:
    """Build an index, unless it exists already.

    Args:
        folder: The index's folder. It appears only when the index is whole.
        corpus: The passages.
        settings: The settings that the manifest records; `retrieval.index_folder.check_settings`
            compares them when the index is opened.
        threads: The number of Java threads.

    Raises:
        DataError: If there is no passage.
        FolderError: If something else is in the folder, or if another process writes to it.
    """
    check_corpus(corpus)
    with only_writer(folder, WHAT):
        if folder.exists() and any(folder.iterdir()):
            check_built(folder, WHAT, settings)
            log.info("%s: the %s is there already", folder, WHAT)
            return
        with new_folder(folder, alone=True) as new:
            first = {**settings, "generation": 0, "passages": len(corpus), "stale": None}
            passages = progress(corpus.passages(), "Indexing passages", len(corpus))
            lucene.append(_segments(new, first), passages, threads)
            lucene.merge(_segments(new, first))
            _publish(new, first)


def open_searcher(
    folder: Path, wanted: dict[str, Any], k1: float, b: float
) -> tuple[dict[str, Any], lucene.Searcher]:
    """Open the current generation, after verifying its checksums and its settings.

    Args:
        folder: The index's folder.
        wanted: The settings that its manifest must contain.
        k1: Saturation of a term's frequency.
        b: How much a passage's length counts, from 0 to 1.

    Returns:
        The settings in the manifest, and the searcher.

    Raises:
        FolderError: If there is no whole index, or if it was made with other settings.
    """
    return open_current(
        folder,
        WHAT,
        wanted,
        lambda settings: (settings, lucene.Searcher(_segments(folder, settings), k1, b)),
    )


def change_index(
    folder: Path, opened: dict[str, Any], edit: Callable[[Path], dict[str, Any]]
) -> dict[str, Any]:
    """Publish a new generation.

    Args:
        folder: The index's folder.
        opened: The settings in the manifest of the generation to change.
        edit: Changes a folder of segments, which starts as a copy of that generation, and returns
            the settings that have changed.

    Returns:
        The settings in the new manifest.

    Raises:
        FolderError: If the index has changed since it was opened, or if another process is
            writing to it.
    """
    with only_writer(folder, WHAT):
        manifest = read_manifest(folder, WHAT, verify=False, remedy=BUILD)
        if manifest["settings"] != opened:
            raise FolderError(
                f"{folder}: another process changed the {WHAT} since it was opened; open it again"
            )
        settings = {**opened, "generation": opened["generation"] + 1}
        new = _segments(folder, settings)
        shutil.rmtree(new, ignore_errors=True)  # left by a writer that crashed
        try:
            settings |= _edit_copy(folder, manifest["files"], new, edit)
            _publish(folder, settings, _unchanged(folder, manifest["files"], new))
        except BaseException:
            shutil.rmtree(new, ignore_errors=True)
            raise
        for other in folder.glob(_SEGMENTS.format("*")):
            if other != new:
                shutil.rmtree(other, ignore_errors=True)
        return settings


def _edit_copy(
    folder: Path, files: dict[str, Any], new: Path, edit: Callable[[Path], dict[str, Any]]
) -> dict[str, Any]:
    new.mkdir()
    for name in files:
        try:
            os.link(folder / name, new / Path(name).name)
        except OSError:  # a file system without hard links
            shutil.copy2(folder / name, new / Path(name).name)
    return edit(new)


def _unchanged(folder: Path, files: dict[str, Any], new: Path) -> dict[str, Any]:
    """The manifest's entries for the files that the change has kept, under their new names.

    The old checksums are kept: computing them again would hide damage to a file.
    """
    here = {f"{new.name}/{Path(name).name}": name for name in files}
    return {
        there: files[name]
        for there, name in here.items()
        if (folder / there).is_file() and (folder / there).samefile(folder / name)
    }


def _segments(folder: Path, settings: dict[str, Any]) -> Path:
    return folder / _SEGMENTS.format(settings["generation"])


def _publish(folder: Path, settings: dict[str, Any], known: dict[str, Any] | None = None) -> None:
    segments = _segments(folder, settings)
    found = lucene.count(segments)
    if found != settings["passages"]:
        raise FolderError(
            f"{segments}: expected {settings['passages']} passages, Lucene holds {found}; run it "
            f"again"
        )
    names = [path.name for path in segments.iterdir() if path.name != lucene.LOCK]
    write_manifest(folder, settings, [f"{segments.name}/{name}" for name in names], known)
