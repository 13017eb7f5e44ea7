"""``scripts/sequential_edit.py``: edit batch after batch, and ask what is still known."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from backbone.model import Backbone
from genpoe.editors.material import FactSet, example_facts
from genpoe.editors.method import EXAMPLES
from genpoe.editors.parts.facts import Fact, read_facts
from genpoe.editors.recipes import open_editor
from genpoe.sequential.learners import Learner
from genpoe.sequential.report import write_report, write_run_report
from genpoe.sequential.run import RunSettings, run_stream
from genpoe.sequential.scoring import ScoreSettings
from genpoe.sequential.stream import Stream, StreamSettings, fact_stream, passage_stream
from plumbing.cli import check_complete, next_command, say_written, shown, type_shell
from plumbing.cli.keys import compose_command
from plumbing.cli.values import CONF
from plumbing.mounts import SettingValueError, mounted
from plumbing.output import show
from plumbing.settings import check_types
from plumbing.storage.files import sha256_of
from plumbing.storage.manifest import MANIFEST
from qa.data.dataset import QADataset

log = logging.getLogger(__name__)

RAG = "qa.method.RAGMethod"  # the target of the method whose passages always are in the prompt
# What routes DMoE: the experts of the passages that are found among all passages so far.
FOUND = {"_target_": "dmoe.decoding.OracleRouter", "_partial_": True}
_DISTRACTORS = 10  # for each edit; with fewer, a passage is found too easily


@dataclass(frozen=True)
class StreamSource:
    """Where the edits of the command come from.

    Attributes:
        split: The split of the test questions, of which each is about a passage.
        facts: A file of facts of these passages; None: the data set's own questions.
    """

    split: str
    facts: str | None

    def __post_init__(self) -> None:
        check_types(self)


def sequential_edit(config: DictConfig, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Run one method over a stream of edits, or all methods of ``compare`` over the same stream.

    Args:
        config: Composed from ``conf/sequential_edit.yaml``.
        overrides: The settings of the command line, from which each method of ``compare`` is
            composed anew.

    Returns:
        The metrics, as in ``metrics.json``; with ``compare`` as ``<label>/<metric>``.

    Raises:
        ValueError: If a setting or the data is at fault, or an edit cannot be made.
    """
    folder = Path(config.paths.output_dir)
    if not config.compare:
        metrics = run_one(config)
        _say(config, folder)
        return metrics
    runs: dict[str, Path] = {}
    backbone = None
    for label, settings in config.compare.items():
        out = folder / "methods" / str(label)
        given = [*overrides, *settings, "compare=null"]
        own = compose_command(CONF, "sequential_edit", given).config
        own = OmegaConf.masked_copy(own, [str(key) for key in own if key != "hydra"])
        own.paths = {**config.paths, "output_dir": str(out)}
        if own.ckpt_path is not None and not Path(own.ckpt_path).exists():
            log.warning(
                "%s is left out: there is no %s yet; python scripts/quickstart.py makes it",
                *(label, shown(Path(own.ckpt_path))),
            )
            continue
        log.info("%s: %s", label, " ".join(settings))
        backbone = backbone or instantiate(config.backbone)
        run_one(own, backbone)
        runs[str(label)] = out
    metrics = write_report(runs, folder, config.seed)
    show((folder / "table.md").read_text(encoding="utf-8"))
    _say(config, folder)
    return metrics


def _say(config: DictConfig, folder: Path) -> None:
    files = [
        "heatmap.png",
        "table.md",
        "matrix.csv",
        "matrix_rag.csv",
        "states.csv",
        "metrics.json",
    ]
    following = type_shell("cat", folder / "table.md")
    if not config.compare:
        report = next_command(config, "sequential_report", {"runs": [folder]}, ())
        following = report or following
    say_written({folder: files}, [following])


def run_one(config: DictConfig, backbone: Backbone | None = None) -> dict[str, Any]:
    """Run one method, and write its report.

    Args:
        config: The settings of one method.
        backbone: The untouched model; None: the one that the configuration names.
    """
    if "router" in config:
        config = config.copy()
        OmegaConf.set_struct(config, False)
        config.router = FOUND
    check_complete(config)
    source = StreamSource(**{field.name: config[field.name] for field in fields(StreamSource)})
    sizes = StreamSettings(**{field.name: config[field.name] for field in fields(StreamSettings)})
    scores = ScoreSettings(**{field.name: config[field.name] for field in fields(ScoreSettings)})
    settings = RunSettings(scores, config.k, config.temperature, config.batch_size, config.health)
    data = instantiate(with_entities(config.data, config.split, config.edits))
    stream = make_stream(data, source, sizes)
    backbone = backbone or instantiate(config.backbone)
    learner = open_learner(config, backbone, data)
    if learner.finds_passages or scores.rag:
        _check_distractors(stream)
    folder = Path(config.paths.output_dir)
    run_stream(stream, learner, folder, settings, _made_with(config, backbone))
    learner.keeps.undo()
    return write_run_report(folder, config.seed)


def with_entities(data: DictConfig, split: str, edits: int) -> DictConfig:
    """The settings of a data set that is made here, with a test entity for each edit at least.

    Args:
        data: The settings of the data set.
        split: The split of the test questions.
        edits: The edits of the stream.
    """
    there = data.get("test_entities")
    if not split.startswith("test") or not isinstance(there, int) or there >= edits:
        return data
    log.info("data.test_entities is raised from %d to %d, one for each edit", there, edits)
    more = data.copy()
    more.test_entities = edits
    return more


def open_learner(config: DictConfig, backbone: Backbone, data: QADataset) -> Learner:
    """The editor that the configuration names, or else the method.

    The experts of DMoE are those of a bank that was built before. Each is trained by itself, so it
    makes no difference when; it acts from the batch of its passage on, because only then the
    passage can be found.
    """
    if config.get("editor") is None:
        # With rag=true the passages stand in the prompt of further questions, except for RAG.
        always = config.method._target_ == RAG
        return Learner.of_method(instantiate(config.method, backbone=backbone, rag=always))
    editor: Any = OmegaConf.to_container(config.editor, resolve=True)
    with mounted("editor"):
        examples = partial(example_facts, data, EXAMPLES)
        opened = open_editor(backbone, **editor, examples=examples)
    return Learner.of_editor(opened, config.max_new_tokens)


def make_stream(data: QADataset, source: StreamSource, sizes: StreamSettings) -> Stream:
    """The stream of a data set: of its facts if it has some, else of its passages.

    Raises:
        ValueError: If the data have too few edits, or a fact is at fault.
    """
    if isinstance(data, FactSet):
        return fact_stream(data, source.split, data.facts.get(source.split, []), sizes)
    if source.facts is None:
        return passage_stream(data, source.split, sizes)
    material: dict[str, list[Fact]] = defaultdict(list)
    for fact in read_facts(source.facts):
        material[fact.passage_id or ""].append(fact)
    return passage_stream(data, source.split, sizes, material)


def _check_distractors(stream: Stream) -> None:
    share = len(stream.distractors) / len(stream.edits)
    if share < _DISTRACTORS:
        log.warning(
            "there are %.1f passages beside each one that is edited, and with fewer than %d the "
            "right one is found too easily; give data with more passages",
            *(share, _DISTRACTORS),
        )


def _made_with(config: DictConfig, backbone: Backbone) -> dict[str, Any]:
    """What decides the numbers of a run, besides its stream."""
    part = config.method if config.get("editor") is None else config.editor
    method = OmegaConf.to_container(part, resolve=True)
    found: dict[str, Any] = {
        "method": method,
        "backbone": backbone.fingerprint,
        "max_new_tokens": config.max_new_tokens,
    }
    if isinstance(method, dict) and (folder := method.get("statistics")) is not None:
        found["statistics"] = sha256_of(Path(folder) / MANIFEST)
    if config.ckpt_path is not None:
        found["checkpoint"] = sha256_of(Path(config.ckpt_path))
    return found


def check_labels(runs: Sequence[str], labels: Sequence[str] | None) -> None:
    """Check the labels of a report.

    Raises:
        SettingValueError: If there is no run, or the labels are too few, too many or equal.
    """
    if not runs:
        raise SettingValueError("runs", "expected at least one run, got none", "set {}=[RUN,RUN]")
    if labels is not None and (len(labels) != len(runs) or len(set(labels)) < len(labels)):
        raise SettingValueError(
            "labels",
            f"expected a label of its own for each of {len(runs)} runs, got {list(labels)}",
            "set {}=[…]",
        )
