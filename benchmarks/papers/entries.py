"""The entries of ``conf/papers``: one file for each numbered table or figure of the papers.

An entry has axes. Each axis maps labels to overrides of a command, and one label of each axis
makes a cell of the table, as in the ablations of DMoE. What cells need beforehand, such as a
checkpoint or an index, is a *part*. The parts stand in the size (``conf/size``), because they
depend on it; a cell names one as ``<part>`` where the part's folder is to stand.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from plumbing.cli.values import CONF
from plumbing.storage.jsonl import DataError
from qa.tables.tables import SCORES

ENTRIES = CONF / "papers"
OWN = "cell"  # in an option: the overrides of the cell itself

_LOWER_IS_BETTER = ("nll",)


@dataclass(frozen=True)
class Option:
    """A label of an axis.

    Attributes:
        label: The label, as the tables have it.
        word: What stands for the axis in the names of metrics, such as ``{method}``.
        overrides: The overrides of the cell, under `OWN`, and of parts, under their names. None:
            the label has no cell at this size.
    """

    label: str
    word: str
    overrides: Mapping[str, Sequence[str]] | None


@dataclass(frozen=True)
class Metric:
    """A metric of the cells.

    Attributes:
        name: Its key in the ``metrics.json`` of a cell; axes in braces are replaced by words.
        heading: Its name in the table, with its unit.
        decimals: Digits behind the point.
        scale: The table has the metric multiplied by it.
        lower: Whether less is better.
    """

    name: str
    heading: str
    decimals: int = 1
    scale: float = 1.0
    lower: bool = False


@dataclass(frozen=True)
class Claim:
    """What a paper says is better than what.

    Attributes:
        says: The claim in words, with its section.
        better: The labels, by axis, of what is better. Several labels are several claims.
        than: The labels of what it is better than; axes without a label are those of ``better``.
        where: The labels to which the claim is limited, by axis.
        metrics: The names of the metrics in which it is better; empty: the first one of the entry.
        by: The names of metrics of the first cell that are themselves the difference: its value,
            and the ends of its interval; empty: the two cells are compared.
        what: What ``by`` is, in words, such as "EM at the end minus just before".
        above: The value of ``by`` where both are equally good, such as 1 for a ratio.
        ours: Whether it is a control of ours, and no claim of the paper.
    """

    says: str
    better: Mapping[str, Sequence[str]]
    than: Mapping[str, Sequence[str]] = field(default_factory=dict)
    where: Mapping[str, Sequence[str]] = field(default_factory=dict)
    metrics: Sequence[str] = ()
    by: Sequence[str] = ()
    what: str = ""
    above: float = 0.0
    ours: bool = False


@dataclass(frozen=True)
class Entry:
    """A table or figure of a paper.

    Attributes:
        target: Its name, such as ``genpoe/table1``.
        title: What it shows.
        script: The script of its cells.
        overrides: The overrides that all cells have; those of the axes come after them.
        axes: The options of each axis, by the name of the axis.
        rows: The axes of the table's rows.
        metrics: What the table shows of each cell.
        paper: The paper's numbers, by the labels of ``paper_axes``; one for each metric.
        paper_axes: The axes of these labels.
        reference: The labels to which a cell is compared where the paper lacks its own.
        claims: What the paper says.
        note: What else the reader of the table must know.
        picture: A picture in the cell's folder that is the figure; empty: it is drawn.
        cases: The labels of the cells whose answers are shown side by side; empty: none are.
        ours: The labels of what is ours and not the paper's, by axis.
    """

    target: str
    title: str
    script: str
    overrides: Sequence[str]
    axes: Mapping[str, Sequence[Option]]
    rows: Sequence[str]
    metrics: Sequence[Metric]
    paper: Mapping[tuple[str, ...], Sequence[float | None]]
    paper_axes: Sequence[str]
    reference: Mapping[str, str]
    claims: Sequence[Claim]
    note: str
    picture: str
    cases: Mapping[str, Sequence[str]]
    ours: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def columns(self) -> list[str]:
        """The axes of the table's columns."""
        return [axis for axis in self.axes if axis not in self.rows]

    def places(self) -> Iterator[dict[str, Option]]:
        """All cells of the table, each as an option for every axis."""
        for chosen in product(*self.axes.values()):
            yield dict(zip(self.axes, chosen, strict=True))

    def papers(self, labels: Mapping[str, str], metric: Metric) -> tuple[float | None, str]:
        """The paper's number for a cell, and for which labels the paper has it.

        Returns:
            The number, None if there is none; and the labels, empty if they are the cell's own.
        """
        place = self.metrics.index(metric)
        own = tuple(labels[axis] for axis in self.paper_axes)
        if own in self.paper:
            return self.paper[own][place], ""
        other = {**labels, **self.reference}
        key = tuple(other[axis] for axis in self.paper_axes)
        values = self.paper.get(key)
        named = [self.reference[axis] for axis in self.paper_axes if axis in self.reference]
        return (None, "") if values is None else (values[place], ", ".join(named))


def targets() -> list[str]:
    """The names of all targets, sorted by paper, tables first, in the order of their numbers."""
    found = (path.relative_to(ENTRIES).with_suffix("") for path in ENTRIES.rglob("*.yaml"))
    return sorted((path.as_posix() for path in found), key=_order)


def _order(target: str) -> tuple[bool, bool, bool, int, str]:
    paper, _, name = target.partition("/")
    number = "".join(filter(str.isdigit, name))
    tables, figures = name.startswith("table"), name.startswith("figure")
    return paper != "genpoe", not tables, not figures, int(number or 0), target


def read_entry(target: str, size: DictConfig) -> Entry:
    """Read an entry for a size.

    Args:
        target: Its name.
        size: The content of ``conf/size``, to which the entry refers as ``${size.KEY}``.

    Raises:
        DataError: If there is no such entry, or if it is malformed; the message names the file.
    """
    path = ENTRIES / f"{target}.yaml"
    if target not in targets():
        raise DataError(
            f"target must be one of list, all, {', '.join(targets())}, got {target!r}; set target"
        )
    try:
        merged = OmegaConf.create({"size": size, "entry": OmegaConf.load(path)})
        raw: Any = OmegaConf.to_container(merged, resolve=True)
        return _entry(target, raw["entry"])
    except (OmegaConfBaseException, LookupError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: {type(error).__name__}: {error}; correct the entry") from error


def _entry(target: str, raw: Mapping[str, Any]) -> Entry:
    axes = {
        str(axis): [_option(str(label), value) for label, value in options.items()]
        for axis, options in raw.get("axes", {}).items()
    }
    paper = raw.get("paper", {})
    paper_axes = paper.get("axes", [])
    entry = Entry(
        target=target,
        title=raw["title"],
        script=raw["script"],
        overrides=flat_list(raw.get("overrides", [])),
        axes=axes,
        rows=raw["rows"],
        metrics=[_metric(name, value) for name, value in raw["metrics"].items()],
        paper=dict(_numbers(paper["values"], len(paper_axes))) if paper else {},
        paper_axes=paper_axes,
        reference=paper.get("reference", {}),
        claims=[_claim(each) for each in raw.get("claims", [])],
        note=raw.get("note", ""),
        picture=raw.get("picture", ""),
        cases=_lists(raw.get("cases", {})),
        ours=_lists(raw.get("ours", {})),
    )
    _check(entry)
    return entry


def _check(entry: Entry) -> None:
    known = {axis: {option.label for option in options} for axis, options in entry.axes.items()}
    for axis in (*entry.rows, *entry.paper_axes):
        known[axis]
    for claim in entry.claims:
        if bool(claim.by) != bool(claim.what):
            raise LookupError(f"{claim.says!r}: give both by and what, or neither")
        for labels in (claim.better, claim.than, claim.where, entry.ours):
            for axis, some in labels.items():
                if unknown := set(some) - known[axis]:
                    raise LookupError(f"{claim.says!r}: {axis} has no {sorted(unknown)}")
        if unknown := set(claim.metrics) - {metric.name for metric in entry.metrics}:
            raise LookupError(f"{claim.says!r}: there is no metric {sorted(unknown)}")
    for key, values in entry.paper.items():
        if len(values) != len(entry.metrics):
            raise LookupError(f"paper: {key} has {len(values)} of {len(entry.metrics)} metrics")


def _option(label: str, value: Any) -> Option:
    if value is None:
        return Option(label, label, None)
    if isinstance(value, list):
        return Option(label, label, {OWN: flat_list(value)})
    word = str(value.get("as", label))
    given = {name: flat_list(some) for name, some in value.items() if name != "as"}
    return Option(label, word, given)


def flat_list(words: Sequence[Any]) -> list[str]:
    """A list of overrides in which other lists were named by references."""
    inner = (flat_list(word) if isinstance(word, list) else [word] for word in words)
    return [word for some in inner for word in some]


def _metric(name: str, value: Any) -> Metric:
    heading, decimals = SCORES.get(name, (name, 1))
    if isinstance(value, str):
        value = {"heading": value}
    return Metric(
        name=name,
        heading=value.get("heading", heading),
        decimals=value.get("decimals", decimals),
        scale=value.get("scale", 1.0),
        lower=value.get("lower", name in _LOWER_IS_BETTER),
    )


def _claim(raw: Mapping[str, Any]) -> Claim:
    labels = {part: _lists(raw.get(part, {})) for part in ("better", "than", "where")}
    return Claim(
        raw["says"],
        **labels,
        metrics=raw.get("metrics", []),
        by=_ends(raw.get("by", [])),
        what=raw.get("what", ""),
        above=raw.get("above", 0.0),
        ours=raw.get("ours", False),
    )


def _ends(by: str | Sequence[str]) -> Sequence[str]:
    """The names of a value and of its ends; most metrics have them as ``_low`` and ``_high``."""
    return [f"{by}{end}" for end in ("", "_low", "_high")] if isinstance(by, str) else by


def _lists(raw: Mapping[str, Any]) -> dict[str, list[str]]:
    return {
        str(axis): [str(one) for one in (some if isinstance(some, list) else [some])]
        for axis, some in raw.items()
    }


def _numbers(node: Any, depth: int) -> Iterator[tuple[tuple[str, ...], Sequence[float | None]]]:
    """The lists of numbers of nested labels, by their labels."""
    if depth == 0:
        yield (), node
        return
    for label, part in node.items():
        for labels, values in _numbers(part, depth - 1):
            yield (str(label), *labels), values
