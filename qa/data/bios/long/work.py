"""How novels, plays and films are described and asked about, with values of several words."""

from __future__ import annotations

from qa.data.bios.long import pools
from qa.data.bios.schema import Attribute, Kind
from qa.data.bios.short import work as short

WORK = Kind(
    name="work",
    full="{name}",
    shorts=short.WORK.shorts,
    pronouns=short.WORK.pronouns,
    attributes=(
        Attribute(
            "author",
            pools.FULL_NAMES,
            sentences=(
                "{s} was written by {x}.",
                "The author of {s} is {x}.",
                "{s} is the best known work by {x}.",
                "{s} first brought {p} author {x} to wide notice.",
            ),
            questions=(
                "Who wrote {name}?",
                "Who is the author of {name}?",
                "Who was {name} written by?",
                "Which author wrote {name}?",
            ),
            rephrasings=(
                "Whose work is {name}?",
                "From whose pen does {name} come?",
            ),
        ),
        Attribute(
            "hero",
            pools.HEROES,
            sentences=(
                "{p} main character is {x}.",
                "{s} tells the story of {x}.",
                "The hero of {s} is {x}.",
                "{s} follows {x} through one long year.",
            ),
            questions=(
                "Who is the main character of {name}?",
                "Who is the hero of {name}?",
                "Who does {name} follow?",
                "Whose story does {name} tell?",
            ),
            rephrasings=(
                "Who is the protagonist of {name}?",
                "Whom do readers of {name} get to know?",
            ),
        ),
        Attribute(
            "title",
            pools.TITLES,
            sentences=(
                "{s} was first called {x}.",
                "{p} original title was {x}.",
                "The first title of {s} was {x}.",
                "At first {s} was announced as {x}.",
            ),
            questions=(
                "What was {name} first called?",
                "What was the original title of {name}?",
                "What was the first title of {name}?",
                "Which title did {name} have at first?",
            ),
            rephrasings=(
                "Under what name was {name} announced?",
                "What was {name} known as in the beginning?",
            ),
        ),
        Attribute(
            "release",
            pools.DATES,
            sentences=(
                "{s} appeared on {x}.",
                "{s} was released on {x}.",
                "The public first saw {s} on {x}.",
                "{p} release came on {x}.",
            ),
            questions=(
                "When did {name} appear?",
                "When was {name} released?",
                "On what day was {name} released?",
                "What is the release date of {name}?",
            ),
            rephrasings=(
                "When did {name} come out?",
                "Since which date has {name} been known?",
            ),
        ),
    ),
    fillers=short.WORK.fillers,
    epithets=(("author", "{name} (by {x})"), ("release", "{name} (released {x})")),
)
