"""How the code is laid out, in numbers: ``python tests/house.py [ROOT]`` prints Markdown.

ROOT is a checkout, this one by default. A package is a folder at its root with an ``__init__.py``;
``scripts`` counts as one, and ``tests`` does not. Files are parsed and never imported, so that any
version of the code can be measured. What a mechanism is ("a stopwatch") is decided by simple rules,
which stand beside each number: they are meant for comparing two versions, not for judging one.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

MOST_MODULES = 15  # of a folder
LEAST_BODY = 25  # nodes of the syntax tree; a call with two arguments has about ten

Function = ast.FunctionDef | ast.AsyncFunctionDef
Graph = dict[str, set[str]]


@dataclass(frozen=True)
class Module:
    """A Python file of a package.

    Attributes:
        name: As it is imported, such as ``qa.metrics``; of an ``__init__.py`` its folder's.
        path: The file.
        source: What is in it.
    """

    name: str
    path: Path
    source: str

    @property
    def package(self) -> str:
        """The folder at the root."""
        return self.name.partition(".")[0]

    @property
    def is_folder(self) -> bool:
        """Whether it is an ``__init__.py``."""
        return self.path.name == "__init__.py"

    @property
    def lines(self) -> int:
        """Lines of the file."""
        return len(self.source.splitlines())

    @cached_property
    def tree(self) -> ast.Module:
        """What Python's parser makes of it."""
        return ast.parse(self.source, str(self.path))

    @cached_property
    def nodes(self) -> list[tuple[str, ast.AST]]:
        """Every node with the dotted name of the innermost function that it stands in."""
        return list(_walk(self.tree, "", ""))

    @cached_property
    def calls(self) -> list[tuple[str, ast.Call, str]]:
        """Every call, with the function that it stands in and the dotted name of what is called."""
        return [
            (function, node, _dotted(node.func))
            for function, node in self.nodes
            if isinstance(node, ast.Call)
        ]


def _walk(node: ast.AST, inside: str, prefix: str) -> Iterator[tuple[str, ast.AST]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function | ast.ClassDef):
            name = f"{prefix}{child.name}"
            here = inside if isinstance(child, ast.ClassDef) else name
            yield here, child
            yield from _walk(child, here, f"{name}.")
        else:
            yield inside, child
            yield from _walk(child, inside, prefix)


def _dotted(node: ast.expr) -> str:
    """``a.b.c`` of names and attributes; whatever else an attribute is of reads ``?``."""
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def read_house(root: Path) -> list[Module]:
    """All modules of all packages of a checkout, by name.

    Raises:
        ValueError: If there is no package.
    """
    folders = {file.parent for file in root.glob("*/__init__.py")} - {root / "tests"}
    if (root / "scripts").is_dir():
        folders.add(root / "scripts")
    if not folders:
        raise ValueError(f"{root}: expected a checkout with packages, found no */__init__.py")
    modules = [
        Module(_module_name(path.relative_to(root)), path, path.read_text(encoding="utf-8"))
        for folder in folders
        for path in folder.rglob("*.py")
    ]
    return sorted(modules, key=lambda module: module.name)


def _module_name(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


# Folders


def modules_per_folder(modules: Iterable[Module]) -> dict[str, int]:
    """Modules that lie in each folder itself, without its ``__init__.py``; the fullest first."""
    folders = Counter(
        module.name.rpartition(".")[0].replace(".", "/")
        for module in modules
        if not module.is_folder
    )
    return dict(folders.most_common())


def crowded_folders(modules: Iterable[Module]) -> dict[str, int]:
    """Those folders of packages that have more modules than `MOST_MODULES`."""
    counts = modules_per_folder(module for module in modules if module.package != "scripts")
    return {folder: count for folder, count in counts.items() if count > MOST_MODULES}


# Imports


@dataclass(frozen=True)
class Imports:
    """Which module imports which, by where the statement stands.

    Attributes:
        top: It runs when the module is imported.
        late: It stands in a function.
        typing: It stands under ``if TYPE_CHECKING``, and never runs.
    """

    top: Graph
    late: Graph
    typing: Graph


def read_imports(modules: Sequence[Module]) -> Imports:
    """The imports of modules that are in the list; parents' ``__init__.py`` are not counted."""
    names = {module.name for module in modules}
    graphs: dict[str, Graph] = {kind: {name: set() for name in names} for kind in ("t", "l", "c")}
    for module in modules:
        for kind, node in _import_statements(module.tree, "t"):
            found = set(_targets(node, names)) - {module.name}
            graphs[kind][module.name] |= found
    return Imports(graphs["t"], graphs["l"], graphs["c"])


def _import_statements(node: ast.AST, kind: str) -> Iterator[tuple[str, ast.AST]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield kind, child
        elif isinstance(child, Function | ast.Lambda):
            yield from _import_statements(child, "l")
        elif isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            for one in child.body:
                yield from _import_statements(ast.Module([one], []), "c")
            for one in child.orelse:
                yield from _import_statements(ast.Module([one], []), kind)
        else:
            yield from _import_statements(child, kind)


def _targets(node: ast.AST, names: set[str]) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names if alias.name in names)
    elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
        for alias in node.names:
            inner = f"{node.module}.{alias.name}"
            if inner in names:
                yield inner
            elif node.module in names:
                yield node.module


def joined(*graphs: Graph) -> Graph:
    """All arrows of several graphs with the same nodes."""
    return {node: set[str]().union(*(graph[node] for graph in graphs)) for node in graphs[0]}


def circles(graph: Graph) -> list[list[str]]:
    """Strongly connected components of more than one module (Tarjan's algorithm)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for target in sorted(graph[node]):
            if target not in index:
                visit(target)
                low[node] = min(low[node], low[target])
            elif target in stack:
                low[node] = min(low[node], index[target])
        if low[node] == index[node]:
            place = stack.index(node)
            component, stack[place:] = stack[place:], []
            if len(component) > 1:
                found.append(sorted(component))

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return sorted(found)


def import_circles(modules: Sequence[Module]) -> list[list[str]]:
    """Circles of imports that run, those in functions included."""
    imports = read_imports(modules)
    return circles(joined(imports.top, imports.late))


# Docstrings


def public_definitions(module: Module) -> Iterator[tuple[str, str, Any]]:
    """What is public in a module: kind, name and node of itself, classes, functions and methods."""
    if any(part.startswith("_") for part in module.name.split(".")):
        return
    if not module.is_folder:  # an empty __init__.py has nothing to say
        yield "modules", module.name, module.tree
    for node in module.tree.body:
        if isinstance(node, Function) and not node.name.startswith("_"):
            yield "functions", f"{module.name}.{node.name}", node
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield "classes", f"{module.name}.{node.name}", node
            for inner in node.body:
                if isinstance(inner, Function) and not inner.name.startswith("_"):
                    yield "methods", f"{module.name}.{node.name}.{inner.name}", inner


def _docstring(node: ast.AST) -> str | None:
    return ast.get_docstring(node) if isinstance(node, _DOCUMENTED) else None


_DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
_EMPTY_WORDS = re.compile(r"(See [^.;]*(\.\w[^.;]*)*|The same|Likewise|See there|See above)[.;]?")


def says_nothing(docstring: str) -> bool:
    """Whether a docstring is but "See X", "The same" or "Likewise"."""
    return bool(_EMPTY_WORDS.fullmatch(" ".join(docstring.split())))


def repeated_names(modules: Iterable[Module]) -> dict[str, list[str]]:
    """Public classes and functions of one name in several modules of one package."""
    places: dict[str, list[str]] = defaultdict(list)
    for module in modules:
        if module.package != "scripts":
            for kind, name, _ in public_definitions(module):
                if kind in ("classes", "functions"):
                    places[f"{module.package}: {name.rpartition('.')[2]}"].append(module.name)
    return {name: found for name, found in places.items() if len(found) > 1}


def repeated_bodies(modules: Iterable[Module]) -> list[list[str]]:
    """Functions and methods of several modules that do the same, word for word.

    Docstrings, names of functions and types do not count. A body of less than `LEAST_BODY` nodes
    of the syntax tree says too little to be a copy. An ``__init__.py`` is left out: where a package
    imports lazily, Python wants the ``__getattr__`` in that file itself.
    """
    places: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for module in modules:
        for function, node in module.nodes:
            if module.is_folder or not isinstance(node, Function):
                continue
            own = node.body[1:] if ast.get_docstring(node) is not None else node.body
            if sum(1 for one in own for _ in ast.walk(one)) >= LEAST_BODY:
                places[ast.dump(ast.Module([*own], []))].append((module.name, function))
    return sorted(
        [f"{module}.{function}" for module, function in found]
        for found in places.values()
        if len({module for module, _ in found}) > 1
    )


# Mechanisms


@dataclass(frozen=True)
class Site:
    """A piece of code that was found.

    Attributes:
        module: Where.
        function: The innermost function around it; "" outside functions.
        line: Its line.
    """

    module: str
    function: str
    line: int


Finder = Callable[[Module], Iterator[Site]]


def _is_call(*patterns: str) -> Finder:
    """Finds calls of which the dotted name, from its beginning or a dot on, is one of these."""
    wanted = re.compile(rf"(.*\.)?({'|'.join(patterns)})")

    def find(module: Module) -> Iterator[Site]:
        for function, node, name in module.calls:
            if wanted.fullmatch(name):
                yield Site(module.name, function, node.lineno)

    return find


def renames(module: Module) -> Iterator[Site]:
    """``os.replace``, ``os.rename``, ``path.rename(x)`` and ``path.replace(x)``.

    A ``replace`` with one argument is that of a path: a text's has two, and that of dataclasses has
    keywords. An attribute of ``self`` is no path here.
    """
    for function, node, name in module.calls:
        owner, _, method = name.rpartition(".")
        one = len(node.args) == 1 and not node.keywords and not owner.startswith("self.")
        if name in ("os.replace", "os.rename") or (owner and one and method in _MOVES):
            yield Site(module.name, function, node.lineno)


_MOVES = ("replace", "rename")
temporary_files = _is_call("mkdtemp", "mkstemp", "TemporaryDirectory", "NamedTemporaryFile")
_MAKES_FOLDER = re.compile(r"(?!.*\.parent\.)(.*\.)?(mkdir|makedirs|mkdtemp)")


def folder_makers(modules: Sequence[Module]) -> list[Site]:
    """Functions that make a folder and rename, themselves or in a function that they call.

    To make the parent of a file is not to make a folder.
    """
    moves = {(site.module, site.function) for module in modules for site in renames(module)}
    found: dict[tuple[str, str], Site] = {}
    for module in modules:
        origins = _origins(module)
        for function, node, name in module.calls:
            moving = {(module.name, function)} | {
                origins.get(called, (module.name, called))
                for caller, _, called in module.calls
                if caller == function
            }
            if _MAKES_FOLDER.fullmatch(name) and moving & moves:
                found.setdefault((module.name, function), Site(module.name, function, node.lineno))
    return list(found.values())


def _origins(module: Module) -> dict[str, tuple[str, str]]:
    """Where the names that a module imports come from."""
    return {
        alias.asname or alias.name: (node.module or "", alias.name)
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def manifest_formats(module: Module) -> Iterator[Site]:
    """Modules with a constant that names a manifest's file; one a module."""
    for node in module.tree.body:
        values = ast.walk(node) if isinstance(node, ast.Assign | ast.AnnAssign) else ()
        for value in values:
            text = value.value if isinstance(value, ast.Constant) else None
            if isinstance(text, str) and re.fullmatch(r"[\w.]*manifest[\w.]*\.json", text):
                yield Site(module.name, "", node.lineno)
                return


def padding(module: Module) -> Iterator[Site]:
    """Functions that pad rows: by PyTorch, or by filling a tensor of ``len(rows)`` in a loop."""
    made: dict[str, int] = {}
    filled: set[str] = set()
    by_torch: dict[str, int] = {}
    for function, node in module.nodes:
        if isinstance(node, ast.For):
            inner = [one for one in ast.walk(node) if isinstance(one, ast.Assign)]
            if any(isinstance(target, ast.Subscript) for one in inner for target in one.targets):
                filled.add(function)
    for function, node, name in module.calls:
        if re.fullmatch(r"(.*\.)?pad_sequence|(torch\.nn\.)?(functional|F)\.pad", name):
            by_torch.setdefault(function, node.lineno)
        elif re.fullmatch(r"(torch|np)\.(full|zeros|ones)", name) and _rows_wide(node.args):
            made.setdefault(function, node.lineno)
    for function, line in (made | by_torch).items():
        if function in by_torch or function in filled:
            yield Site(module.name, function, line)


def _rows_wide(arguments: Sequence[ast.expr]) -> bool:
    """Whether a tensor's shape is given as ``(len(rows), width …)``, with or without brackets."""
    first = arguments[0] if arguments else None
    sizes = first.elts if isinstance(first, ast.Tuple | ast.List) else arguments
    return len(sizes) > 1 and isinstance(sizes[0], ast.Call) and _dotted(sizes[0].func) == "len"


def json_digests(module: Module) -> Iterator[Site]:
    """Functions that call both ``sha256`` and ``json.dumps``."""
    dumping = {function for function, _, name in module.calls if name == "json.dumps"}
    seen: set[str] = set()
    for site in _is_call("sha256")(module):
        if site.function in dumping and site.function not in seen:
            seen.add(site.function)
            yield site


def markdown_tables(module: Module) -> Iterator[Site]:
    """Functions, or constants, with the line below a Markdown table's head."""
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(module.tree)
        if isinstance(node, _DOCUMENTED) and node.body and isinstance(node.body[0], ast.Expr)
    }
    seen: set[str] = set()
    for function, node in module.nodes:
        text = node.value if isinstance(node, ast.Constant) and id(node) not in docstrings else None
        is_rule = isinstance(text, str) and re.search(r"^:?-{3,}:?$|\| ?:?-{3,}", text)
        if is_rule and function not in seen:
            seen.add(function)
            yield Site(module.name, function, getattr(node, "lineno", 0))


progress_bars = _is_call("tqdm", "trange", "track", "Progress", "TQDMProgressBar")
_clocks = _is_call("perf_counter", "monotonic", r"time\.time", "process_time")


def stopwatches(module: Module) -> Iterator[Site]:
    """Functions that read a clock."""
    found: dict[str, Site] = {}
    for site in _clocks(module):
        found.setdefault(site.function, site)
    yield from found.values()


def mechanisms(modules: Sequence[Module]) -> dict[str, list[Site]]:
    """What house-keeping code there is, by what it does."""
    finders: dict[str, Finder] = {
        "renames of what was written aside (`replace`, `rename`)": renames,
        "temporary files and folders (`tempfile`)": temporary_files,
        "manifest formats (modules that name a `*manifest*.json`)": manifest_formats,
        "padding functions": padding,
        "`sha256(` call sites": _is_call("sha256"),
        "functions that hash JSON": json_digests,
        "progress bars": progress_bars,
        "Markdown table makers": markdown_tables,
        "stopwatches (functions that read a clock)": stopwatches,
    }
    found = {name: [s for m in modules for s in find(m)] for name, find in finders.items()}
    return {"functions that make a new folder, then rename it": folder_makers(modules)} | found


# The page


def report(root: Path) -> str:
    """The numbers of a checkout as a page of Markdown."""
    modules = read_house(root)
    packages = sorted({module.package for module in modules})
    parts = [f"# The house: {len(modules)} files in {len(packages)} packages", ""]
    parts += ["## Modules in a folder", "", *_folders(modules), ""]
    parts += ["## Imports between packages", "", *_arrows(modules, packages), ""]
    parts += ["## Import circles", "", *_circles(modules), ""]
    parts += ["## Lines of a file", "", *_lines(modules, packages), ""]
    parts += ["## Docstrings of what is public", "", *_docstrings(modules, packages), ""]
    parts += ["## Mechanisms", "", *_mechanisms(modules), ""]
    return "\n".join(parts)


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return [f"| {' | '.join(map(str, line))} |" for line in lines]


def _folders(modules: Sequence[Module]) -> list[str]:
    counts = modules_per_folder(modules)
    crowded = len(crowded_folders(modules))
    fullest = max(counts, key=lambda folder: counts[folder])
    said = (
        f"{len(counts)} folders; the fullest is `{fullest}` with {counts[fullest]} modules; "
        f"{crowded} folders of packages have more than {MOST_MODULES}."
    )
    return [said, "", *_table(("folder", "modules"), counts.items())]


def _arrows(modules: Sequence[Module], packages: Sequence[str]) -> list[str]:
    imports = read_imports(modules)
    graph = joined(imports.top, imports.late)
    arrows = Counter(
        (source.partition(".")[0], target.partition(".")[0])
        for source, targets in graph.items()
        for target in targets
    )
    rows = [[one, *(arrows[one, other] or "" for other in packages)] for one in packages]
    said = "Pairs of modules of which one (row) imports the other (column), in functions as well."
    return [said, "", *_table(("imports", *packages), rows)]


def _circles(modules: Sequence[Module]) -> list[str]:
    imports = read_imports(modules)
    top, late = imports.top, joined(imports.top, imports.late)
    graphs: Mapping[str, Graph] = {
        "at the top of files": top,
        "and in functions": late,
        "and under `TYPE_CHECKING`": joined(late, imports.typing),
    }
    found = {name: circles(graph) for name, graph in graphs.items()}
    rows = [(name, len(every), sum(map(len, every))) for name, every in found.items()]
    shown = [
        f"- {name}: {', '.join(f'`{one}`' for one in circle)}"
        for name, every in found.items()
        for circle in every
    ]
    return [*_table(("imports counted", "circles", "modules in them"), rows), "", *shown]


def _lines(modules: Sequence[Module], packages: Sequence[str]) -> list[str]:
    def row(name: str, chosen: Sequence[Module]) -> list[object]:
        sizes = sorted(module.lines for module in chosen if module.lines)
        if not sizes:
            return [name, 0, "", "", "", 0]
        ranks = [sizes[min(len(sizes) - 1, int(share * len(sizes)))] for share in (0.5, 0.9)]
        return [name, len(sizes), *ranks, sizes[-1], sum(sizes)]

    rows = [row(one, [m for m in modules if m.package == one]) for one in packages]
    head = ("package", "files", "median", "90th percentile", "maximum", "lines in all")
    said = "Of files that are not empty."
    return [said, "", *_table(head, [*rows, row("all", modules)])]


def _docstrings(modules: Sequence[Module], packages: Sequence[str]) -> list[str]:
    kinds = ("modules", "classes", "functions", "methods")
    there: Counter[tuple[str, str]] = Counter()
    count: Counter[tuple[str, str]] = Counter()
    empty = 0
    for module in modules:
        for kind, _, node in public_definitions(module):
            text = _docstring(node)
            for package in (module.package, "all"):
                count[package, kind] += 1
                there[package, kind] += text is not None
            empty += text is not None and says_nothing(text)
    rows = [
        [one, *(f"{there[one, kind]} of {count[one, kind]}" for kind in kinds)]
        for one in (*packages, "all")
    ]
    written, public = (sum(c["all", kind] for kind in kinds) for c in (there, count))
    twice, same_bodies = repeated_names(modules), repeated_bodies(modules)
    has = (
        f"{100 * written / public:.1f} % of {public} have one; {empty} of these say no more than "
        '"See X", "The same" or "Likewise".'
    )
    names = (
        f"{len(twice)} public names stand in several modules of one package: "
        f"{', '.join(f'`{name}`' for name in sorted(twice)) or 'none'}."
    )
    bodies = "; ".join(" and ".join(f"`{name}`" for name in same) for same in same_bodies)
    copies = (
        f"{len(same_bodies)} functions stand in several modules, word for word: {bodies or 'none'}."
    )
    return [has, names, copies, "", *_table(("package", *kinds), rows)]


def _mechanisms(modules: Sequence[Module]) -> list[str]:
    found = mechanisms(modules)
    rows = [(name, len(sites), len({s.module for s in sites})) for name, sites in found.items()]
    shown = [
        f"- {name}: {', '.join(_shown(site) for site in sites) or 'none'}"
        for name, sites in found.items()
    ]
    return [*_table(("what", "number", "modules"), rows), "", *shown]


def _shown(site: Site) -> str:
    return f"`{site.module}:{site.line}`"


if __name__ == "__main__":
    given = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1]
    sys.stdout.write(report(given.resolve()))
