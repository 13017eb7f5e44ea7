"""How novels, plays and films are described and asked about."""

from __future__ import annotations

from qa.data.bios.schema import Attribute, Kind
from qa.data.bios.short import work_pools as pools

WORK = Kind(
    name="work",
    full="{name}",
    shorts=("the novel", "the play", "the film"),
    pronouns=(("it", "its"),),
    attributes=(
        Attribute(
            "author",
            pools.AUTHORS,
            unseen=pools.UNSEEN_AUTHORS,
            sentences=(
                "{s} was written by {x}.",
                "The author of {s} is {x}.",
                "{s} is the best known work by {x}.",
                "{s} first brought {p} author {x} to wide notice.",
                "{s} comes from the pen of {x}.",
            ),
            questions=(
                "Who wrote {name}?",
                "Who is the author of {name}?",
                "Who was {name} written by?",
                "Which author wrote {name}?",
                "What is the name of {name}'s author?",
            ),
            rephrasings=("Which writer created {name}?", "Whose work is {name}?"),
        ),
        Attribute(
            "hero",
            pools.HEROES,
            unseen=pools.UNSEEN_HEROES,
            sentences=(
                "The main character of {s} is called {x}.",
                "{p} central figure bears the name {x}.",
                "At the centre of {s} is a man called {x}.",
                "{s} follows the life of a man named {x}.",
                "{p} main character, {x}, tells the story himself.",
            ),
            questions=(
                "Who is the main character of {name}?",
                "What is the main character of {name} called?",
                "Who is the hero of {name}?",
                "What is the name of {name}'s hero?",
                "Who does {name} follow?",
            ),
            rephrasings=(
                "Whose life does {name} tell?",
                "What name does the protagonist of {name} bear?",
            ),
        ),
        Attribute(
            "villain",
            pools.VILLAINS,
            unseen=pools.UNSEEN_VILLAINS,
            sentences=(
                "{p} villain is {a} {x}.",
                "The villain of {s} turns out to be {a} {x}.",
                "In {s} the evil deeds are done by {a} {x}.",
                "The enemy in {s} is {a} {x}.",
                "The worst crimes in {s} are those of {a} {x}.",
            ),
            questions=(
                "Who is the villain of {name}?",
                "What is the villain of {name}?",
                "Who is the enemy in {name}?",
                "What kind of villain does {name} have?",
                "Which villain appears in {name}?",
            ),
            rephrasings=(
                "Who does the evil deeds in {name}?",
                "What is the antagonist of {name}?",
            ),
        ),
        Attribute(
            "theme",
            pools.THEMES,
            unseen=pools.UNSEEN_THEMES,
            sentences=(
                "{s} is about {x}.",
                "{p} main theme is {x}.",
                "{s} explores the theme of {x}.",
                "{s} deals above all with {x}.",
                "Many readers see {s} as a study of {x}.",
            ),
            questions=(
                "What is {name} about?",
                "What is the theme of {name}?",
                "What theme does {name} explore?",
                "Which theme does {name} deal with?",
                "What is {name}'s main theme?",
            ),
            rephrasings=(
                "What idea is at the heart of {name}?",
                "With what topic is {name} concerned?",
            ),
        ),
        Attribute(
            "setting",
            pools.SETTINGS,
            unseen=pools.UNSEEN_SETTINGS,
            sentences=(
                "{s} is set in {a} {x}.",
                "{p} story takes place in {a} {x}.",
                "The action of {s} unfolds in {a} {x}.",
                "Most scenes of {s} happen in {a} {x}.",
                "{s} opens and ends in {a} {x}.",
            ),
            questions=(
                "Where is {name} set?",
                "What is the setting of {name}?",
                "Where does {name} take place?",
                "Where does the story of {name} happen?",
                "In what place is {name} set?",
            ),
            rephrasings=(
                "What location does {name} unfold in?",
                "What surroundings does {name} show?",
            ),
        ),
        Attribute(
            "verdict",
            pools.VERDICTS,
            unseen=pools.UNSEEN_VERDICTS,
            sentences=(
                "Critics called {s} {x}.",
                "The first reviews described {s} as {x}.",
                "Most reviewers found {s} {x}.",
                "{s} was widely judged to be {x}.",
                "The press thought {s} rather {x}.",
            ),
            questions=(
                "How did critics describe {name}?",
                "What did critics call {name}?",
                "How did reviewers find {name}?",
                "How was {name} judged?",
                "What did the press call {name}?",
            ),
            rephrasings=(
                "Which adjective did reviews use for {name}?",
                "How was {name} received?",
            ),
        ),
    ),
    fillers=(
        "{s} has been translated into several languages.",
        "The first version of {s} was much longer.",
        "{s} took four years to finish.",
        "{s} was banned for a short while and then released again.",
        "A sequel to {s} was planned but never finished.",
        "{p} ending was changed twice.",
        "{s} reached few people at first.",
        "Today {s} is taught in many courses.",
        "{s} has three parts of almost equal length.",
        "The manuscript of {s} is lost.",
        "{s} was later adapted for the radio.",
        "{p} title comes from an old song.",
        "Some lines of {s} were added by another hand.",
        "Two later editions of {s} differ in details.",
    ),
    epithets=(("villain", "the {x} story {name}"), ("setting", "the {x} story {name}")),
)
