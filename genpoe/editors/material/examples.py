"""Facts of training data with rephrasings and unrelated prompts, to choose settings by.

They share no subject and no passage with the facts of an evaluation.
"""

from __future__ import annotations

import random

from genpoe.editors.material.fact_sets import FactSet
from genpoe.editors.parts.facts import Fact
from plumbing.mounts import SettingValueError
from qa.data.bios import other_phrasings
from qa.data.dataset import QADataset, Question
from qa.prompts import build_prompt


def example_facts(dataset: QADataset, number: int, seed: int = 0) -> list[Fact]:
    """Facts of the split ``train`` that have a rephrasing, in a seeded order.

    Those of a fact set are its own. Those of the embedded data sets ask about one fact of each
    entity, in the other phrasings of training as well, and the next entity's question is unrelated.

    Args:
        dataset: The data set.
        number: How many facts there are.
        seed: The seed of the choice.

    Raises:
        SettingValueError: If the data set has fewer; the setting is ``data``.
    """
    chance = random.Random(seed)
    if isinstance(dataset, FactSet):
        facts = list(dataset.facts.get("train", ()))
    else:
        facts = _asked(dataset, chance)
    if len(facts) < number:
        raise SettingValueError(
            "data",
            f"expected {number} training facts with rephrasings in the data set {dataset.name!r}, "
            f"got {len(facts)}",
            "set {} to bios or counterfact, or give a number instead of auto",
        )
    return chance.sample(facts, number)


def _asked(dataset: QADataset, chance: random.Random) -> list[Fact]:
    by_passage: dict[str, list[Question]] = {}
    for question in dataset.splits.get("train", ()):
        by_passage.setdefault(question.passage_ids[0] if question.passage_ids else "", []).append(
            question
        )
    chosen = [chance.choice(each) for id, each in by_passage.items() if id]
    facts = []
    for question, other in zip(chosen, chosen[1:] + chosen[:1], strict=True):
        subject = dataset.gold(question)[0].title
        again = other_phrasings(question.question, subject)
        if again:
            fact = Fact(
                id=question.id,
                prompt=question.prompt(),
                target=question.answers[0],
                subject=subject,
                rephrasings=(build_prompt(again[0]),),
                locality=(other.prompt(),),
                passage_id=question.passage_ids[0],
                locality_answers=(other.answers[0],),
            )
            facts.append(fact)
    return facts
