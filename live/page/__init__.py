"""The page that the server serves: HTML, CSS and JavaScript without a build step."""

from live.page.files import PageFile, page_files

__all__ = ["PageFile", "page_files"]
