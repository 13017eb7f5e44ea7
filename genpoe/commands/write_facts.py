"""``scripts/write_facts.py``: write the facts of passages to a file, for all editors alike."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig

from backbone.model import Backbone
from genpoe.editors.material import Material
from genpoe.editors.parts.facts import Fact
from plumbing.cli import check_complete, next_command, say_written
from plumbing.mounts import mounted
from plumbing.settings import check_limit, check_seed
from plumbing.storage.files import write_json
from plumbing.storage.jsonl import write_jsonl
from qa.data.dataset import QADataset, Question
from qa.evaluation.evaluate import sample

log = logging.getLogger(__name__)

_NOBODY = Question("", "?", ("",))  # a question that nobody asks of a passage


def write_facts(config: DictConfig, backbone: Backbone | None = None) -> dict[str, float]:
    """Write the facts of the gold passages of a split's questions, as `read_facts` reads them.

    Args:
        config: Composed from ``conf/write_facts.yaml``.
        backbone: The model; None: the one that the configuration names.

    Returns:
        ``passages``, ``facts_per_passage``, and in percent of the facts ``subject_model``,
        ``subject_title``, ``subject_last`` and ``without_subject``.

    Raises:
        ValueError: If a setting or the data is at fault, or the writer cannot answer.
    """
    check_complete(config)
    check_limit(config.limit)
    check_seed(config.seed)
    dataset: QADataset = instantiate(config.data)
    questions = sample(dataset.split(config.split), config.limit, config.seed)
    passages = list(dict.fromkeys(p for q in questions for p in dataset.gold(q)))
    material: Any = instantiate(config.material)
    if callable(material):
        with mounted("material"):
            material = material(backbone or instantiate(config.backbone))
    made: Material = material
    made.prepare(passages)
    facts = [fact for passage in passages for fact in made.facts(passage, _NOBODY)[0]]
    folder = Path(config.paths.output_dir)
    write_jsonl(folder / "facts.jsonl", map(_row, facts))
    sources = [fact.subject_source for fact in facts]
    metrics = {
        "passages": float(len(passages)),
        "facts_per_passage": len(facts) / max(1, len(passages)),
        **{
            f"subject_{name}": 100 * sources.count(name) / max(1, len(facts))
            for name in ("model", "title", "last")
        },
        "without_subject": 100 * sources.count(None) / max(1, len(facts)),
    }
    write_json(folder / "metrics.json", metrics)
    file = folder / "facts.jsonl"
    following = {"method": "ultraedit", "method.facts": file}
    say_written(
        {folder: ["facts.jsonl", "metrics.json"]}, [next_command(config, "evaluate", following)]
    )
    return metrics


def _row(fact: Fact) -> dict[str, Any]:
    return {
        "id": fact.id,
        "prompt": fact.prompt,
        "target": fact.target,
        "subject": fact.subject,
        "subject_source": fact.subject_source,
        "passage_id": fact.passage_id,
    }
