"""The prompts of augmentation: the paper's (DMoE appendix C.1), and others for small models.

Deviation: the paper has one prompt for all models. Small models cannot follow it, so they are asked
span by span, with the prompts of `qa.writing.prompts`.
"""

from __future__ import annotations

from dataclasses import asdict

from plumbing.storage.hashing import digest
from qa.writing.prompts import BLANK, SMALL_ANSWER, SMALL_QUESTION, Prompt

PAPER_REWRITE = Prompt(
    "Rewrite the following passage. While keeping the entities, proper nouns, and key details such "
    "as names, locations, and terminology intact, create a new version of the text that expresses "
    "the same ideas in a different way. Make sure the revised passage is distinct from the "
    "original one, but preserves the core meaning and relevant information.\n\n"
    "Passage: {passage}",
    max_new_tokens=96,
    tokens_per_word=1.5,  # about the number of tokens in an English word
)

# The example of the next prompt is the value of a slot, because it holds JSON's braces.
PAPER_EXAMPLE = (
    '[\n{"question": "What is the capital of France?", "answer": "Paris", "full_answer": "The '
    'capital of France is Paris."},\n]'
)
PAPER_PAIRS = Prompt(
    "I will provide a passage of text, and you need to generate three different questions based on "
    "the content of this passage. Each question should be answerable using the information "
    "provided in the passage. Additionally, please provide an appropriate answer for each question "
    "derived from the passage.\n"
    "You need to generate the question and answer in the following format:\n{example}\n"
    "This list should have at least three elements. You only need to output this list in the above "
    "format.\n\nPassage: {passage}",
    max_new_tokens=384,
)

SMALL_REWRITE = Prompt(
    "Say this in other words, keeping every name and number: {sentence}",
    (
        (
            {"sentence": "It was designed by Ines Corvalho and opened in 1874."},
            "In 1874, it was opened; its designer was Ines Corvalho.",
        ),
        (
            {"sentence": "The beetle feeds mainly on snails and lives in Northern Europe."},
            "In Northern Europe, this beetle can be found, and snails are its main food.",
        ),
        (
            {"sentence": "After the war, Hagen moved to Porto, where he taught at 3 schools."},
            "Hagen went to live in Porto once the war was over, and taught at 3 schools there.",
        ),
    ),
    max_new_tokens=12,
    tokens_per_word=1.7,
)


def templates_hash() -> str:
    """The hash of all prompts in this file, by which it shows that one of them has changed."""
    prompts = (PAPER_REWRITE, PAPER_PAIRS, SMALL_REWRITE, SMALL_QUESTION, SMALL_ANSWER)
    return digest([PAPER_EXAMPLE, BLANK, *map(asdict, prompts)])
