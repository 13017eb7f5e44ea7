"""``scripts/tune_editor.py``: equally many trials for every editor, on training facts alone.

A trial edits some facts in a few batches. Then, in nats a token, its score is

    nll of the targets + nll of the targets behind rephrasings
    + rise of the nll of what the untouched model answers to unrelated prompts.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from backbone.decoding import greedy_decode
from backbone.edits import state_hash
from backbone.model import Backbone
from genpoe.editors import EditError, Fact, open_editor
from genpoe.editors.editor import Editor
from genpoe.editors.material import example_facts
from genpoe.editors.method import EXAMPLES
from plumbing.cli import check_complete, say_written, type_script
from plumbing.mounts import SettingValueError, mounted
from plumbing.output import show
from plumbing.progress import progress
from plumbing.settings import check_choice, check_seed
from plumbing.storage.files import write_json
from plumbing.storage.jsonl import write_jsonl
from plumbing.storage.log import EntryLog, cache_key
from qa.data.dataset import QADataset
from qa.tables.tables import markdown_table

log = logging.getLogger(__name__)

_FAILED = 1e6  # nats of a trial whose editor gave up
_ANSWER_TOKENS = 8  # of an answer to an unrelated prompt, at most


@dataclass(frozen=True)
class Examination:
    """What trials are scored on.

    Attributes:
        facts: The facts that are edited.
        rephrased: Rephrased prompts of the facts, with the targets of these.
        unrelated: Unrelated prompts, with what the untouched model answers as targets.
    """

    facts: Sequence[Fact]
    rephrased: Sequence[Fact]
    unrelated: Sequence[Fact]

    def score(self, editor: Editor) -> dict[str, float]:
        """The mean negative log-likelihood of each kind, in nats a token, as the model is now."""
        kinds = {
            "reliability": self.facts,
            "generality": self.rephrased,
            "locality": self.unrelated,
        }
        return {
            name: sum(found) / len(found)
            for name, each in kinds.items()
            if (found := editor.nll(each))
        }


def tune(config: DictConfig, backbone: Backbone | None = None) -> dict[str, float]:
    """Run all trials of an editor, and write their table and the best settings.

    Args:
        config: Composed from ``conf/tune_editor.yaml``.
        backbone: The model; None: the one that the configuration names.

    Returns:
        The scores of the untouched model as ``before/<name>``, of the best trial as
        ``best/<name>``, and the numbers of trials and edits.

    Raises:
        ValueError: If a setting or the data is at fault.
    """
    check_complete(config)
    check_seed(config.seed)
    name = config.editor.name
    check_choice("editor.name", name, list(config.trials))
    if not 1 <= config.batches <= config.edits:
        raise SettingValueError(
            "batches", f"batches must be in 1..edits={config.edits}, got {config.batches}"
        )
    more = OmegaConf.select(config, "more")
    sets = [instantiate(each) for each in (config.data, more) if each is not None]
    facts = _facts(sets, config.edits, config.seed)
    backbone = backbone or instantiate(config.backbone)
    examined = examination(backbone, facts)
    given: Any = OmegaConf.to_container(config.editor, resolve=True)
    recipe = given["recipes"]["tuned"]
    grid: Any = OmegaConf.to_container(config.trials[name])
    trials = combinations(grid)
    folder = Path(config.paths.output_dir)
    kept, state = EntryLog(folder / "trials.log"), state_hash(backbone)
    rows: list[dict[str, Any]] = []
    before: dict[str, float] = {}
    for changes in progress(trials, "Trials"):
        settings = merged(recipe, changes)
        key = cache_key(
            "trial",
            state,
            name,
            settings,
            given.get("statistics"),
            config.batches,
            config.seed,
            [asdict(fact) for fact in facts],
        )
        if key not in (known := kept.read([key])):
            with mounted("editor"):
                editor = open_editor(
                    *(backbone, name, "trial", {"trial": settings}, given.get("statistics")),
                    seed=config.seed,
                    cache_dir=given.get("cache_dir"),
                    examples=partial(example_facts, sets[0], EXAMPLES),
                )
            found = _trial(editor, examined, config.batches)
            kept.append([(key, found)])
        else:
            found = known[key][0]
        before = found["before"]
        rows.append({"settings": changes, **found})
    return _report(folder, name, before, rows, config)


def _facts(sets: Sequence[QADataset], number: int, seed: int) -> list[Fact]:
    """Facts of all data sets, equally many of each, in a seeded order."""
    found = [
        fact
        for place, dataset in enumerate(sets)
        for fact in example_facts(dataset, (number + place) // len(sets), seed)
    ]
    random.Random(seed).shuffle(found)
    return found


def examination(backbone: Backbone, facts: Sequence[Fact]) -> Examination:
    """Make what trials are scored on; the backbone is untouched."""
    prompts = [fact.locality[0] for fact in facts if fact.locality]
    texts = greedy_decode(backbone, prompts, _ANSWER_TOKENS).texts
    unrelated = [
        Fact(f"{number}", prompt, text)
        for number, (prompt, text) in enumerate(zip(prompts, texts, strict=True))
        if text.strip()
    ]
    rephrased = [replace(f, prompt=f.rephrasings[0]) for f in facts if f.rephrasings]
    return Examination(facts, rephrased, unrelated)


def combinations(grid: Mapping[str, Any]) -> list[dict[str, Any]]:
    """All combinations of the values of some settings; those of a section are ``section.name``."""
    choices: dict[str, Any] = {}
    for name, values in grid.items():
        if isinstance(values, Mapping):
            choices |= {f"{name}.{inner}": each for inner, each in values.items()}
        else:
            choices[name] = values
    return [dict(zip(choices, values, strict=True)) for values in product(*choices.values())]


def merged(recipe: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe with other values for some settings, such as ``value.lr``."""
    found = OmegaConf.create(dict(recipe))
    for name, value in changes.items():
        OmegaConf.update(found, name, value, merge=False)
    made: Any = OmegaConf.to_container(found)
    return made


def _trial(editor: Editor, examined: Examination, batches: int) -> dict[str, Any]:
    before = examined.score(editor)
    size = -(-len(examined.facts) // batches)
    seconds, problem = 0.0, ""
    try:
        for first in range(0, len(examined.facts), size):
            seconds += editor.edit(examined.facts[first : first + size]).seconds
        found = examined.score(editor)
    except EditError as error:
        found, problem = dict.fromkeys(before, _FAILED), str(error)
    editor.undo()
    rise = found["locality"] - before["locality"]
    total = found["reliability"] + found["generality"] + max(0.0, rise)
    return {
        "before": before,
        **found,
        "score": total,
        "seconds_per_edit": seconds / len(examined.facts),
        "problem": problem,
        **editor.measure(),
    }


def _report(
    folder: Path,
    name: str,
    before: Mapping[str, float],
    rows: Sequence[Mapping[str, Any]],
    config: DictConfig,
) -> dict[str, float]:
    columns = ("reliability", "generality", "locality", "score", "seconds_per_edit")
    best = min(rows, key=lambda row: float(row["score"]))
    cells = [["untouched", *(f"{before[c]:.2f}" if c in before else "" for c in columns)]]
    for row in rows:
        said = ", ".join(f"{key} {value}" for key, value in row["settings"].items())
        mark = "**" if row is best else ""
        cells.append([f"{mark}{said}{mark}", *(f"{row[column]:.2f}" for column in columns)])
    table = markdown_table(cells, [name, *columns])
    write_jsonl(folder / "trials.jsonl", rows)
    (folder / "trials.md").write_text(f"{table}\n", encoding="utf-8")
    metrics: dict[str, float] = {"trials": len(rows), "edits": config.edits}
    metrics |= {f"before/{key}": value for key, value in before.items()}
    metrics |= {f"best/{key}": best[key] for key in columns}
    write_json(folder / "metrics.json", metrics)
    show(table)
    choices = [f"editor.recipes.tuned.{key}={value}" for key, value in best["settings"].items()]
    say_written(
        {folder: ["trials.md", "trials.jsonl", "metrics.json"]},
        [type_script("evaluate", [f"method={name}", *choices])],
    )
    return metrics
