"""How often the router was asked, and how often it found the right expert (DMoE sec. 4.3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def routing_metrics(details: Sequence[dict[str, Any]]) -> dict[str, float]:
    """How often routing took place, over the details of an evaluation's predictions.

    Returns:
        In percent: those of `trigger_metrics`, and ``routed_gold``, of the questions with gold
        passages those that one of them was routed for (left out where no question has any).
    """
    return trigger_metrics(details) | gold_metrics(details)


def gold_metrics(details: Sequence[dict[str, Any]]) -> dict[str, float]:
    """``routed_gold`` of `routing_metrics`, in percent; nothing where no question has gold ones."""
    gold = [row["routed_gold"] for row in details if row["routed_gold"] is not None]
    return {"routed_gold": 100 * sum(gold) / len(gold)} if gold else {}


def trigger_metrics(details: Sequence[dict[str, Any]]) -> dict[str, float]:
    """How often something triggered, over the details of an evaluation's predictions.

    Returns:
        In percent: ``trigger_rate``, triggers of all decoded tokens; ``triggered_questions``, those
        with a trigger at least. Nothing without predictions.
    """
    if not details:
        return {}
    tokens, triggers = (sum(row[key] for row in details) for key in ("tokens", "triggers"))
    return {
        "trigger_rate": 100 * triggers / tokens,
        "triggered_questions": 100 * sum(row["triggers"] > 0 for row in details) / len(details),
    }
