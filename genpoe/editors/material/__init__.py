"""Edit material: the facts that editors write into a model, from data sets, files and passages."""

from __future__ import annotations

from genpoe.editors.material.examples import example_facts
from genpoe.editors.material.fact_sets import FactSet, load_counterfact, load_zsre
from genpoe.editors.material.ready import (
    FileFacts,
    Material,
    QuestionFacts,
    SetFacts,
    content_of,
    count_applicable,
    is_same_question,
    make_material,
    texts_of,
    without_texts,
)
from genpoe.editors.material.written import WrittenFacts, written_by_backbone

__all__ = [
    "FactSet",
    "FileFacts",
    "Material",
    "QuestionFacts",
    "SetFacts",
    "WrittenFacts",
    "content_of",
    "count_applicable",
    "example_facts",
    "is_same_question",
    "load_counterfact",
    "load_zsre",
    "make_material",
    "texts_of",
    "without_texts",
    "written_by_backbone",
]
