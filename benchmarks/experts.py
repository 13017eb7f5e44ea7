"""Speed of building experts beside a plain PEFT loop: ``scripts/benchmark.py suite=experts``.

The peer is the obvious way to train experts: PEFT, one passage after another. Before the speed is
measured, an expert of the grouped trainer must equal the peer's.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from backbone.final_ffn import FinalFFN
from backbone.model import Backbone
from benchmarks.timing import interleaved, ratio, with_range
from dmoe.bank import Bank, BankSpec, ExpertLayout
from dmoe.experts.expert import Expert, ExpertSpec, expert_at, initial_expert
from dmoe.experts.recipe import LOSSES, Recipe
from dmoe.training.grouped import GroupedTrainer, Limits
from dmoe.training.groups import Groups
from dmoe.training.instances import Encoded, encode_all, pad_instances
from dmoe.training.lessons import Lesson, lessons_from_questions
from plumbing.devices import peak_rss
from plumbing.quiet import without_warning_of_old_name
from plumbing.stopwatch import Stopwatch
from qa.tables.tables import markdown_table

_TOLERANCE = 1e-3  # largest relative difference, by norm, of an expert trained both ways
_EPOCHS = (1, 10)
_GROWTH = (1, 2, 4)  # sizes of whole builds, in multiples of experts.passages


@dataclass(frozen=True)
class Setting:
    """One row of the table: a loss, and a number of epochs."""

    loss: str
    epochs: int

    def __str__(self) -> str:
        labels = "answers" if self.loss == "answer" else "all tokens"
        return f"{labels}, {self.epochs} epoch{'s' if self.epochs > 1 else ''}"


class Contest:
    """Our trainer and the peer on the same passages.

    Args:
        lessons: The passages; our trainer trains all of their experts at the same time.
        peer_passages: The number of passages that the peer trains, one after another. Fewer are
            enough, because its cost is linear.
        formats: The forms of the instances.
        spec: The settings of the experts.
        recipe: The settings of the training; the loss and the epochs are varied.
    """

    def __init__(
        self,
        lessons: Sequence[Lesson],
        peer_passages: int,
        formats: Sequence[str],
        spec: ExpertSpec,
        recipe: Recipe,
    ) -> None:
        self.settings = [Setting(loss, epochs) for loss in LOSSES for epochs in _EPOCHS]
        self.size, self.peer_size = len(lessons), min(peer_passages, len(lessons))
        self._lessons, self._formats, self._spec, self._recipe = lessons, formats, spec, recipe

    def recipe(self, setting: Setting) -> Recipe:
        """The recipe of a row of the table."""
        return replace(self._recipe, loss=setting.loss, epochs=setting.epochs)

    def ours(self, backbone: Backbone, setting: Setting) -> Callable[[], Any]:
        """A task that trains the experts of all passages at the same time."""
        ids, instances = self._encoded(backbone, setting.loss, self.size)
        limits = Limits(group_size=self.size)
        trainer = GroupedTrainer(FinalFFN(backbone), self._spec, self.recipe(setting), limits)
        return lambda: trainer.train(ids, instances)

    def peer(self, backbone: Backbone, loop: PeftLoop, setting: Setting) -> Callable[[], Any]:
        """A task that trains the peer's share of the experts, one after another."""
        ids, instances = self._encoded(backbone, setting.loss, self.peer_size)
        recipe = self.recipe(setting)
        return lambda: [
            loop.train(*each, recipe=recipe) for each in zip(ids, instances, strict=True)
        ]

    def check_equal(self, backbone: Backbone, loop: PeftLoop, setting: Setting) -> float:
        """The relative difference of one expert, in the middle of a group, trained both ways.

        Raises:
            ValueError: If it is larger than rounding explains.
        """
        ids, instances = self._encoded(backbone, setting.loss, 3)
        trainer = GroupedTrainer(FinalFFN(backbone), self._spec, self.recipe(setting))
        ours = expert_at(trainer.train(ids, instances).experts, 1)
        theirs = loop.train(ids[1], instances[1], recipe=self.recipe(setting))
        each = [(ours[n] - theirs[n]).norm() / theirs[n].norm() for n in theirs]
        worst = max(float(difference) for difference in each)
        if worst > _TOLERANCE:
            raise ValueError(f"ours and PEFT's experts differ ({setting}): by {worst:.1e}")
        return worst

    def _encoded(
        self, backbone: Backbone, loss: str, count: int
    ) -> tuple[list[str], list[list[Encoded]]]:
        lessons = self._lessons[:count]
        return [lesson.passage.id for lesson in lessons], [
            encode_all(
                backbone.tokenizer,
                lesson.instances(self._formats),
                loss,
                self._recipe.max_tokens,
            )
            for lesson in lessons
        ]


def experts_suite(config: DictConfig) -> tuple[dict[str, Any], list[str]]:
    """Measure the seconds per expert of our trainer and of PEFT, both in float32.

    Raises:
        ValueError: If the two do not train equal experts, or if a setting is out of range.
    """
    settings = config.experts
    _check(config)
    lessons = _lessons(config, _GROWTH[-1] * settings.passages)[: settings.passages]
    spec, recipe = ExpertSpec(), Recipe(lr=settings.lr)
    contest = Contest(lessons, settings.peer_passages, list(settings.formats), spec, recipe)
    source = config.backbone
    backbone, half, other = (
        instantiate(source, dtype=dtype) for dtype in ("float32", "bfloat16", "float32")
    )
    loop = PeftLoop(other, spec, recipe)
    result: dict[str, Any] = {"differences": {}, "seconds_per_expert": {}}
    tasks: dict[str, Callable[[], Any]] = {}
    for setting in contest.settings:
        difference = contest.check_equal(backbone, loop, setting)
        result["differences"][str(setting)] = difference
        tasks[f"ours: {setting}"] = contest.ours(backbone, setting)
        tasks[f"bfloat16: {setting}"] = contest.ours(half, setting)
        tasks[f"PEFT: {setting}"] = contest.peer(other, loop, setting)
    for name, times in interleaved(tasks, config.rounds).items():
        count = contest.peer_size if name.startswith("PEFT") else contest.size
        result["seconds_per_expert"][name] = [seconds / count for seconds in times]
    result["growth"] = growth(config)
    return result, _lines(config, contest, result)


def _check(config: DictConfig) -> None:
    if config.rounds < 1:
        raise ValueError(f"rounds must be positive, got {config.rounds}; set rounds=…")
    for key, least in {"passages": 2, "peer_passages": 1}.items():
        value = config.experts[key]
        if not isinstance(value, int) or value < least:  # an expert is compared within a group
            raise ValueError(
                f"{key} must be a whole number of {least} or more, got {value!r}; set experts.{key}"
            )


def _lessons(config: DictConfig, count: int) -> list[Lesson]:
    lessons = lessons_from_questions(instantiate(config.data), "train")[:count]
    if len(lessons) < count:
        raise ValueError(
            f"expected {count} training passages with questions ({_GROWTH[-1]} times "
            f"experts.passages), got {len(lessons)}; lower experts.passages"
        )
    return lessons


def growth(config: DictConfig) -> list[dict[str, float]]:
    """Measure what more passages cost: whole builds of several sizes, each in its own process."""
    sizes = [times * config.experts.passages for times in _GROWTH]
    # Processes are spawned, so that none inherits the memory of this one.
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as pool:
        return list(pool.map(build_bank, [config] * len(sizes), sizes))


def build_bank(config: DictConfig, count: int) -> dict[str, float]:
    """Train the experts of different passages, group by group, into a bank.

    Args:
        config: ``conf/benchmark.yaml``, composed.
        count: The number of passages.

    Returns:
        ``experts``: their number; ``seconds_per_expert``, without the loading of the model; and
        ``peak_mib``, the peak memory of the process.

    Raises:
        ValueError: If the data has fewer passages with questions.
    """
    settings = config.experts
    lessons = _lessons(config, count)
    spec, recipe = ExpertSpec(), Recipe(lr=settings.lr, loss="answer")
    limits = Limits(group_size=settings.passages)
    final = FinalFFN(instantiate(config.backbone, dtype="float32"))
    backbone, layout = final.backbone, ExpertLayout(spec.shapes(final.sizes), "float32")
    with tempfile.TemporaryDirectory() as folder:
        bank_spec = BankSpec(backbone.name, backbone.fingerprint, layout, spec.alpha)
        bank = Bank.create(folder, bank_spec)
        trainer = GroupedTrainer(final, spec, recipe, limits)
        watch = Stopwatch()
        formats = list(settings.formats)
        for group in Groups(lambda: lessons, bank, backbone.tokenizer, formats, recipe, limits):
            ids = [passage.id for passage in group.passages]
            bank.add(group.passages, trainer.train(ids, group.instances).experts)
        seconds = watch.seconds
        peak = peak_rss() / 2**20
        return {
            "experts": len(bank),
            "seconds_per_expert": seconds / len(bank),
            "peak_mib": peak,
        }


def _lines(config: DictConfig, contest: Contest, result: dict[str, Any]) -> list[str]:
    worst = max(result["differences"].values())
    shape = (
        f"Rank {ExpertSpec().rank} on the final FFN of {config.backbone.name}; instances: "
        f"{', '.join(config.experts.formats)}; {contest.size} experts at a time; PEFT one after "
        f"another; {config.rounds} interleaved rounds."
    )
    rows = []
    seconds = result["seconds_per_expert"]
    for setting in contest.settings:
        ours, theirs, half = (seconds[f"{n}: {setting}"] for n in ("ours", "PEFT", "bfloat16"))
        speedup, extra = ratio(theirs, ours), ratio(ours, half)
        result[str(setting)] = speedup
        rows.append(
            [
                str(setting),
                f"{sorted(theirs)[len(theirs) // 2]:.3f}",
                f"{sorted(ours)[len(ours) // 2]:.3f}",
                with_range(speedup, 2),
                with_range(extra, 2),
            ]
        )
    columns = ["loss on", "PEFT, s", "ours, s", "times PEFT's speed (range)"]
    growth = [
        [str(row["experts"]), f"{row['seconds_per_expert']:.3f}", f"{row['peak_mib']:.0f}"]
        for row in result["growth"]
    ]
    grown = markdown_table(growth, ["experts", "s an expert", "peak memory, MiB"], compact=True)
    return [
        "# Building experts: seconds an expert against PEFT in a plain loop",
        *("", shape, ""),
        f"Equal before measuring: an expert trained both ways differs by {worst:.0e} at most.",
        "",
        *markdown_table(rows, [*columns, "bfloat16 adds (range)"], compact=True).splitlines(),
        "",
        "Whole builds into a bank, float32, loss on answers, one epoch, each in a process:",
        "",
        *grown.splitlines(),
    ]


class PeftLoop:
    """A backbone with one PEFT adapter on its final FFN, which is trained anew for each passage.

    Args:
        backbone: A model for this purpose alone, because PEFT puts its layers into it.
        spec: The settings of the experts.
        recipe: The settings of the training.
    """

    def __init__(self, backbone: Backbone, spec: ExpertSpec, recipe: Recipe) -> None:
        from peft import LoraConfig, get_peft_model

        ffn = FinalFFN(backbone)
        self._sizes, self._spec, self._recipe = ffn.sizes, spec, recipe
        leaves = {
            target: name.rpartition(".")[2]
            for target in spec.targets
            for name, module in backbone.model.named_modules()
            if module is ffn.projections[target]
        }
        last = backbone.num_layers - 1
        config = LoraConfig(
            r=spec.rank,
            lora_alpha=spec.alpha,  # type: ignore[arg-type]  # PEFT takes fractions as well
            target_modules=list(leaves.values()),
            layers_to_transform=[last],
            lora_dropout=0.0,
            task_type="CAUSAL_LM",
        )
        with without_warning_of_old_name():
            self._model: Any = get_peft_model(backbone.model, config)
        parameters = dict(self._model.named_parameters())
        self._parameters = {
            f"{target}.{matrix}": next(
                parameter
                for name, parameter in parameters.items()
                if f".{last}." in name and f".{leaf}.{matrix}." in name
            )
            for target, leaf in leaves.items()
            for matrix in ("lora_A", "lora_B")
        }
        self._device = backbone.device

    def train(self, id: str, instances: Sequence[Encoded], recipe: Recipe | None = None) -> Expert:
        """Train the expert of one passage; returns it on the CPU.

        Args:
            id: The id of the passage.
            instances: Its instances.
            recipe: Used instead of the loop's own recipe.
        """
        recipe = recipe or self._recipe
        initial = initial_expert(self._spec, self._sizes, id, recipe.seed)
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                parameter.copy_(initial[name])
        optimizer = torch.optim.AdamW(
            self._parameters.values(),
            lr=recipe.lr,
            betas=(recipe.betas[0], recipe.betas[1]),
            eps=recipe.eps,
            weight_decay=recipe.weight_decay,
        )
        for _ in range(recipe.epochs):
            for first in range(0, len(instances), recipe.batch_size):
                batch = pad_instances(instances[first : first + recipe.batch_size], self._device)
                optimizer.zero_grad()
                self._model(**batch).loss.backward()
                optimizer.step()
        return {name: p.detach().cpu().clone() for name, p in self._parameters.items()}
