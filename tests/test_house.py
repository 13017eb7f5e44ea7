"""The numbers of ``tests/house.py``, on a small house where they can be counted by hand."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

import pytest

from tests.house import (
    MOST_MODULES,
    Module,
    circles,
    crowded_folders,
    import_circles,
    mechanisms,
    modules_per_folder,
    public_definitions,
    read_house,
    read_imports,
    repeated_bodies,
    repeated_names,
    report,
    says_nothing,
)

ROOT = Path(__file__).parents[1]


@functools.cache
def this_house() -> list[Module]:
    """The modules of this checkout, read once."""
    return list(read_house(ROOT))


FILES = {
    "plumbing/__init__.py": "",
    "plumbing/files.py": '''"""Files."""
import os, tempfile

def write(path, data):
    """Write."""
    part = path.with_name("x")
    part.write_bytes(data)
    part.replace(path)
    "text".replace("a", "b")

def new_folder(path):
    part = tempfile.mkdtemp()
    os.rename(part, path)
''',
    "plumbing/store/__init__.py": "from plumbing.store.one import One\n",
    "plumbing/store/one.py": '''from __future__ import annotations
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from plumbing.store.three import Three
MANIFEST = "manifest.json"

class One:
    """See `Two`."""
    def two(self):
        from plumbing.store.two import Two
        return Two

    def _hidden(self):
        pass
''',
    "plumbing/store/two.py": "from plumbing.store.one import One\nclass Two(One): pass\n",
    "plumbing/store/three.py": "import plumbing.store.one\nclass Two: pass\n",
    "qa/__init__.py": "",
    "qa/batches.py": '''"""Batches."""
import hashlib, json, time
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm
from plumbing import files

def pad(rows):
    ids = torch.zeros(len(rows), 3)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
    return ids

def pad_too(rows):
    return pad_sequence(rows)

def key(value):
    start = time.perf_counter()
    for _ in tqdm(range(3)):
        pass
    took = time.perf_counter() - start
    return hashlib.sha256(json.dumps(value).encode()).hexdigest(), hashlib.sha256(b"")

def table(rows):
    """Rows.

    | a | b |
    | --- | --- |
    """
    return ["a", "---", "---:"]
''',
    "scripts/run.py": "from qa.batches import pad\n",
    "tests/__init__.py": "",
    "other/not_a_package.py": "",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, source in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, encoding="utf-8")
    return tmp_path


def test_packages_and_folders(root: Path) -> None:
    modules = read_house(root)
    assert {module.package for module in modules} == {"plumbing", "qa", "scripts"}
    assert modules_per_folder(modules) == {
        "plumbing/store": 3,
        "plumbing": 1,
        "qa": 1,
        "scripts": 1,
    }
    for number in range(MOST_MODULES):
        (root / "qa" / f"more{number}.py").write_text("")
    assert crowded_folders(read_house(root)) == {"qa": MOST_MODULES + 1}


def test_imports_and_circles(root: Path) -> None:
    imports = read_imports(read_house(root))
    assert imports.top["qa.batches"] == {"plumbing.files"}
    assert imports.top["plumbing.store.one"] == set()
    assert imports.late["plumbing.store.one"] == {"plumbing.store.two"}
    assert imports.typing["plumbing.store.one"] == {"plumbing.store.three"}
    assert circles(imports.top) == []
    assert import_circles(read_house(root)) == [["plumbing.store.one", "plumbing.store.two"]]


def test_circles_of_a_graph() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": {"e"}, "e": {"d"}, "f": {"a"}}
    assert circles(graph) == [["b", "c"], ["d", "e"]]


def test_docstrings(root: Path) -> None:
    modules = {module.name: module for module in read_house(root)}
    found = [(kind, name) for kind, name, _ in public_definitions(modules["plumbing.store.one"])]
    assert found == [
        ("modules", "plumbing.store.one"),
        ("classes", "plumbing.store.one.One"),
        ("methods", "plumbing.store.one.One.two"),
    ]
    assert says_nothing("See `Two`.")
    assert says_nothing("The same.")
    assert not says_nothing("See `Two`; the rows are padded.")
    names = repeated_names(modules.values())
    assert names == {"plumbing: Two": ["plumbing.store.three", "plumbing.store.two"]}


def test_copies_of_functions(root: Path) -> None:
    body = "    found = [row for row in {} if len(row) > 1]\n    return sorted(found, key=len)\n"
    said = '    """Rows."""\n'
    written = {
        "plumbing/rows.py": f"def long(rows: list[str]) -> list[str]:\n{said}{body.format('rows')}",
        "qa/others.py": f"class One:\n  def of(self, rows):\n{body.format('rows')}",
        "qa/__init__.py": f"def __getattr__(rows):\n{body.format('rows')}",
        "qa/different.py": f"def long(texts):\n{body.format('texts')}",
        "qa/short.py": "def two():\n    return 2\n",
        "qa/short_too.py": "def two():\n    return 2\n",
    }
    for name, source in written.items():
        (root / name).write_text(source, encoding="utf-8")
    assert repeated_bodies(read_house(root)) == [["plumbing.rows.long", "qa.others.One.of"]]


def test_mechanisms(root: Path) -> None:
    found = {
        name.partition(" (")[0]: [(site.module, site.function) for site in sites]
        for name, sites in mechanisms(read_house(root)).items()
    }
    assert found == {
        "functions that make a new folder, then rename it": [("plumbing.files", "new_folder")],
        "renames of what was written aside": [
            ("plumbing.files", "write"),
            ("plumbing.files", "new_folder"),
        ],
        "temporary files and folders": [("plumbing.files", "new_folder")],
        "manifest formats": [("plumbing.store.one", "")],
        "padding functions": [("qa.batches", "pad"), ("qa.batches", "pad_too")],
        "`sha256(` call sites": [("qa.batches", "key"), ("qa.batches", "key")],
        "functions that hash JSON": [("qa.batches", "key")],
        "progress bars": [("qa.batches", "key")],
        "Markdown table makers": [("qa.batches", "table")],
        "stopwatches": [("qa.batches", "key")],
    }


def test_the_page_of_this_checkout() -> None:
    page = report(ROOT)
    assert "## Import circles" in page
    assert "| all |" in page
    (row,) = [line for line in page.splitlines() if line.startswith("| `sha256(` call sites")]
    assert int(row.split("|")[2]) > 0


def test_a_folder_without_packages_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="found no"):
        read_house(tmp_path)


def test_no_folder_of_a_package_is_crowded() -> None:
    assert crowded_folders(this_house()) == {}


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert import_circles(this_house()) == []


def test_no_two_public_names_of_a_package_are_the_same() -> None:
    assert repeated_names(this_house()) == {}


def test_no_function_is_a_copy_of_another_one() -> None:
    assert repeated_bodies(this_house()) == []


def test_everything_public_says_what_it_is() -> None:
    undocumented = [
        name
        for module in this_house()
        for _, name, node in public_definitions(module)
        if not (said := ast.get_docstring(node)) or says_nothing(said)
    ]
    assert undocumented == []


# Folders of tests that mirror no folder of a package.
NO_MIRRORS = {
    "docs": "what the pages say",
    "fixtures": "files that tests open",
    "helpers": "doubles and tiny models",
    "sockets": "what every implementation of a socket must do",
}


def with_modules(root: Path) -> set[str]:
    """The folders below a root that hold Python files, by their paths from it."""
    files = (file for file in root.rglob("*.py") if file.name != "__init__.py")
    return {file.parent.relative_to(root).as_posix() for file in files}


def test_the_tests_mirror_the_packages() -> None:
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests"}
    rooms = {
        f"{package}/{folder}".removesuffix("/.")
        for package in packages
        for folder in with_modules(ROOT / package)
    }
    mirrored = {
        folder
        for folder in with_modules(ROOT / "tests")
        if folder != "." and folder.partition("/")[0] not in NO_MIRRORS
    }
    assert sorted(rooms - mirrored) == []
    assert sorted(mirrored - rooms) == []
