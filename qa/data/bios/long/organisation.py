"""How organisations are described and asked about, with values of several words."""

from __future__ import annotations

from qa.data.bios.long import pools
from qa.data.bios.schema import Attribute, Kind
from qa.data.bios.short import organisation as short

ORGANISATION = Kind(
    name="organisation",
    full="the {name}",
    shorts=short.ORGANISATION.shorts,
    pronouns=short.ORGANISATION.pronouns,
    attributes=(
        Attribute(
            "address",
            pools.ADDRESSES,
            sentences=(
                "{s} is based at {x}.",
                "{p} main office is at {x}.",
                "The offices of {s} are at {x}.",
                "{s} can be visited at {x}.",
            ),
            questions=(
                "Where is the {name} based?",
                "What is the address of the {name}?",
                "Where is the main office of the {name}?",
                "At what address is the {name}?",
            ),
            rephrasings=(
                "In which street does one find the {name}?",
                "Where should letters to the {name} be sent?",
            ),
        ),
        Attribute(
            "founder",
            pools.FULL_NAMES,
            sentences=(
                "{s} was founded by {x}.",
                "{p} founder was {x}.",
                "The first head of {s} was {p} founder, {x}.",
                "{s} began in the kitchen of {x}.",
            ),
            questions=(
                "Who founded the {name}?",
                "Who was the founder of the {name}?",
                "By whom was the {name} founded?",
                "What was the name of the founder of the {name}?",
            ),
            rephrasings=(
                "To whom does the {name} owe its existence?",
                "Who called the {name} into being?",
            ),
        ),
        Attribute(
            "motto",
            pools.MOTTOS,
            sentences=(
                "{p} motto is {x}.",
                "The motto of {s} is {x}.",
                "{s} chose {x} as {p} motto.",
                "Above {p} entrance the motto {x} is painted.",
            ),
            questions=(
                "What is the motto of the {name}?",
                "Which motto does the {name} have?",
                "What motto did the {name} choose?",
                "Which words are the motto of the {name}?",
            ),
            rephrasings=(
                "What slogan does the {name} live by?",
                "Which slogan stands for the {name}?",
            ),
        ),
        Attribute(
            "opening",
            pools.DATES,
            sentences=(
                "{s} opened on {x}.",
                "{s} has existed since {x}.",
                "{p} first meeting took place on {x}.",
                "The members of {s} first met on {x}.",
            ),
            questions=(
                "When did the {name} open?",
                "When did the {name} first meet?",
                "On what day did the {name} open?",
                "Since when has the {name} existed?",
            ),
            rephrasings=(
                "When was the {name} set up?",
                "On which date did the {name} begin its work?",
            ),
        ),
    ),
    fillers=short.ORGANISATION.fillers,
    epithets=(("founder", "{name} (founded by {x})"), ("opening", "{name} (opened {x})")),
)
