"""The data set "twins": two entities in one passage, whose values the twin passage exchanges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from plumbing.mounts import SettingValueError
from qa.data.bios.names import Draw
from qa.data.bios.passages import fill_sentence
from qa.data.bios.schema import Attribute, Kind
from qa.data.bios.short import SHORT_KINDS
from qa.data.dataset import QADataset, Question
from qa.data.twins.names import SplitNames, check_sizes
from qa.data.twins.pairs import Pair, Twins, dataset_of_pairs, same_words
from retrieval.passage import Passage

MAX_PAIRS = 3000
# Every word of their names is made up, so that it can belong to one split alone.
_KINDS: tuple[Kind, ...] = tuple(kind for kind in SHORT_KINDS if kind.name in ("person", "place"))
_MAX_FACTS = len(_KINDS[0].attributes)


@dataclass(frozen=True, slots=True)
class _Told:
    """A sentence about one of the two entities, and its values in the two passages."""

    who: int
    template: str
    values: tuple[str, str]


def generate_twins(
    seed: int = 0,
    train_pairs: int = 600,
    dev_pairs: int = 50,
    test_pairs: int = 300,
    pronoun_pairs: int = 300,
    facts: int = 3,
    train_questions: int = 3,
) -> QADataset:
    """Generate the data set "twins"; the same arguments give the same data everywhere.

    A passage is about two invented people or two invented places, and states the same facts of
    both. Its twin has the values of the two exchanged, and is otherwise the same. So both have the
    same words, equally often. Each fact is asked about both entities in both passages, in the same
    words: the two questions are twins (`qa.data.twins.twins_of`).

    In the split test the sentences about the two are mixed, and each has its entity's name. In
    test_pronouns all sentences about one come first, and most of them have a pronoun, so that the
    name stands further away. Half of the pairs of train and dev are of either form.

    Args:
        seed: The seed; not negative.
        train_pairs: Pairs of passages of the split train. Both passages are trained on.
        dev_pairs: Pairs of passages of the split dev.
        test_pairs: Pairs of passages of the split test. No word of a name is in two splits.
        pronoun_pairs: Pairs of passages of the split test_pronouns.
        facts: The number of facts about each entity, 1 to 6.
        train_questions: The number of questions that each passage of train keeps, at most
            ``2 * facts``, which is what the other splits have.

    Returns:
        The data set, with the splits train, dev, test and test_pronouns.

    Raises:
        ValueError: If a number is out of range.
    """
    sizes = {
        "test_pairs": test_pairs,
        "pronoun_pairs": pronoun_pairs,
        "dev_pairs": dev_pairs,
        "train_pairs": train_pairs,
    }
    check_sizes(seed, sizes, MAX_PAIRS)
    for name, number, most in (
        ("facts", facts, _MAX_FACTS),
        ("train_questions", train_questions, 2 * facts),
    ):
        if not 1 <= number <= most:
            raise SettingValueError(name, f"{name} must be in 1..{most}, got {number}")
    texts = [text for kind in _KINDS for text in kind.fillers]
    texts += [text for kind in _KINDS for each in kind.attributes for text in each.texts]
    names = SplitNames(frozenset(" ".join(texts).lower().replace(".", " ").split()))

    def make(pair: Pair) -> tuple[list[Passage], list[Twins]]:
        kind, draw = _KINDS[pair.number % len(_KINDS)], pair.draw
        both = names.fresh(kind.name, pair.split, draw), names.fresh(kind.name, pair.split, draw)
        one_after_other = pair.split != "test" and pair.number // 2 % 2 == 1
        pronouns = pair.split == "test_pronouns" or one_after_other
        return _pair(pair.id, kind, both, facts, pronouns, draw)

    by_split = dict(zip(("test", "test_pronouns", "dev", "train"), sizes.values(), strict=True))
    return dataset_of_pairs("twins", seed, by_split, make, train_questions)


def _pair(
    id: str, kind: Kind, names: tuple[str, str], facts: int, pronouns: bool, draw: Draw
) -> tuple[list[Passage], list[Twins]]:
    """Two passages that have the same words, and the pairs of questions about them."""
    chosen = [kind.attributes[i] for i in draw.shuffled(range(len(kind.attributes)))[:facts]]
    values = [(draw.pick(each.values), draw.pick(each.values)) for each in chosen]
    while any(one == other for one, other in values):
        values = [(draw.pick(each.values), draw.pick(each.values)) for each in chosen]
    while True:
        texts = _texts(kind, names, chosen, values, pronouns, draw)
        if same_words(*texts):  # "a" and "an" may differ, and what stands at the beginning
            break
    title = " and ".join(names)
    passages = [Passage(f"{id}{end}", title, text) for end, text in zip("ab", texts, strict=True)]
    questions = []
    for who, name in enumerate(names):
        for attribute, of_each in zip(chosen, values, strict=True):
            asked = draw.pick(attribute.questions).format(name=name)
            one, other = (
                Question(
                    f"{passage.id}-{who + 1}-{attribute.name}",
                    asked,
                    (of_each[who ^ turned],),
                    (passage.id,),
                )
                for turned, passage in enumerate(passages)
            )
            questions.append(Twins(one, other))
    return passages, questions


def _texts(
    kind: Kind,
    names: tuple[str, str],
    attributes: Sequence[Attribute],
    values: Sequence[tuple[str, str]],
    pronouns: bool,
    draw: Draw,
) -> tuple[str, str]:
    told = [
        _Told(who, draw.pick(attribute.sentences), pair if who == 0 else pair[::-1])
        for attribute, pair in zip(attributes, values, strict=True)
        for who in range(2)
    ]
    told = draw.shuffled(told)
    if pronouns:
        told.sort(key=lambda sentence: sentence.who)
    pronoun = draw.pick(kind.pronouns)
    named: set[int] = set()
    subjects = []
    for sentence in told:
        called = names[sentence.who]
        if sentence.who in named and kind.name == "person":
            called = draw.pick((called, called.split()[-1]))
        by_pronoun = pronouns and sentence.who in named and sentence.template.startswith("{")
        subjects.append(pronoun if by_pronoun else (called, f"{called}'s"))
        named.add(sentence.who)
    one, other = (
        " ".join(
            fill_sentence(sentence.template, sentence.values[turned], subject, pronoun)
            for sentence, subject in zip(told, subjects, strict=True)
        )
        for turned in range(2)
    )
    return one, other
