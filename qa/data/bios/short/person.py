"""How people are described and asked about."""

from __future__ import annotations

from qa.data.bios.schema import Attribute, Kind
from qa.data.bios.short import person_pools as pools

PERSON = Kind(
    name="person",
    full="{name}",
    shorts=("{last}",),
    pronouns=(("she", "her"), ("he", "his")),
    attributes=(
        Attribute(
            "profession",
            pools.PROFESSIONS,
            unseen=pools.UNSEEN_PROFESSIONS,
            sentences=(
                "{s} worked as {a} {x} for many years.",
                "{s} earned {p} living as {a} {x}.",
                "By trade {s} was {a} {x}.",
                "{p} profession was that of {a} {x}.",
                "After a long training {s} became {a} {x}.",
            ),
            questions=(
                "What was {name}'s profession?",
                "What did {name} do for a living?",
                "Which profession did {name} have?",
                "What job did {name} hold?",
                "What was the occupation of {name}?",
            ),
            rephrasings=("How did {name} earn money?", "As what was {name} employed?"),
        ),
        Attribute(
            "birthplace",
            pools.CITIES,
            unseen=pools.UNSEEN_CITIES,
            sentences=(
                "{s} was born in {x}.",
                "{s} was a native of {x}.",
                "{p} birthplace was {x}.",
                "The city where {s} was born is {x}.",
                "{s} came into the world in {x}.",
            ),
            questions=(
                "Where was {name} born?",
                "What city was {name} born in?",
                "Which city did {name} come from?",
                "What was {name}'s birthplace?",
                "What is the birthplace of {name}?",
            ),
            rephrasings=(
                "From where did {name} originally come?",
                "What was the native city of {name}?",
            ),
        ),
        Attribute(
            "sister",
            pools.SISTERS,
            unseen=pools.UNSEEN_SISTERS,
            sentences=(
                "{s} had a sister named {x}.",
                "{p} only sister was called {x}.",
                "{s} grew up with a sister, {x}.",
                "{s} was very close to {p} sister {x}.",
            ),
            questions=(
                "Who was {name}'s sister?",
                "What was {name}'s sister called?",
                "What was the name of {name}'s sister?",
                "Which sister did {name} have?",
                "Who was the sister of {name}?",
            ),
            rephrasings=(
                "Who was the female sibling of {name}?",
                "Which girl did {name} grow up with?",
            ),
        ),
        Attribute(
            "pet",
            pools.PETS,
            unseen=pools.UNSEEN_PETS,
            sentences=(
                "{s} kept {a} {x} as a pet.",
                "At home {s} looked after a tame {x}.",
                "{s} shared {p} house with {a} {x}.",
                "{s} was often seen with {p} pet {x}.",
                "{p} pet, {a} {x}, was known all over town.",
            ),
            questions=(
                "What pet did {name} keep?",
                "Which animal did {name} keep?",
                "What animal was {name}'s pet?",
                "What kind of pet did {name} have?",
                "Which pet belonged to {name}?",
            ),
            rephrasings=("What creature lived with {name}?", "With which beast did {name} live?"),
        ),
        Attribute(
            "subject",
            pools.SUBJECTS,
            unseen=pools.UNSEEN_SUBJECTS,
            sentences=(
                "{s} studied {x} at a small college.",
                "As a student {s} took a degree in {x}.",
                "{p} university degree was in {x}.",
                "{s} spent {p} student years on {x}.",
                "In {p} youth {s} studied {x}.",
            ),
            questions=(
                "What did {name} study?",
                "Which subject did {name} study?",
                "What subject was {name}'s degree in?",
                "What was {name}'s degree in?",
                "What field did {name} study?",
            ),
            rephrasings=(
                "In what discipline was {name} educated?",
                "What did {name} read at university?",
            ),
        ),
        Attribute(
            "food",
            pools.FOODS,
            unseen=pools.UNSEEN_FOODS,
            sentences=(
                "{p} favourite food was {x}.",
                "{s} liked to eat {x} above all.",
                "{s} was known to be fond of {x}.",
                "For guests {s} always served {x}.",
                "{s} ate {x} nearly every evening.",
            ),
            questions=(
                "What was {name}'s favourite food?",
                "What food did {name} like?",
                "What did {name} like to eat?",
                "Which food did {name} prefer?",
                "What food was {name} fond of?",
            ),
            rephrasings=(
                "Which dish did {name} enjoy most?",
                "What would {name} have for dinner?",
            ),
        ),
    ),
    fillers=(
        "{s} lived a quiet life and rarely travelled far.",
        "Few letters in {p} own hand have survived.",
        "{s} never cared much about public attention.",
        "{p} name appears in several local records.",
        "{s} was remembered by many neighbours and friends.",
        "Later {s} moved to a house near the coast.",
        "A short account of {p} life was printed long afterwards.",
        "{s} had few enemies and many visitors.",
        "{p} diaries were lost in a fire.",
        "{s} gave several talks in later years.",
        "Little else is known about {p} early years.",
        "{s} preferred long walks to crowded rooms.",
        "A street near {p} old house still bears the name.",
        "For some time {s} lived abroad.",
    ),
    epithets=(("profession", "the {x} {name}"), ("birthplace", "{x}-born {name}")),
)
