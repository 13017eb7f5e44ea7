"""Passages and questions about invented people, places, works and organisations.

The facts are invented, but the values are real words. A model cannot know an answer without the
passage, and it can write every answer. In the form "bios" each value is one word, and there are no
digits, because a bag of words would lose their order. In the form "bios_long" values have several
words.
"""

from __future__ import annotations

from collections.abc import Mapping

from plumbing.mounts import SettingValueError
from qa.data.bios.entities import USUAL_TRAINING, draw_populations
from qa.data.bios.known import known_questions
from qa.data.bios.names import MAX_ENTITIES, Draw
from qa.data.bios.passages import write_passage
from qa.data.bios.questions import ask, by_entity, in_rounds
from qa.data.bios.splits import BIOS, BIOS_LONG, Form
from qa.data.dataset import QADataset, Question

MAX_RESEMBLING = 6  # for each held-out entity, because only few names resemble a given name


def generate(
    seed: int = 0,
    train_entities: int = USUAL_TRAINING,
    dev_entities: int = 150,
    distractor_entities: int = 300,
    train_questions: int = 6,
    test_entities: int = 150,
    unseen_entities: int = 150,
    namesakes: int = 0,
) -> QADataset:
    """Generate the data set "bios"; the same arguments give the same data everywhere.

    Each entity has one passage of 60 to 120 words and six attributes. Each attribute gives a
    question whose answer stands in the passage once. No entity is in two splits, and the kinds of
    entities alternate. The dev entities depend only on the seed, so that a larger training split
    does not change them. The entities of test and test_unseen are the same for every
    ``train_entities`` up to its default; with more, a few of them have other names.

    Args:
        seed: The seed; not negative.
        train_entities: Entities of the split train, each with one passage and 6 questions, and of
            train_reworded, which asks the same in other phrasings of training.
        dev_entities: Entities of the split dev, each with one passage, 6 questions in the phrasings
            of training, and 6 questions of the split dev_rephrased about the same facts, in
            phrasings that do not occur in training. The first questions of both splits are a fair
            sample: kinds alternate, and the first ``dev_entities`` questions ask about each entity
            once.
        distractor_entities: Passages without questions. Each is about an entity that shares a part
            of its name, and two or three values, with a dev entity. The other held-out entities get
            as many each, in addition.
        train_questions: The number of questions that each training entity keeps, 1 to 6; all six
            attributes take turns.
        test_entities: Entities of the split test, which is made like dev, but on which nothing was
            tuned. The splits test_rephrased and test_reworded ask about the same facts in two
            further phrasings that do not occur in training.
        unseen_entities: Entities of the splits test_unseen and test_unseen_rephrased. No word of
            their values occurs in any other entity's passage or question.
        namesakes: How many further entities each held-out entity gets in its own splits, in turn
            with the same name and with a name that shares a part of it. They have passages and
            questions of their own. Where entities share a name, questions have an epithet that
            fits one of them only, such as "the swimmer Befu Gild".

    Returns:
        The data set, with the splits train, train_reworded, dev, dev_rephrased, test,
        test_rephrased, test_reworded, test_unseen, test_unseen_rephrased, and known
        (`known_questions`).

    Raises:
        ValueError: If a number is negative, if there are more than `MAX_ENTITIES` entities, more
            than `MAX_RESEMBLING` distractors for each dev entity or as many namesakes, or if
            ``train_questions`` is not in 1..6.
    """
    counts = {
        "train_entities": train_entities,
        "dev_entities": dev_entities,
        "test_entities": test_entities,
        "unseen_entities": unseen_entities,
    }
    return _generate(BIOS, seed, counts, distractor_entities, train_questions, namesakes)


def generate_long(
    seed: int = 0,
    train_entities: int = USUAL_TRAINING,
    dev_entities: int = 150,
    distractor_entities: int = 300,
    train_questions: int = 4,
    test_entities: int = 150,
    namesakes: int = 0,
) -> QADataset:
    """Generate the data set "bios_long", whose answers have several words.

    Answers are dates, titles, full names, addresses, lists of two, and phrases such as "the harbour
    master's daughter". Each kind of entity has four attributes.

    Args:
        seed: The seed; not negative.
        train_entities: Entities of the splits train and train_reworded, as in `generate`, each with
            one passage and 4 questions.
        dev_entities: Entities of the splits dev and dev_rephrased, as in `generate`.
        distractor_entities: Passages without questions, as in `generate`.
        train_questions: The number of questions that each training entity keeps, 1 to 4.
        test_entities: Entities of the splits test, test_rephrased and test_reworded, as in
            `generate`.
        namesakes: Further entities for each held-out one, as in `generate`.

    Returns:
        The data set, with the splits train, train_reworded, dev, dev_rephrased, test,
        test_rephrased, test_reworded, and known (`known_questions`).

    Raises:
        ValueError: As in `generate`, with ``train_questions`` in 1..4.
    """
    counts = {
        "train_entities": train_entities,
        "dev_entities": dev_entities,
        "test_entities": test_entities,
    }
    return _generate(BIOS_LONG, seed, counts, distractor_entities, train_questions, namesakes)


def _generate(
    form: Form,
    seed: int,
    counts: Mapping[str, int],
    distractors: int,
    train_questions: int,
    namesakes: int,
) -> QADataset:
    if not 1 <= train_questions <= form.attributes:
        raise SettingValueError(
            "train_questions",
            f"train_questions must be in 1..{form.attributes}, got {train_questions}",
        )
    _check(form, seed, counts, distractors, namesakes)
    sizes = {group.name: counts[f"{group.name}_entities"] for group in form.groups}
    drawn = draw_populations(form, seed, sizes, distractors, namesakes)
    entities = [each for one in drawn.values() for each in (*one.entities, *one.distractors)]
    entities += [each for one in drawn.values() for each in one.namesakes]
    passages = {
        entity.id: write_passage(entity, Draw(f"{form.name} passage {seed} {entity.id}"))
        for entity in entities
    }
    splits: dict[str, list[Question]] = {}
    for name, population in drawn.items():
        asking = [split for split in form.splits if split.group == name]
        words = Draw(f"{form.name} {name} questions {seed}")
        if name == "train":
            splits |= ask(by_entity(form, population.entities, train_questions), asking, words)
            continue
        splits |= ask(in_rounds(form, population.entities), asking, words)
        words = Draw(f"{form.name} {name} namesake questions {seed}")
        for split, further in ask(in_rounds(form, population.namesakes), asking, words).items():
            splits[split] += further
    return QADataset(form.name, passages, splits | {"known": known_questions()})


def _check(
    form: Form, seed: int, counts: Mapping[str, int], distractors: int, namesakes: int
) -> None:
    every = {**counts, "distractor_entities": distractors}
    for name, number in {"seed": seed, **every, "namesakes": namesakes}.items():
        if number < 0:
            raise SettingValueError(name, f"{name} must not be negative, got {number}")
    if namesakes > MAX_RESEMBLING:
        raise SettingValueError(
            "namesakes",
            f"namesakes must be at most {MAX_RESEMBLING}, got {namesakes}",
            "lower {}",
        )
    dev = counts["dev_entities"]
    if distractors > MAX_RESEMBLING * dev:
        raise SettingValueError(
            "distractor_entities",
            f"distractor_entities must be at most {MAX_RESEMBLING} for each of the {dev} "
            f"dev entities, got {distractors}",
            "lower {}",
        )
    held_out = sum(counts.values()) - counts["train_entities"]
    total = sum(counts.values()) + (namesakes + distractors // max(1, dev)) * held_out
    if total > MAX_ENTITIES:
        raise SettingValueError(
            "train_entities",
            f"there are names for {MAX_ENTITIES} entities, got {total} in all",
            "lower {}",
        )
