"""How often the router was asked, and how often it found the right expert (DMoE sec. 4.3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def routing_metrics(details: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Measure how often routing took place in an evaluation.

    Args:
        details: The details of the evaluation's predictions.

    Returns:
        The metrics of `trigger_metrics` and `gold_metrics`, in percent.
    """
    return trigger_metrics(details) | gold_metrics(details)


def gold_metrics(details: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Measure how often routing found a gold passage.

    Args:
        details: The details of the evaluation's predictions.

    Returns:
        ``routed_gold``, in percent: among the questions that have gold passages, the share for
        which one of these was routed to. Empty if no question has gold passages.
    """
    gold = [row["routed_gold"] for row in details if row["routed_gold"] is not None]
    return {"routed_gold": 100 * sum(gold) / len(gold)} if gold else {}


def trigger_metrics(details: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Measure how often decoding triggered a search for passages.

    Args:
        details: The details of the evaluation's predictions.

    Returns:
        Two shares in percent: ``trigger_rate``, the triggers among all decoded tokens, and
        ``triggered_questions``, the questions with at least one trigger. Empty if there are no
        predictions.
    """
    if not details:
        return {}
    tokens, triggers = (sum(row[key] for row in details) for key in ("tokens", "triggers"))
    return {
        "trigger_rate": 100 * triggers / tokens,
        "triggered_questions": 100 * sum(row["triggers"] > 0 for row in details) / len(details),
    }
