"""What a model is asked for edit material: pairs of a passage, and the subject of a question.

Both follow GenPoE's appendix D in words of our own: sixteen pairs with short answers, and then the
words of each question that say what it is about.
"""

from __future__ import annotations

from qa.writing.prompts import Prompt

PAIRS_EXAMPLE = (
    "Q: Who designed Tollen Bridge?\nA: Ines Corvalho\nQ: When was Tollen Bridge opened?\nA: 1874"
)
PAIRS_PROMPT = Prompt(
    "Write sixteen questions about the paragraph below, each with its answer. Every question must "
    "make sense without the paragraph. Every answer must be a very short phrase of the paragraph, "
    "such as a name, a number or a date. Write one line for each question and one for each answer, "
    "like this:\n{example}\n\nParagraph: {passage}",
    max_new_tokens=640,
)

SUBJECT_PROMPT = Prompt(
    "Question: {question}\nWhich words of the question say what it is about?",
    (
        ({"question": "Who designed Tollen Bridge?"}, "Tollen Bridge"),
        ({"question": "In which year was Otto Hagen born?"}, "Otto Hagen"),
        ({"question": "Which prize did the novel The Hollow Lantern win?"}, "The Hollow Lantern"),
        ({"question": "What does the amber ground beetle feed on?"}, "amber ground beetle"),
        ({"question": "How many people lived in Marvick in 2004?"}, "Marvick"),
    ),
    max_new_tokens=16,
)
