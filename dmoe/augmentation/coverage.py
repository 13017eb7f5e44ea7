"""Whether an augmentation asks for what is asked later: the coverage of a split's questions.

An expert can only say what it was taught. If the right answer of a question is the answer of none
of its passage's pairs, a wrong answer says nothing about how experts are trained or chosen.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from dmoe.training.lessons import Lesson
from qa.data.dataset import Question
from qa.metrics import exact_match
from retrieval.answers import holds_answer

COVERED, UNCOVERED, ELSEWHERE = "covered", "not covered", "not in the passage"


def coverage(questions: Iterable[Question], lessons: Mapping[str, Lesson]) -> dict[str, str]:
    """Say of each question if the pairs of a gold passage have its answer.

    Args:
        questions: The questions. Those whose gold passages have no lesson are left out.
        lessons: The augmented passages, by id.

    Returns:
        By the id of the question: `COVERED` if a pair of a gold passage has one of its answers,
        compared as EM compares; else `UNCOVERED` if the text of a gold passage holds one; else
        `ELSEWHERE`, such as the answer "yes".
    """
    found: dict[str, str] = {}
    for question in questions:
        gold = [lessons[id] for id in question.passage_ids if id in lessons]
        answers = list(question.answers)
        if any(exact_match(answer, answers) for lesson in gold for _, answer in lesson.pairs):
            found[question.id] = COVERED
        elif any(holds_answer(lesson.passage.text, answers) for lesson in gold):
            found[question.id] = UNCOVERED
        elif gold:
            found[question.id] = ELSEWHERE
    return found


def coverage_metrics(groups: Mapping[str, str]) -> dict[str, float]:
    """Summarize what `coverage` has found.

    Returns:
        ``questions``, their number; and in percent of them ``covered`` and ``answer_in_gold``, the
        most that any augmentation could cover.
    """
    count, each = len(groups), list(groups.values())
    if not count:
        return {"questions": 0}
    return {
        "questions": count,
        "covered": 100 * each.count(COVERED) / count,
        "answer_in_gold": 100 * (count - each.count(ELSEWHERE)) / count,
    }
