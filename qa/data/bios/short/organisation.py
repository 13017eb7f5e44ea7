"""How organisations are described and asked about."""

from __future__ import annotations

from qa.data.bios.schema import Attribute, Kind
from qa.data.bios.short import organisation_pools as pools

ORGANISATION = Kind(
    name="organisation",
    full="the {name}",
    shorts=("the {lower}",),
    pronouns=(("it", "its"),),
    attributes=(
        Attribute(
            "city",
            pools.CITIES,
            unseen=pools.UNSEEN_CITIES,
            sentences=(
                "{s} is based in {x}.",
                "{p} headquarters are in {x}.",
                "{s} has {p} main office in {x}.",
                "{s} moved to {x} long ago and stayed there.",
                "The offices of {s} are in {x}.",
            ),
            questions=(
                "Where is the {name} based?",
                "What city is the {name} based in?",
                "Which city is home to the {name}?",
                "Where are the headquarters of the {name}?",
                "Where is the {name}'s main office?",
            ),
            rephrasings=(
                "In what town does the {name} sit?",
                "From which place does the {name} operate?",
            ),
        ),
        Attribute(
            "field",
            pools.FIELDS,
            unseen=pools.UNSEEN_FIELDS,
            sentences=(
                "{s} investigates {x}.",
                "{s} was founded to find out more about {x}.",
                "{p} research is devoted to {x}.",
                "{s} funds research on {x}.",
                "Most of {p} members are experts on {x}.",
            ),
            questions=(
                "What does the {name} investigate?",
                "What does the {name} do research on?",
                "What is the research of the {name} about?",
                "What topic does the {name} study?",
                "Which subject does the {name} research?",
            ),
            rephrasings=(
                "What do experts at the {name} examine?",
                "To what is the work of the {name} devoted?",
            ),
        ),
        Attribute(
            "emblem",
            pools.EMBLEMS,
            unseen=pools.UNSEEN_EMBLEMS,
            sentences=(
                "{p} emblem shows {a} {x}.",
                "{s} has {a} {x} on {p} flag.",
                "The badge of {s} shows {a} {x}.",
                "{p} letters are stamped with {a} {x}.",
                "The emblem of {s} is {a} {x}.",
            ),
            questions=(
                "What is on the emblem of the {name}?",
                "What does the {name}'s emblem show?",
                "Which emblem does the {name} have?",
                "What is the emblem of the {name}?",
                "What appears on the {name}'s badge?",
            ),
            rephrasings=(
                "What symbol does the {name} use?",
                "What is depicted on the flag of the {name}?",
            ),
        ),
        Attribute(
            "namesake",
            pools.NAMESAKES,
            unseen=pools.UNSEEN_NAMESAKES,
            sentences=(
                "{p} main hall is named after {x}.",
                "{s} named {p} hall for {x}.",
                "The hall of {s} bears the name of {x}.",
                "{s} meets in a hall called after {x}.",
                "With {p} hall {s} honours {x}.",
            ),
            questions=(
                "Who is the {name}'s hall named after?",
                "Whose name does the {name}'s hall bear?",
                "Who gave the {name}'s hall its name?",
                "Which name does the {name}'s hall bear?",
                "Who is honoured by the {name}'s hall?",
            ),
            rephrasings=(
                "After whom did the {name} call its hall?",
                "Which famous person does the {name} honour?",
            ),
        ),
        Attribute(
            "motto",
            pools.MOTTOS,
            unseen=pools.UNSEEN_MOTTOS,
            sentences=(
                "{p} motto is the single word {x}.",
                "The word {x} is the motto of {s}.",
                "{s} chose {x} as {p} motto.",
                "Above {p} entrance the motto {x} is painted.",
                "Members of {s} live by the motto {x}.",
            ),
            questions=(
                "What is the motto of the {name}?",
                "What is the {name}'s motto?",
                "Which motto does the {name} have?",
                "What motto did the {name} choose?",
                "Which word is the {name}'s motto?",
            ),
            rephrasings=(
                "What slogan does the {name} live by?",
                "Which slogan stands for the {name}?",
            ),
        ),
        Attribute(
            "prize",
            pools.PRIZES,
            unseen=pools.UNSEEN_PRIZES,
            sentences=(
                "{p} yearly prize is a bronze {x}.",
                "Each year {s} awards a bronze {x}.",
                "Winners of {p} prize receive a bronze {x}.",
                "{s} rewards merit with a bronze {x}.",
                "{p} best members are given a bronze {x}.",
            ),
            questions=(
                "What prize does the {name} award?",
                "What do winners at the {name} receive?",
                "What is the prize of the {name}?",
                "Which prize does the {name} give?",
                "What is the {name}'s prize?",
            ),
            rephrasings=(
                "What trophy can one win at the {name}?",
                "What bronze object does the {name} hand out?",
            ),
        ),
    ),
    fillers=(
        "{s} began as a group of friends.",
        "{s} has nearly ninety members.",
        "{p} rules have not changed since the beginning.",
        "{s} is funded by gifts and a small yearly fee.",
        "Once a month {s} holds an open evening.",
        "{s} nearly closed during a long financial crisis.",
        "{p} archive is open to everyone.",
        "{s} prints a journal four times a year.",
        "New members of {s} must be proposed by two others.",
        "{p} president is elected every third year.",
        "{s} employs a staff of eleven.",
        "Meetings of {s} are short and well attended.",
        "{p} early history is poorly documented.",
        "{s} owns the house next to {p} own.",
    ),
    epithets=(("city", "{x}-based {name}"), ("field", "{x}-researching {name}")),
)
