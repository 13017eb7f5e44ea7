"""``scripts/look.py``: where the hypernetwork that reads looks while it answers."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig

from genpoe.looking import Glance, draw, glance
from genpoe.model import GenPoE
from plumbing.cli import check_complete, next_command, say_written
from plumbing.mounts import SettingValueError
from plumbing.settings import check_choice
from plumbing.storage.files import write_json
from qa.evaluation.evaluate import sample
from qa.passages.choose import make_passage_source

_PASSAGES = ("gold", "shuffled")


def look(config: DictConfig) -> list[Glance]:
    """Answer a few questions, and write where the experts looked: ``look.json``, ``look.png``.

    ``metrics.json`` has the numbers of questions and of answer tokens, and the mean weight of the
    null unit.

    The experts of the reader have a unit for each token of a passage, and one that writes nothing,
    the null unit. The weights of all of them add up to 1 at each token of the answer.

    Args:
        config: Composed from ``conf/look.yaml``.

    Returns:
        What was written, for each question.

    Raises:
        ValueError: If a setting is at fault, or if the checkpoint is of another hypernetwork.
    """
    check_complete(config)
    check_choice("passages", config.passages, _PASSAGES)
    if not config.ckpt_path:
        raise SettingValueError("ckpt_path", "a trained hypernetwork is needed, got none")
    folder = Path(config.paths.output_dir)
    dataset = instantiate(config.data)
    questions = sample(dataset.split(config.split), config.limit, config.seed)
    source = make_passage_source(config.passages, dataset, config.seed, None, config.k)
    genpoe = GenPoE.from_checkpoint(config.ckpt_path, instantiate(config.backbone))
    glances = [
        glance(genpoe, question, selection.passages, config.max_new_tokens)
        for question, selection in zip(questions, source.select(questions), strict=True)
    ]
    write_json(folder / "look.json", [asdict(each) for each in glances])
    nulls = [weight for each in glances for weight in each.null]
    metrics = {"n": len(glances), "tokens": len(nulls), "null": sum(nulls) / max(1, len(nulls))}
    write_json(folder / "metrics.json", metrics)
    draw(glances, folder / "look.png")
    evaluation = {"method": "genpoe", "ckpt_path": config.ckpt_path, "passages": config.passages}
    say_written(
        {folder: ["metrics.json", "look.json", "look.png"]},
        [next_command(config, "evaluate", evaluation, ("data", "backbone"))],
    )
    return glances
