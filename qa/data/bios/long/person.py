"""How people are described and asked about, with values of several words."""

from __future__ import annotations

from qa.data.bios.long import pools
from qa.data.bios.schema import Attribute, Kind
from qa.data.bios.short import person as short

PERSON = Kind(
    name="person",
    full="{name}",
    shorts=short.PERSON.shorts,
    pronouns=short.PERSON.pronouns,
    attributes=(
        Attribute(
            "birthday",
            pools.DATES,
            sentences=(
                "{s} was born on {x}.",
                "{p} date of birth is {x}.",
                "{s} came into the world on {x}.",
                "The parish register says that {s} was born on {x}.",
            ),
            questions=(
                "When was {name} born?",
                "On what day was {name} born?",
                "What is the date of birth of {name}?",
                "What is the birthday of {name}?",
            ),
            rephrasings=(
                "When did {name} come into the world?",
                "On which date did the life of {name} begin?",
            ),
        ),
        Attribute(
            "spouse",
            pools.RELATIVES,
            sentences=(
                "{s} married {x}.",
                "In spite of all warnings {s} married {x}.",
                "After a long engagement {s} wed {x}.",
                "{s} had a happy marriage with {x}.",
            ),
            questions=(
                "Who did {name} marry?",
                "Who was {name} married to?",
                "Whom did {name} marry?",
                "Who was the spouse of {name}?",
            ),
            rephrasings=(
                "Who became the partner of {name} for life?",
                "With whom did {name} share a household?",
            ),
        ),
        Attribute(
            "book",
            pools.BOOKS,
            sentences=(
                "{s} wrote a book called {x}.",
                "{p} only book was {x}.",
                "{p} memoirs appeared under the title {x}.",
                "{s} is best known for the book {x}.",
            ),
            questions=(
                "What is the title of the book by {name}?",
                "Which book did {name} write?",
                "What book did {name} write?",
                "What is the book by {name} called?",
            ),
            rephrasings=(
                "What did {name} publish?",
                "Which volume came from the pen of {name}?",
            ),
        ),
        Attribute(
            "pastimes",
            pools.PASTIMES,
            sentences=(
                "{p} favourite pastimes were {x}.",
                "{s} spent much time on {x}.",
                "{s} was fond of {x}.",
                "On free days {s} devoted many hours to {x}.",
            ),
            questions=(
                "What were the pastimes of {name}?",
                "Which two pastimes did {name} have?",
                "What did {name} like to do?",
                "Which pastimes did {name} enjoy?",
            ),
            rephrasings=(
                "What were the hobbies of {name}?",
                "How did {name} fill idle hours?",
            ),
        ),
    ),
    fillers=short.PERSON.fillers,
    epithets=(("birthday", "{name} (born {x})"), ("book", "{name} (author of {x})")),
)
