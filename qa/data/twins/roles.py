"""The data set "roles": who did something to whom, which the twin passage turns around.

A passage says that A did something to B, and that B did the same to C. Its twin exchanges the two
names within each of these sentences: B did it to A, and C to B. So each sentence has the same
words in both passages, and the question who did it to B has other answers.
"""

from __future__ import annotations

from plumbing.mounts import SettingValueError
from qa.data.bios.names import Draw
from qa.data.dataset import QADataset, Question
from qa.data.twins.names import SplitNames, check_sizes
from qa.data.twins.pairs import Pair, Twins, dataset_of_pairs
from qa.data.twins.verbs import (
    AGENT_QUESTIONS,
    FILLERS,
    FORMS,
    LEADS,
    PATIENT_QUESTIONS,
    TRAIN_VERBS,
    UNSEEN_VERBS,
    Verb,
)
from retrieval.passage import Passage

MAX_PAIRS = 3000


def generate_roles(
    seed: int = 0,
    train_pairs: int = 1200,
    dev_pairs: int = 50,
    test_pairs: int = 150,
    unseen_pairs: int = 150,
    train_questions: int = 1,
) -> QADataset:
    """Generate the data set "roles"; the same arguments give the same data everywhere.

    The sentences are active, passive or cleft ("It was Tova Blick who taught Olen Marsk"), and some
    have other words between the two names. The two sentences come in any order, with up to two
    others around them, of which some have all three names.

    Args:
        seed: The seed; not negative.
        train_pairs: Pairs of passages of the split train. Both passages are trained on.
        dev_pairs: Pairs of passages of the split dev.
        test_pairs: Pairs of passages of the split test. No word of a name is in two splits.
        unseen_pairs: Pairs of passages of the split test_unseen, in which no verb is one of any
            other split.
        train_questions: The number of questions that each passage of train keeps. The other splits
            have two: who did it to B, and to whom B did it.

    Returns:
        The data set, with the splits train, dev, test and test_unseen.

    Raises:
        ValueError: If a number is out of range.
    """
    sizes = {
        "unseen_pairs": unseen_pairs,
        "test_pairs": test_pairs,
        "dev_pairs": dev_pairs,
        "train_pairs": train_pairs,
    }
    check_sizes(seed, sizes, MAX_PAIRS)
    if train_questions not in (1, 2):
        raise SettingValueError(
            "train_questions", f"train_questions must be 1 or 2, got {train_questions}"
        )
    names = SplitNames(frozenset())

    def make(pair: Pair) -> tuple[list[Passage], list[Twins]]:
        verbs = UNSEEN_VERBS if pair.split == "test_unseen" else TRAIN_VERBS
        people = [names.fresh("person", pair.split, pair.draw) for _ in range(3)]
        return _pair(pair.id, people, verbs[pair.number % len(verbs)], pair.draw)

    by_split = dict(zip(("test_unseen", "test", "dev", "train"), sizes.values(), strict=True))
    return dataset_of_pairs("roles", seed, by_split, make, train_questions)


def _pair(id: str, people: list[str], verb: Verb, draw: Draw) -> tuple[list[Passage], list[Twins]]:
    """Two passages that have the same words, and the pairs of questions about them."""
    first, middle, last = people
    words = verb._asdict()
    links = [(draw.pick(FORMS), pair) for pair in ((first, middle), (middle, last))]
    others = draw.shuffled(FILLERS)[: draw.below(3)]
    named = dict(zip("abc", draw.shuffled(people), strict=True))
    order = draw.shuffled(range(len(links) + len(others)))
    lead = draw.pick(LEADS)

    def text(turned: bool) -> str:
        told = [
            form.format(s=pair[turned], o=pair[not turned], **words) for form, pair in links
        ] + [filler.format(**named) for filler in others]
        return " ".join([lead, *(told[i] for i in order)])

    title = ", ".join(draw.shuffled(people))
    passages = [
        Passage(f"{id}{end}", title, text(turned))
        for end, turned in zip("ab", (False, True), strict=True)
    ]
    questions = []
    for role, phrasings, answers in (
        ("agent", AGENT_QUESTIONS, (first, last)),
        ("patient", PATIENT_QUESTIONS, (last, first)),
    ):
        asked = draw.pick(phrasings).format(name=middle, **words)
        one, other = (
            Question(f"{passage.id}-{role}", asked, (answer,), (passage.id,))
            for passage, answer in zip(passages, answers, strict=True)
        )
        questions.append(Twins(one, other))
    return passages, questions
