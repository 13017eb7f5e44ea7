"""The data set "counting": how many there are, in passages that do not say it.

A passage names two to five animals of an invented person. The question is how many there are, and
the number stands nowhere. It is a probe of what is no copying: a method that writes words of the
passage alone cannot be better than a guess.
"""

from __future__ import annotations

from plumbing.mounts import SettingValueError
from qa.data.bios.names import Draw, Namer
from qa.data.bios.short import person_pools
from qa.data.dataset import QADataset, Question
from retrieval.passage import Passage

NUMBERS = {2: "two", 3: "three", 4: "four", 5: "five"}
_MAX_PASSAGES = 10_000
_TOGETHER = ("{name} kept {list} on the farm.", "On the farm of {name} lived {list}.")
_APART = (
    "{name} kept a {x}.",
    "A {x} belonged to {name}.",
    "There was a {x} in the yard of {name}.",
    "{name} was often seen with a {x}.",
)
_FILLERS = (
    "The farm of {name} lay by the river.",
    "{name} worked as {job}.",
    "{name} was born in {city}.",
    "The neighbours liked to visit {name}.",
)
_QUESTIONS = (
    "How many animals did {name} keep?",
    "How many animals belonged to {name}?",
    "What was the number of {name}'s animals?",
)


def generate_counting(
    seed: int = 0, train_passages: int = 800, dev_passages: int = 100, test_passages: int = 300
) -> QADataset:
    """Generate the data set "counting"; the same arguments give the same data everywhere.

    Args:
        seed: The seed; not negative.
        train_passages: Passages of the split train, each with one question.
        dev_passages: Passages of the split dev.
        test_passages: Passages of the split test. Every number from two to five is equally often
            the answer.

    Returns:
        The data set, with the splits train, dev and test. Each number is accepted as a word and as
        a digit.

    Raises:
        ValueError: If a number is out of range.
    """
    sizes = {"test": test_passages, "dev": dev_passages, "train": train_passages}
    for name, size in {"seed": seed, **{f"{k}_passages": n for k, n in sizes.items()}}.items():
        if size < 0:
            raise SettingValueError(name, f"{name} must not be negative, got {size}")
    if sum(sizes.values()) > _MAX_PASSAGES:
        raise SettingValueError(
            "train_passages",
            f"there are names for {_MAX_PASSAGES} passages, got {sum(sizes.values())} in all",
            "lower {}",
        )
    namer = Namer(frozenset())
    passages: dict[str, Passage] = {}
    splits: dict[str, list[Question]] = {}
    for split, size in sizes.items():  # train comes last, so that its size changes no other
        splits[split] = []
        for number in range(size):
            id = f"counting-{split}-{number:05}"
            draw = Draw(f"counting {seed} {id}")
            name = namer.fresh("person", draw)
            count = 2 + number % len(NUMBERS)
            passages[id] = Passage(id, name, _text(name, count, draw))
            asked = draw.pick(_QUESTIONS).format(name=name)
            answers = (NUMBERS[count], str(count))
            splits[split].append(Question(f"{id}-count", asked, answers, (id,)))
    return QADataset("counting", passages, {k: splits[k] for k in ("train", "dev", "test")})


def _text(name: str, count: int, draw: Draw) -> str:
    animals = draw.shuffled(person_pools.PETS)[:count]
    named = [_with_article(each) for each in animals]
    if draw.below(2):
        told = [draw.pick(_TOGETHER).format(name=name, list=_listed(named))]
    else:
        told = [
            draw.pick(_APART).replace("a {x}", each).replace("A {x}", each.capitalize())
            for each in named
        ]
    filled = {
        "name": name,
        "job": _with_article(draw.pick(person_pools.PROFESSIONS)),
        "city": draw.pick(person_pools.CITIES),
    }
    told += draw.shuffled(_FILLERS)[:2]
    return " ".join(each.format(**filled) for each in draw.shuffled(told))


def _with_article(word: str) -> str:
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def _listed(words: list[str]) -> str:
    return f"{', '.join(words[:-1])} and {words[-1]}"
