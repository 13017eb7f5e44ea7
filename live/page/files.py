"""The files of the page, by the paths that they are served under."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_FOLDER = Path(__file__).parent

# A system's own table may call JavaScript "text/plain", and a browser then refuses modules.
_MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


@dataclass(frozen=True)
class PageFile:
    """One file of the page.

    Attributes:
        body: What is in it.
        media_type: The value of the header ``Content-Type``.
    """

    body: bytes
    media_type: str


def page_files() -> dict[str, PageFile]:
    """Read the files of the page from the package.

    All of them are in memory together (less than 100 kB). A server that looks a path up in the
    dictionary cannot be led out of the folder by it.

    Returns:
        Each file by its path: ``/`` for the page itself, ``/static/page.js`` and so on. The page
        names its files and the server's endpoints by relative URLs, so that it also works behind a
        proxy that adds a prefix to the paths.
    """
    files = {"/": _read(_FOLDER / "index.html")}
    for path in sorted((_FOLDER / "static").iterdir()):
        if path.suffix in _MEDIA_TYPES:
            files[f"/static/{path.name}"] = _read(path)
    return files


def _read(path: Path) -> PageFile:
    return PageFile(path.read_bytes(), _MEDIA_TYPES[path.suffix])
