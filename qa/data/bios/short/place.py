"""How places are described and asked about."""

from __future__ import annotations

from qa.data.bios.schema import Attribute, Kind
from qa.data.bios.short import place_pools as pools

PLACE = Kind(
    name="place",
    full="{name}",
    shorts=("the town", "the village", "the settlement"),
    pronouns=(("it", "its"),),
    attributes=(
        Attribute(
            "country",
            pools.COUNTRIES,
            unseen=pools.UNSEEN_COUNTRIES,
            sentences=(
                "{s} lies in the north of {x}.",
                "{s} is located in {x}.",
                "{s} belongs to {x}.",
                "{s} can be found in {x}, far from any border.",
                "The country in which {s} lies is {x}.",
            ),
            questions=(
                "What country is {name} in?",
                "Which country does {name} belong to?",
                "Where is {name} located?",
                "In which country does {name} lie?",
                "Where is {name}?",
            ),
            rephrasings=("Which nation is {name} part of?", "What land can {name} be found in?"),
        ),
        Attribute(
            "product",
            pools.PRODUCTS,
            unseen=pools.UNSEEN_PRODUCTS,
            sentences=(
                "{s} is known for {p} {x}.",
                "{p} workshops make {x}.",
                "{s} earns most of {p} income from {x}.",
                "{s} mainly produces {x}.",
                "Traders come to {s} to buy {x}.",
            ),
            questions=(
                "What does {name} produce?",
                "What is made in {name}?",
                "Which product is {name} known for?",
                "What goods does {name} make?",
                "What product comes from {name}?",
            ),
            rephrasings=(
                "What do the workshops of {name} manufacture?",
                "What merchandise is {name} famous for?",
            ),
        ),
        Attribute(
            "mineral",
            pools.MINERALS,
            unseen=pools.UNSEEN_MINERALS,
            sentences=(
                "The hills around {s} hold {x}.",
                "In the hills near {s} people dig for {x}.",
                "{s} grew rich from {x} found underground.",
                "{p} mines yield {x}.",
                "{s} has a mine that yields {x}.",
            ),
            questions=(
                "What is mined in {name}?",
                "What mineral is found in {name}?",
                "Which mineral comes from {name}?",
                "What do miners dig up in {name}?",
                "What mineral is mined at {name}?",
            ),
            rephrasings=(
                "What lies in the ground under {name}?",
                "What is extracted from the hills of {name}?",
            ),
        ),
        Attribute(
            "plant",
            pools.PLANTS,
            unseen=pools.UNSEEN_PLANTS,
            sentences=(
                "The plant on {p} coat of arms is the {x}.",
                "The symbol of {s} is the {x}.",
                "Every spring {s} honours the {x} with a parade.",
                "{p} official plant is the {x}.",
                "{s} chose the {x} as {p} plant.",
            ),
            questions=(
                "What plant is the symbol of {name}?",
                "Which plant represents {name}?",
                "What is {name}'s official plant?",
                "What plant did {name} choose?",
                "Which plant does {name} honour?",
            ),
            rephrasings=(
                "What grows on the coat of arms of {name}?",
                "Which botanical emblem does {name} use?",
            ),
        ),
        Attribute(
            "sight",
            pools.LANDMARKS,
            unseen=pools.UNSEEN_LANDMARKS,
            sentences=(
                "{p} main sight is an old {x}.",
                "Visitors come to {s} to see {a} {x}.",
                "{p} main attraction is {a} {x}.",
                "Tourists take pictures of {p} famous {x}.",
                "{s} is proud of {p} large {x}.",
            ),
            questions=(
                "What is {name}'s main sight?",
                "What can visitors see in {name}?",
                "What is the main attraction of {name}?",
                "Which sight is {name} famous for?",
                "What landmark does {name} have?",
            ),
            rephrasings=(
                "What do tourists photograph in {name}?",
                "What draws sightseers to {name}?",
            ),
        ),
        Attribute(
            "pastime",
            pools.PASTIMES,
            unseen=pools.UNSEEN_PASTIMES,
            sentences=(
                "The favourite pastime of {s} is {x}.",
                "{s} holds a yearly contest in {x}.",
                "People in {s} love {x}.",
                "{p} children learn {x} early.",
                "On Sundays everyone in {s} takes part in {x}.",
            ),
            questions=(
                "What pastime is popular in {name}?",
                "What is the favourite pastime of {name}?",
                "What do people in {name} love?",
                "Which pastime does {name} love?",
                "What contest does {name} hold?",
            ),
            rephrasings=(
                "How do residents of {name} amuse themselves?",
                "What leisure activity does {name} favour?",
            ),
        ),
    ),
    fillers=(
        "The road to {s} is narrow and often closed in winter.",
        "Most families have lived in {s} for generations.",
        "{p} streets are narrow and steep.",
        "{s} was rebuilt after a great fire.",
        "A bus runs from {s} twice each day.",
        "{s} is governed by a council of nine members.",
        "The first settlers of {s} came from the south.",
        "{p} winters are long and {p} summers mild.",
        "{s} has changed little over the last hundred years.",
        "The people of {s} speak a dialect of their own.",
        "{p} name is said to come from an old word for shelter.",
        "Young people often leave {s} to look for work elsewhere.",
        "{s} is quiet except on holidays.",
        "A small newspaper about {s} is printed each week.",
    ),
    epithets=(("mineral", "the {x} town {name}"), ("sight", "the {x} town {name}")),
)
