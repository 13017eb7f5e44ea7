"""The files of the page, without a browser: complete, and safe under a strict policy."""

from __future__ import annotations

import re
import tomllib
from fnmatch import fnmatch
from html.parser import HTMLParser
from pathlib import Path

import pytest

from live.page import page_files

FILES = page_files()
TEXTS = {path: file.body.decode("utf-8") for path, file in FILES.items()}
SCRIPTS = {path: text for path, text in TEXTS.items() if path.endswith(".js")}
FOLDER = Path(__file__).parents[3] / "live" / "page"


class _Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


TAGS = _Tags(TEXTS["/"]).tags
IDS = [attributes["id"] for _, attributes in TAGS if "id" in attributes]


def test_every_file_is_served_with_a_type_that_browsers_accept() -> None:
    on_disk = {f"/static/{path.name}" for path in (FOLDER / "static").iterdir()}
    assert set(FILES) == {"/", *on_disk}
    types = {path: file.media_type.partition(";")[0] for path, file in FILES.items()}
    assert types["/"] == "text/html"
    assert types["/static/page.css"] == "text/css"
    assert all(types[path] == "text/javascript" for path in SCRIPTS)
    assert sum(len(file.body) for file in FILES.values()) < 100_000


def test_the_wheel_has_every_file() -> None:
    settings = tomllib.loads((FOLDER.parents[1] / "pyproject.toml").read_text("utf-8"))
    patterns = settings["tool"]["setuptools"]["package-data"]["live.page"]
    for path in FOLDER.rglob("*"):
        name = path.relative_to(FOLDER).as_posix()
        if path.is_file() and path.suffix not in (".py", ".pyc"):
            assert any(fnmatch(name, pattern) for pattern in patterns), name


@pytest.mark.parametrize("path", TEXTS)
def test_nothing_comes_from_another_host(path: str) -> None:
    text = TEXTS[path].replace("http://www.w3.org/2000/svg", "")  # a name, which nobody fetches
    assert not re.search(r"\bhttps?:|\bwss?:|(?<!:)//[a-z]+\.|@import|data:image", text)


def test_nothing_is_inline() -> None:
    for tag, attributes in TAGS:
        assert tag != "style"
        assert "style" not in attributes
        assert not [name for name in attributes if name.startswith("on")]
        assert tag != "script" or attributes.get("src")
    assert TEXTS["/"].count("</script>") == 1


def test_links_are_relative_and_lead_somewhere() -> None:
    links = [
        a.get("src") or a.get("href") for tag, a in TAGS if tag in ("script", "link", "a", "img")
    ]
    assert links
    for link in links:
        assert f"/{link}" in FILES
    for path, text in SCRIPTS.items():
        for name in re.findall(r'from "\./([^"]+)"', text):
            assert f"/static/{name}" in FILES, path
        assert len(re.findall(r"^import ", text, re.MULTILINE)) == len(
            re.findall(r'from "\./', text)
        )


@pytest.mark.parametrize("path", SCRIPTS)
def test_text_is_never_read_as_html(path: str) -> None:
    ways = (
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|srcdoc|eval\(|Function\("
    )
    assert not re.search(ways, SCRIPTS[path])
    assert not re.search(r"localStorage|sessionStorage|indexedDB|cookie", SCRIPTS[path])


def test_the_elements_that_scripts_ask_for_exist_once() -> None:
    assert len(IDS) == len(set(IDS))
    for path, text in SCRIPTS.items():
        for name in re.findall(r'(?:byId|fromTemplate)\("([^"]+)"\)', text):
            assert name in IDS, f"{path} asks for {name}"
    for name in re.findall(r'formDialog\("(\w+)"', "".join(SCRIPTS.values())):
        assert {f"{name}-dialog", f"{name}-form", f"{name}-error", f"{name}-cancel"} <= set(IDS)


def test_labels_belong_to_something() -> None:
    for _, attributes in TAGS:
        for name in ("for", "aria-labelledby", "aria-describedby"):
            if name in attributes:
                assert attributes[name] in IDS
