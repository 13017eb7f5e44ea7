"""What it takes to put one passage into the model, for every method (GenPoE table 3).

``scripts/benchmark.py suite=injection_times``. Each passage is injected by all methods in turn, in
one process. What a method trains or measures beforehand does not count. An editor edits the
passage's facts; its undoing and the likelihoods of its report do not count. Answering is measured
for the backbone and for generated experts; an edited backbone has as many weights as before.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from scipy.stats import binom

from backbone.final_ffn import FinalFFN
from backbone.model import Backbone
from benchmarks.inject import decode_exactly, prompt_ids
from dmoe.bank import Bank, BankSpec, ExpertLayout
from dmoe.decoding.active import ActiveExperts
from dmoe.experts.expert import ExpertSpec
from dmoe.experts.recipe import Recipe
from dmoe.training.grouped import GroupedTrainer, Limits
from dmoe.training.instances import encode_all
from dmoe.training.lessons import Lesson, lessons_from_questions
from genpoe.editors import Fact, open_editor
from genpoe.editors.material import QuestionFacts, count_applicable, example_facts
from genpoe.model import GenPoE
from plumbing.mounts import SettingValueError
from plumbing.progress import progress
from plumbing.stopwatch import Stopwatch
from qa.data.dataset import QADataset, Question
from qa.prompts import build_prompt
from qa.tables.tables import markdown_table
from retrieval.passage import Passage

log = logging.getLogger(__name__)

BASE = "Base"
_NOBODY = Question("", "?", ("",))  # a question that nobody asks of a passage
_EXAMPLES = 40

Task = Callable[[Lesson], float | None]
"""Injects a passage; returns the seconds where they are not those of the call."""


def injection_times_suite(config: DictConfig) -> tuple[dict[str, Any], list[str]]:
    """Measure the seconds that each method takes to inject one passage.

    Raises:
        ValueError: If the data has too few passages with questions.
    """
    settings = config.injection
    data: QADataset = instantiate(config.data)
    lessons = lessons_from_questions(data, "train")[: settings.passages + 1]
    if len(lessons) <= settings.passages:
        raise SettingValueError(
            "injection.passages",
            f"injection.passages={settings.passages} needs one training passage more, the data "
            f"has {len(lessons)}",
        )
    backbone = instantiate(config.backbone)
    generators = _hypernets(config, backbone)
    with tempfile.TemporaryDirectory() as folder:
        tasks: dict[str, Task] = {
            **{name: partial(_generate, genpoe) for name, genpoe in generators.items()},
            **_experts(backbone, settings, Path(folder)),
            "RAG: longer prompt": partial(_longer_prompt, backbone),
            **_editors(config, backbone, data),
        }
        seconds = _measured(tasks, lessons)
    answers = {BASE: partial(_answer, backbone, None, settings.new_tokens)}
    for name, genpoe in generators.items():
        answers[name] = partial(_answer, backbone, genpoe, settings.new_tokens)
    answering = _measured(answers, lessons)
    result: dict[str, Any] = {
        "passages": settings.passages,
        "pairs": settings.pairs,
        "seconds": {name: quantiles(found) for name, found in seconds.items()},
        "inference": {name: quantiles(found) for name, found in answering.items()},
    }
    rows = []
    for name in (BASE, *seconds):
        injected, answer = (result[kind].get(name, {}) for kind in ("seconds", "inference"))
        numbers = (injected.get("p50"), injected.get("p95"), answer.get("p50"))
        rows.append([name, *("" if each is None else f"{each:.3g}" for each in numbers)])
    shape = (
        f"{settings.passages} passages, one at a time; {str(backbone.dtype)[6:]}; editors edit at "
        f"most {settings.pairs} facts of each."
    )
    headings = ["method", "p50, seconds", "p95, seconds", f"{settings.new_tokens} tokens, p50"]
    table = markdown_table(rows, headings, compact=True)
    return result, ["# Injecting one passage", "", shape, "", *table.splitlines()]


def quantiles(seconds: Sequence[float]) -> dict[str, float]:
    """The median, and the 95th percentile, of some measurements.

    Returns:
        ``p50`` and ``p95``. From six measurements on there are also ``p50_low`` and ``p50_high``,
        an interval that holds the median with at least 95 %, from two of the measurements.
    """
    p50, p95 = (float(each) for each in np.percentile(seconds, [50, 95]))
    found = {"p50": p50, "p95": p95}
    # Fewer than `outside` of them lie below the median with a probability of 2.5 % at most.
    outside = int(binom.ppf(0.025, len(seconds), 0.5))
    if outside > 0:
        ordered = sorted(seconds)
        found |= {"p50_low": ordered[outside - 1], "p50_high": ordered[-outside]}
    return found


def _measured(tasks: Mapping[str, Task], lessons: Sequence[Lesson]) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for number, lesson in enumerate(progress(lessons, "Passages")):
        for name, task in tasks.items():
            watch = Stopwatch()
            own = task(lesson)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            spent = watch.seconds if own is None else own
            log.info("passage %d, %s: %.3g s", number, name, spent)
            if number:  # the first passage warms up
                seconds[name].append(spent)
    return seconds


def _hypernets(config: DictConfig, backbone: Backbone) -> dict[str, GenPoE]:
    """What generates an expert, with each hypernetwork; random weights take as long."""
    found: dict[str, GenPoE] = {}
    for name, source in config.hypernets.items():
        hypernet = instantiate(source).build(backbone).eval().requires_grad_(False)
        genpoe = GenPoE(backbone, hypernet.to(backbone.device).cast(backbone.dtype))
        found[f"GenPoE, {name}: generating the expert"] = genpoe
    return found


def _generate(genpoe: GenPoE, lesson: Lesson) -> None:
    genpoe.inject([lesson.passage])
    genpoe.remove()


@torch.inference_mode()
def _answer(backbone: Backbone, genpoe: GenPoE | None, tokens: int, lesson: Lesson) -> float:
    """The seconds of as many tokens of an answer, with the expert in its place."""
    ids = prompt_ids(backbone, build_prompt(lesson.pairs[0][0]))
    if genpoe is not None:
        genpoe.inject([lesson.passage])
    watch = Stopwatch()
    decode_exactly(backbone, ids, tokens)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    seconds = watch.seconds
    if genpoe is not None:
        genpoe.remove()
    return seconds


def _experts(backbone: Backbone, settings: DictConfig, folder: Path) -> dict[str, Task]:
    """DMoE: the training of one expert, and bringing it from disk into the model."""
    final, spec = FinalFFN(backbone), ExpertSpec()
    layout = ExpertLayout(spec.shapes(final.sizes), "float32")
    bank_spec = BankSpec(backbone.name, backbone.fingerprint, layout, spec.alpha)
    bank = Bank.create(folder / "bank", bank_spec)
    active = ActiveExperts(final, bank, rows=1, k=1)
    recipe = Recipe(epochs=settings.epochs)
    trainer = GroupedTrainer(final, spec, recipe, Limits(group_size=1))

    def train(lesson: Lesson) -> float:
        watch = Stopwatch()
        instances = lesson.instances(["qa"])
        encoded = encode_all(backbone.tokenizer, instances, recipe.loss, recipe.max_tokens)
        experts = trainer.train([lesson.passage.id], [encoded]).experts
        seconds = watch.seconds
        bank.add([lesson.passage], experts)
        return seconds

    def load(lesson: Lesson) -> None:
        active.swap([0], [[lesson.passage.id]])

    return {
        f"DMoE: training the expert ({settings.epochs} epochs)": train,
        "DMoE: loading the expert": load,
    }


def _longer_prompt(backbone: Backbone, lesson: Lesson) -> float:
    """How much longer a prompt with the passage takes to read than one without."""
    question = lesson.pairs[0][0]
    seconds = [_reading(backbone, build_prompt(question, some)) for some in ([], [lesson.passage])]
    return seconds[1] - seconds[0]


@torch.inference_mode()
def _reading(backbone: Backbone, prompt: str) -> float:
    ids = prompt_ids(backbone, prompt)
    watch = Stopwatch()
    backbone.hidden_states(ids, torch.ones_like(ids))
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return watch.seconds


def _editors(config: DictConfig, backbone: Backbone, data: QADataset) -> dict[str, Task]:
    material = QuestionFacts(data, ["train"], config.injection.pairs)

    def edit(editor: Any, lesson: Lesson) -> float:
        facts = _facts(material, lesson.passage)
        some = count_applicable(facts, editor.needs_subject)[True]
        with editor.edited(some) as report:
            return float(report.seconds)

    found: dict[str, Task] = {}
    plain: Any = OmegaConf.to_container(config.editors, resolve=True)
    for name in config.injection.editors:
        given = {**plain[name], "statistics": config.injection.statistics}
        if name in config.injection.checkpoints:
            given["ckpt_path"] = config.injection.checkpoints[name]
        editor = open_editor(
            backbone, **given, examples=partial(example_facts, data, _EXAMPLES, config.seed)
        )
        found[f"{name}: editing"] = partial(edit, editor)
    return found


def _facts(material: QuestionFacts, passage: Passage) -> Sequence[Fact]:
    return material.facts(passage, _NOBODY)[0]
