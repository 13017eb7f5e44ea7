"""Who imports whom, and nothing heavy at the top.

plumbing <- backbone, retrieval <- qa <- genpoe, dmoe <- live <- benchmarks <- scripts
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

LIBRARY = ("plumbing", "backbone", "retrieval", "qa")
ALLOWED = {
    "plumbing": {"plumbing"},
    "backbone": {"plumbing", "backbone"},
    "retrieval": {"plumbing", "retrieval"},
    "qa": {*LIBRARY},
    "genpoe": {*LIBRARY, "genpoe"},
    "dmoe": {*LIBRARY, "dmoe"},
    "live": {*LIBRARY, "genpoe", "dmoe", "live"},
    "benchmarks": {*LIBRARY, "genpoe", "dmoe", "live", "benchmarks"},
    "scripts": {*LIBRARY, "genpoe", "dmoe", "live", "benchmarks", "scripts"},
}
HEAVY = {"pyserini", "jnius", "faiss", "FlagEmbedding", "datasets"}

FILES = sorted(path for package in ALLOWED for path in (ROOT / package).rglob("*.py"))


def imported(nodes: Iterator[ast.AST]) -> set[str]:
    """Top-level names of the modules that the import statements among the nodes name."""
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").partition(".")[0] if node.level == 0 else "<relative>")
    return names


def at_import(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes that run when the module is imported: everything outside functions.

    What stands under ``if TYPE_CHECKING:`` does not run either.
    """
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            for other in child.orelse:
                yield other
                yield from at_import(other)
            continue
        yield child
        yield from at_import(child)


def forbidden(package: str, source: str) -> set[str]:
    """What a file of the package imports, anywhere in it, but may not."""
    names = imported(ast.walk(ast.parse(source)))
    return names & (set(ALLOWED) | {"tests", "<relative>"}) - ALLOWED[package]


def heavy(source: str) -> set[str]:
    """The heavy modules that importing the file would import."""
    return imported(at_import(ast.parse(source))) & HEAVY


def test_there_are_files_to_check():
    packages = {path.relative_to(ROOT).parts[0] for path in FILES}
    assert packages == set(ALLOWED)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_flow_one_way_and_are_light(path: Path):
    source = path.read_text(encoding="utf-8")
    assert forbidden(path.relative_to(ROOT).parts[0], source) == set()
    assert heavy(source) == set()


@pytest.mark.parametrize(
    ("package", "source", "found"),
    [
        ("retrieval", "import qa.data.dataset", {"qa"}),
        ("retrieval", "def f():\n    from qa import x", {"qa"}),
        ("qa", "from genpoe.model import GenPoE", {"genpoe"}),
        ("backbone", "import retrieval.passage", {"retrieval"}),
        ("plumbing", "from backbone.model import Backbone", {"backbone"}),
        ("dmoe", "import benchmarks.timing", {"benchmarks"}),
        ("dmoe", "import live.session", {"live"}),
        ("live", "import benchmarks.timing", {"benchmarks"}),
        ("genpoe", "import dmoe", {"dmoe"}),
        ("dmoe", "import genpoe.experts as e", {"genpoe"}),
        ("dmoe", "if TYPE_CHECKING:\n    import genpoe", {"genpoe"}),
        ("genpoe", "from scripts import evaluate", {"scripts"}),
        ("qa", "from . import dataset", {"<relative>"}),
        ("qa", "from tests.conftest import x", {"tests"}),
        (
            "genpoe",
            "import torch, qa.data.dataset\nfrom plumbing.storage.jsonl import read_jsonl",
            set(),
        ),
        ("scripts", "import genpoe, dmoe, qa, retrieval", set()),
    ],
)
def test_the_check_sees_what_it_forbids(package: str, source: str, found: set[str]):
    assert forbidden(package, source) == found


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import datasets", {"datasets"}),
        ("try:\n    import faiss\nexcept ImportError:\n    pass", {"faiss"}),
        ("class C:\n    from pyserini.search import x", {"pyserini"}),
        ("if TYPE_CHECKING:\n    import faiss\nelse:\n    import datasets", {"datasets"}),
        ("if typing.TYPE_CHECKING:\n    import faiss", set()),
        ("def f():\n    from datasets import load_dataset", set()),
        ("from qa.datasets import x", set()),
    ],
)
def test_the_check_sees_what_is_heavy(source: str, found: set[str]):
    assert heavy(source) == found
