"""What experts take on disk, and what a change of one passage takes: ``suite=updates``.

DMoE's appendices B.1 and B.2. A passage is added, changed and taken back in a bank of experts with
its router's index, one passage at a time. Beside it stand the ways without experts: one adapter
(SFT-LoRA) is trained anew on all passages, and the index is built anew.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from backbone.final_ffn import FinalFFN
from backbone.lora.adapter import LoraAdapter, LoraSettings
from backbone.model import Backbone
from benchmarks.bank import export_folders, fill_bank, used
from dmoe.augmentation.sources import surrogate
from dmoe.baselines.sft_lora.module import SFTModule
from dmoe.commands.build_experts import check_dtype
from dmoe.experts.expert import ExpertSpec
from dmoe.experts.recipe import Recipe
from dmoe.training.grouped import GroupedTrainer, Limits
from dmoe.training.instances import encode_all
from dmoe.training.lessons import Lesson, lessons_from_questions
from plumbing.mounts import SettingValueError
from plumbing.progress import progress
from plumbing.settings import check_positive
from plumbing.stopwatch import Stopwatch
from plumbing.storage.jsonl import write_jsonl
from qa.statistics import over_runs
from qa.tables.tables import markdown_table, with_interval
from retrieval.bm25 import BM25Settings
from retrieval.corpus.corpus import Corpus

PAPERS_EXPERTS = 27_613  # passages of the paper's corpus (appendix B.1)
_PEFT_FOLDERS = 5

Seconds = dict[str, float]


class Deployment:
    """A bank of experts and the index of its router, which are changed passage by passage.

    Args:
        backbone: The frozen model.
        lessons: The passages that are there at the beginning. Their experts are random, because
            only what is changed later is trained.
        formats: The forms of the instances.
        recipe: How experts are trained.
        dtype: The number format of the bank.
        folder: An empty folder.
    """

    def __init__(
        self,
        backbone: Backbone,
        lessons: Sequence[Lesson],
        formats: Sequence[str],
        recipe: Recipe,
        dtype: str,
        folder: Path,
    ) -> None:
        self.final, self.spec = FinalFFN(backbone), ExpertSpec()
        self._formats, self._recipe = list(formats), recipe
        passages = [lesson.passage for lesson in lessons]
        self.bank = fill_bank(folder / "bank", self.final, self.spec, passages, dtype)
        self.corpus = _corpus(lessons, folder / "corpus")
        self.settings = BM25Settings(index_dir=str(folder / "index"))
        self.settings.build(self.corpus)
        self.index = self.settings.open(self.corpus)
        self._trainer = GroupedTrainer(self.final, self.spec, recipe, Limits(group_size=1))

    def add(self, lesson: Lesson, replaces: bool = False) -> Seconds:
        """Train a passage's expert, and put it into the bank and its surrogate into the index.

        Args:
            lesson: The passage with what its expert is trained on.
            replaces: Whether the passage is there already, with another text.

        Returns:
            The seconds of each step.
        """
        id, watch = lesson.passage.id, Stopwatch()
        instances = lesson.instances(self._formats)
        tokenizer = self.final.backbone.tokenizer
        encoded = encode_all(tokenizer, instances, self._recipe.loss, self._recipe.max_tokens)
        experts = self._trainer.train([id], [encoded]).experts
        trained = watch.seconds
        self.bank.add([lesson.passage], experts, replace=replaces)
        stored = watch.seconds
        self.index.update(add=[surrogate(lesson)], remove=[id] if replaces else [])
        indexed = watch.seconds
        return {"expert": trained, "bank": stored - trained, "index": indexed - stored}

    def revoke(self, id: str) -> Seconds:
        """Take a passage back: its expert from the bank, and its surrogate from the index."""
        watch = Stopwatch()
        self.bank.remove([id])
        removed = watch.seconds
        self.index.remove([id])
        return {"bank": removed, "index": watch.seconds - removed}


def updates_suite(config: DictConfig) -> tuple[dict[str, Any], list[str]]:
    """Measure bytes an expert, and the seconds of changes.

    Raises:
        SettingValueError: If a setting is out of range, or the data has too few passages.
        ValueError: If the bank or the index is not what the changes should have left.
    """
    settings = config.updates
    check_positive(settings, "passages", "changes", "rounds", "k")
    check_dtype(settings.dtype)
    lessons = _lessons(config, settings.passages + settings.changes)
    recipe = Recipe(lr=settings.lr, epochs=settings.epochs, loss=settings.loss)
    backbone = instantiate(config.backbone)
    output = Path(config.paths.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="updates-", dir=output) as name:
        folder = Path(name)
        there, new = lessons[: settings.passages], lessons[settings.passages :]
        formats = list(settings.formats)
        deployed = Deployment(backbone, there, formats, recipe, settings.dtype, folder)
        storage = stored(deployed, settings.k, folder)
        seconds = _changes(deployed, new)
        _check_left(deployed, there)
        anew = {
            "SFT-LoRA anew": partial(train_adapter, backbone, lessons, formats, recipe),
            "index anew": partial(_build_index, lessons, folder),
        }
        for task, run in anew.items():
            seconds[task] = [run(number) for number in range(settings.rounds)]
    result: dict[str, Any] = {
        **{"passages": len(there), "storage": storage, "seconds": {}},
        "times": {},
    }
    for task, values in seconds.items():
        result["seconds"] |= over_runs(values).metrics(task)
    for task in ("adding", "changing", "revoking"):
        found = result["seconds"]
        result["times"][task] = found["SFT-LoRA anew"] / found[task]
    return result, _lines(config, result)


def stored(deployed: Deployment, k: int, folder: Path) -> dict[str, float]:
    """What the experts take, in bytes (appendix B.1).

    Args:
        deployed: A bank and an index.
        k: The number of experts that act at a time.
        folder: The folder of the bank and the index; adapters of PEFT are exported to it.

    Returns:
        ``parameters`` of an expert; its bytes as ``weights``, on the disk in the ``bank`` and as a
        folder of ``PEFT``; the bytes of the ``index`` for each passage; the bytes of ``acting``
        experts in memory; and ``corpus_gib``, which is computed, not measured: a bank of as many
        experts as the paper has.
    """
    bank, count = deployed.bank, len(deployed.bank)
    folders = min(_PEFT_FOLDERS, count)
    peft = export_folders(folder / "peft", bank, deployed.final, deployed.spec, folders)
    an_expert = used(bank.path) / count
    return {
        "parameters": bank.layout.numel,
        "weights": bank.layout.row_bytes,
        "bank": an_expert,
        "PEFT": used(folder / "peft") / len(peft),
        "index": used(folder / "index") / count,
        "acting": k * bank.layout.numel * 4.0,  # they act in float32
        "corpus_gib": an_expert * PAPERS_EXPERTS / 2**30,
    }


def _changes(deployed: Deployment, new: Sequence[Lesson]) -> dict[str, list[float]]:
    """Add passages, change them, and take them back; the first warms up and does not count."""
    seconds: dict[str, list[float]] = {}
    for number, lesson in enumerate(progress(new, "Passages")):
        other = replace(lesson.passage, text=f"{lesson.passage.text} This has changed.")
        found = {
            "adding": deployed.add(lesson),
            "changing": deployed.add(replace(lesson, passage=other), replaces=True),
            "revoking": deployed.revoke(lesson.passage.id),
        }
        if number or len(new) == 1:
            for task, parts in found.items():
                seconds.setdefault(task, []).append(sum(parts.values()))
                for part, value in parts.items():
                    seconds.setdefault(f"{task}: {part}", []).append(value)
    return seconds


def _check_left(deployed: Deployment, there: Sequence[Lesson]) -> None:
    """Check that all that was added has gone, and that nothing else has.

    Raises:
        ValueError: If that is not so.
    """
    wanted = {lesson.passage.id for lesson in there}
    if set(deployed.bank) != wanted or len(deployed.index) != len(wanted):
        raise ValueError(
            f"expected the {len(wanted)} passages of the beginning after all changes, got "
            f"{len(deployed.bank)} in the bank and {len(deployed.index)} in the index"
        )


def train_adapter(
    backbone: Backbone, lessons: Sequence[Lesson], formats: Sequence[str], recipe: Recipe, _: int
) -> float:
    """The seconds in which SFT-LoRA is trained on all passages."""
    from lightning import Trainer

    watch = Stopwatch()
    instances = [
        encoded
        for lesson in lessons
        for encoded in encode_all(
            backbone.tokenizer, lesson.instances(formats), recipe.loss, recipe.max_tokens
        )
    ]
    module = SFTModule(backbone, LoraAdapter.new(backbone, LoraSettings()), instances, recipe)
    quiet: Any = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False}
    trainer = Trainer(
        max_epochs=recipe.epochs,
        accelerator="cpu" if backbone.device.type == "cpu" else "auto",
        devices=1,
        enable_progress_bar=False,
        **quiet,
    )
    trainer.fit(module)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return watch.seconds


def _build_index(lessons: Sequence[Lesson], folder: Path, number: int) -> float:
    corpus = _corpus(lessons, folder / f"corpus-{number}")
    settings = BM25Settings(index_dir=str(folder / f"index-{number}"))
    watch = Stopwatch()
    settings.build(corpus)
    return watch.seconds


def _corpus(lessons: Sequence[Lesson], folder: Path) -> Corpus:
    path = folder / "surrogates.jsonl"
    write_jsonl(path, (asdict(surrogate(lesson)) for lesson in lessons))
    return Corpus.open(path, folder / "cache")


def _lessons(config: DictConfig, count: int) -> list[Lesson]:
    lessons = lessons_from_questions(instantiate(config.data), config.updates.split)[:count]
    if len(lessons) < count:
        raise SettingValueError(
            "updates.passages",
            f"updates.passages and updates.changes need {count} passages with questions, the split "
            f"{config.updates.split} has {len(lessons)}",
        )
    return lessons


def _lines(config: DictConfig, result: Mapping[str, Any]) -> list[str]:
    settings, storage, seconds = config.updates, result["storage"], result["seconds"]
    sizes = [
        ["parameters of an expert", f"{storage['parameters']:,}"],
        [f"its weights in {settings.dtype}, KiB", f"{storage['weights'] / 1024:.1f}"],
        ["an expert in the bank on disk, KiB", f"{storage['bank'] / 1024:.1f}"],
        ["an expert as a PEFT folder, KiB", f"{storage['PEFT'] / 1024:.1f}"],
        ["the router's index for each passage, KiB", f"{storage['index'] / 1024:.1f}"],
        [f"{settings.k} acting experts in memory, KiB", f"{storage['acting'] / 1024:.1f}"],
        [f"a bank of {PAPERS_EXPERTS:,} experts, GiB (computed)", f"{storage['corpus_gib']:.2f}"],
    ]
    tasks = [name for name in seconds if not name.endswith(("_low", "_high"))]
    rows = [[task, with_interval(seconds, task, 3)] for task in tasks]
    setting = (
        f"{config.backbone.name}; {result['passages']} passages, of which one at a time is added, "
        f"changed and taken back, {settings.changes} in all; experts and adapter are trained "
        f"for {settings.epochs} epochs on {', '.join(settings.formats)}."
    )
    times = result["times"]
    compared = (
        f"Training SFT-LoRA anew takes {times['adding']:.0f} times as long as adding a passage, "
        f"and {times['revoking']:.0f} times as long as taking one back."
    )
    return [
        "# What experts take on disk, and what changes take",
        *("", setting, ""),
        *markdown_table(sizes, ["on disk and in memory", "size"], labels=1).splitlines(),
        "",
        *markdown_table(rows, ["change", "seconds"], labels=1).splitlines(),
        "",
        compared,
    ]
