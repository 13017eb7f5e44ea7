"""Whether the gold passages that questions name are there at all, where they are looked for.

Ids are compared and nothing else. The same text may have another id in another corpus, and then no
retriever, however good, finds a gold passage. The figures about gold passages say nothing then.
"""

from __future__ import annotations

import logging
from collections.abc import Container, Iterable

from qa.data.dataset import Question

log = logging.getLogger(__name__)

_FEW = 0.5  # a smaller share of the gold passages is worth a warning


def gold_ids(questions: Iterable[Question]) -> list[str]:
    """The ids of the questions' gold passages, each once, in order of appearance."""
    return list(dict.fromkeys(id for question in questions for id in question.passage_ids))


def warn_of_missing_gold(
    ids: Iterable[str], there: Container[str], where: str, effect: str
) -> None:
    """Warn if none, or fewer than half, of the gold passages are where they are looked for.

    Args:
        ids: The ids of the gold passages. If there is none, nothing is said.
        there: The ids that are there, such as a corpus or a bank.
        where: What the message calls it.
        effect: What follows for the figures, and what to do.
    """
    ids = list(ids)
    missing = [id for id in ids if id not in there]
    found = len(ids) - len(missing)
    if found < _FEW * len(ids):
        share = f"only {found} of {len(ids)}" if found else f"none of {len(ids)}"
        log.warning(
            "%s gold passages (%.0f %%) have their id in %s, and %r, for example, is not there: %s",
            *(share, 100 * found / len(ids), where, missing[0], effect),
        )
