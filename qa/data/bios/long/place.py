"""How places are described and asked about, with values of several words."""

from __future__ import annotations

from qa.data.bios.long import pools
from qa.data.bios.schema import Attribute, Kind
from qa.data.bios.short import place as short

PLACE = Kind(
    name="place",
    full="{name}",
    shorts=short.PLACE.shorts,
    pronouns=short.PLACE.pronouns,
    attributes=(
        Attribute(
            "founder",
            pools.FULL_NAMES,
            sentences=(
                "{s} was founded by {x}.",
                "{p} founder was {x}.",
                "The founder of {s} was a trader named {x}.",
                "{s} owes {p} existence to {x}.",
            ),
            questions=(
                "Who founded {name}?",
                "Who was the founder of {name}?",
                "By whom was {name} founded?",
                "What was the name of the founder of {name}?",
            ),
            rephrasings=(
                "To whom does {name} owe its existence?",
                "Which trader brought {name} into being?",
            ),
        ),
        Attribute(
            "fair",
            pools.FEASTS,
            sentences=(
                "{p} yearly fair is held on {x}.",
                "{s} holds a large fair on {x}.",
                "The fair of {s} takes place on {x}.",
                "Everyone in {s} is at the fair on {x}.",
            ),
            questions=(
                "When is the fair of {name} held?",
                "On what day is the fair of {name}?",
                "When does the fair of {name} take place?",
                "When does {name} hold its fair?",
            ),
            rephrasings=(
                "On which date do people gather in {name}?",
                "When does {name} celebrate each year?",
            ),
        ),
        Attribute(
            "goods",
            pools.GOODS,
            sentences=(
                "{s} is known for {p} {x}.",
                "{s} sells {x} to other towns.",
                "{s} earns most of {p} income from {x}.",
                "Traders come to {s} to buy {x}.",
            ),
            questions=(
                "What does {name} sell?",
                "Which goods is {name} known for?",
                "What can one buy in {name}?",
                "What two goods come from {name}?",
            ),
            rephrasings=(
                "What merchandise is {name} famous for?",
                "With what does {name} make its money?",
            ),
        ),
        Attribute(
            "charter",
            pools.DATES,
            sentences=(
                "{s} received {p} charter on {x}.",
                "{p} town charter is dated {x}.",
                "The charter of {s} was signed on {x}.",
                "{s} has been a town since {x}.",
            ),
            questions=(
                "When did {name} receive its charter?",
                "What is the date of the charter of {name}?",
                "On what day was the charter of {name} signed?",
                "Since when has {name} had a charter?",
            ),
            rephrasings=(
                "When did {name} become a town?",
                "On which date did {name} gain its rights?",
            ),
        ),
    ),
    fillers=short.PLACE.fillers,
    epithets=(("founder", "{name} (founded by {x})"), ("charter", "{name} (chartered {x})")),
)
