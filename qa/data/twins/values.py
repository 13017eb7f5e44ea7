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
from qa.data.twins.pairs import same_words
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
    train_pairs: int = 300,
    dev_pairs: int = 50,
    test_pairs: int = 300,
    facts: int = 3,
) -> QADataset:
    """Generate the data set "twins"; the same arguments give the same data everywhere.

    A passage is about two invented people or two invented places, and states the same facts of
    both. Its twin has the values of the two exchanged, and is otherwise the same. So both have the
    same words, equally often. Each fact is asked about both entities in both passages, in the same
    words: the two questions are twins (`qa.data.twins.twins_of`).

    In one half of the pairs the sentences about the two are mixed and each has its entity's name.
    In the other half, all sentences about one come first, and most have a pronoun.

    Args:
        seed: The seed; not negative.
        train_pairs: Pairs of passages of the split train. Both passages are trained on.
        dev_pairs: Pairs of passages of the split dev.
        test_pairs: Pairs of passages of the split test. No word of a name is in two splits.
        facts: The number of facts about each entity, 1 to 6.

    Returns:
        The data set, with the splits train, dev and test. A pair of passages has ``2 * facts``
        pairs of questions.

    Raises:
        ValueError: If a number is out of range.
    """
    sizes = {"test_pairs": test_pairs, "dev_pairs": dev_pairs, "train_pairs": train_pairs}
    check_sizes(seed, sizes, MAX_PAIRS)
    if not 1 <= facts <= _MAX_FACTS:
        raise SettingValueError("facts", f"facts must be in 1..{_MAX_FACTS}, got {facts}")
    texts = [text for kind in _KINDS for text in kind.fillers]
    texts += [text for kind in _KINDS for each in kind.attributes for text in each.texts]
    names = SplitNames(frozenset(" ".join(texts).lower().replace(".", " ").split()))
    passages: dict[str, Passage] = {}
    splits: dict[str, list[Question]] = {}
    for setting, size in sizes.items():  # train comes last, so that its size changes no other
        split = setting.removesuffix("_pairs")
        splits[split] = []
        for number in range(size):
            id = f"twins-{split}-{number:05}"
            draw = Draw(f"twins {seed} {id}")
            kind = _KINDS[number % len(_KINDS)]
            pair = names.fresh(kind.name, split, draw), names.fresh(kind.name, split, draw)
            told, questions = _pair(id, kind, pair, facts, draw)
            passages |= {passage.id: passage for passage in told}
            splits[split] += questions
    ordered = {name: splits[name] for name in ("train", "dev", "test")}
    return QADataset("twins", passages, ordered)


def _pair(
    id: str, kind: Kind, names: tuple[str, str], facts: int, draw: Draw
) -> tuple[list[Passage], list[Question]]:
    """Two passages that have the same words, and the questions about both."""
    chosen = [kind.attributes[i] for i in draw.shuffled(range(len(kind.attributes)))[:facts]]
    values = [(draw.pick(each.values), draw.pick(each.values)) for each in chosen]
    while any(one == other for one, other in values):
        values = [(draw.pick(each.values), draw.pick(each.values)) for each in chosen]
    while True:
        texts = _texts(kind, names, chosen, values, draw)
        if same_words(*texts):  # "a" and "an" may differ, and what stands at the beginning
            break
    title = " and ".join(names)
    passages = [Passage(f"{id}{end}", title, text) for end, text in zip("ab", texts, strict=True)]
    questions = []
    for who, name in enumerate(names):
        for attribute, of_each in zip(chosen, values, strict=True):
            text = draw.pick(attribute.questions).format(name=name)
            for turned, passage in enumerate(passages):
                questions.append(
                    Question(
                        f"{passage.id}-{who + 1}-{attribute.name}",
                        text,
                        (of_each[who ^ turned],),
                        (passage.id,),
                    )
                )
    return passages, questions


def _texts(
    kind: Kind,
    names: tuple[str, str],
    attributes: Sequence[Attribute],
    values: Sequence[tuple[str, str]],
    draw: Draw,
) -> tuple[str, str]:
    told = [
        _Told(who, draw.pick(attribute.sentences), pair if who == 0 else pair[::-1])
        for attribute, pair in zip(attributes, values, strict=True)
        for who in range(2)
    ]
    told = draw.shuffled(told)
    mixed = draw.below(2) == 0
    if not mixed:
        told.sort(key=lambda sentence: sentence.who)
    pronouns = draw.pick(kind.pronouns)
    named: set[int] = set()
    subjects = []
    for sentence in told:
        name = names[sentence.who]
        called = name
        if sentence.who in named and kind.name == "person":
            called = draw.pick((name, name.split()[-1]))
        by_pronoun = not mixed and sentence.who in named and sentence.template.startswith("{")
        subjects.append(pronouns if by_pronoun else (called, f"{called}'s"))
        named.add(sentence.who)
    one, other = (
        " ".join(
            fill_sentence(sentence.template, sentence.values[turned], subject, pronouns)
            for sentence, subject in zip(told, subjects, strict=True)
        )
        for turned in range(2)
    )
    return one, other
