"""Editors: methods that write facts into a model's weights, and take them back to the bit."""

from __future__ import annotations

from genpoe.editors.editor import EditError, Editor, EditReport
from genpoe.editors.material import (
    FactSet,
    WrittenFacts,
    load_counterfact,
    load_zsre,
    written_by_backbone,
)
from genpoe.editors.method import EditedMethod, load_edited
from genpoe.editors.parts.covariance import Covariances, measure_covariances
from genpoe.editors.parts.facts import Fact, FactError, read_facts
from genpoe.editors.recipes import EDITORS, open_editor

__all__ = [
    "EDITORS",
    "Covariances",
    "EditError",
    "EditReport",
    "EditedMethod",
    "Editor",
    "Fact",
    "FactError",
    "FactSet",
    "WrittenFacts",
    "load_counterfact",
    "load_edited",
    "load_zsre",
    "measure_covariances",
    "open_editor",
    "read_facts",
    "written_by_backbone",
]
