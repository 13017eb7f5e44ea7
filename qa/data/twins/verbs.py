"""What people in the data set "roles" do to each other, and how it is said and asked."""

from __future__ import annotations

from typing import NamedTuple


class Verb(NamedTuple):
    """The forms of a verb, such as teach, taught, taught."""

    base: str
    past: str
    done: str


def _verbs(text: str) -> tuple[Verb, ...]:
    return tuple(Verb(*line.split()) for line in text.strip().splitlines())


# No verb is symmetric, and each can be done by one person to another.
TRAIN_VERBS = _verbs(
    """
    hire hired hired
    rescue rescued rescued
    paint painted painted
    sue sued sued
    defeat defeated defeated
    interview interviewed interviewed
    follow followed followed
    replace replaced replaced
    train trained trained
    examine examined examined
    photograph photographed photographed
    accuse accused accused
    guide guided guided
    praise praised praised
    visit visited visited
    invite invited invited
    rob robbed robbed
    arrest arrested arrested
    raise raised raised
    forgive forgave forgiven
    choose chose chosen
    find found found
    beat beat beaten
    hide hid hidden
    """
)
UNSEEN_VERBS = _verbs(
    """
    teach taught taught
    betray betrayed betrayed
    nurse nursed nursed
    blame blamed blamed
    adopt adopted adopted
    cheat cheated cheated
    trust trusted trusted
    bite bit bitten
    insult insulted insulted
    thank thanked thanked
    """
)

# {s} is who does it, {o} is whom it is done to.
FORMS = (
    "{s} {past} {o}.",
    "In the spring {s} {past} {o}.",
    "{s}, a quiet neighbour from the hills, {past} {o}.",
    "It was {s} who {past} {o}.",
    "It was {o} whom {s} {past}.",
    "By then {s} had already {done} {o}.",
    "{o} was {done} by {s}.",
    "{o} had often been {done} by {s}.",
    "After a long summer {o} was at last {done} by {s}.",
    "{o}, who lived by the river, was {done} by {s}.",
    "It was by {s} that {o} was {done}.",
    "The person by whom {o} was {done} is {s}.",
)
AGENT_QUESTIONS = (
    "Who {past} {name}?",
    "By whom was {name} {done}?",
    "Which person {past} {name}?",
    "Who was it that {past} {name}?",
)
PATIENT_QUESTIONS = (
    "Whom did {name} {base}?",
    "Who was {done} by {name}?",
    "Which person did {name} {base}?",
    "Who was it that {name} {past}?",
)
# The first sentence, since tokenizers cut a name at the beginning of a text in another way.
LEADS = (
    "This is what is known.",
    "It is an old story.",
    "So it has been handed down.",
    "There is no doubt about the following.",
)
FILLERS = (
    "{a}, {b} and {c} lived in the same street.",
    "The letters of {a}, {b} and {c} have been kept.",
    "All of this happened long ago.",
    "The weather was mild that year.",
    "Nobody in the village spoke of it afterwards.",
    "The market was held every week.",
)
