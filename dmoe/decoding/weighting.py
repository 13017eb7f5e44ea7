"""How much each active expert counts: all the same (DMoE eq. 6), or by the router's scores."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

from dmoe.experts.recipe import Recipe
from plumbing.mounts import SettingValueError
from plumbing.settings import check_choice
from retrieval.retriever import Hit

log = logging.getLogger(__name__)

WEIGHTS = ("sum", "router")


def softmax_weights(hits: Sequence[Hit], temperature: float) -> list[float]:
    """Compute ``softmax(score / temperature)`` over the experts that act.

    Deviation: eq. 6 sums the experts, each with weight 1. Experts that know their passage push
    towards different answers, and their sum destroys the right one.

    Args:
        hits: The experts with the router's scores.
        temperature: In units of the scores. The smaller it is, the more the best expert counts.

    Returns:
        Weights that sum to 1, in the order of the hits.
    """
    if not hits:
        return []
    best = max(hit.score for hit in hits)
    exponentials = [math.exp((hit.score - best) / temperature) for hit in hits]
    return [value / sum(exponentials) for value in exponentials]


def check_temperature(temperature: Any) -> None:
    """Check the temperature of `softmax_weights`.

    Raises:
        SettingValueError: If it is no finite, positive number.
    """
    is_number = isinstance(temperature, int | float) and not isinstance(temperature, bool)
    if not (is_number and math.isfinite(temperature) and temperature > 0):
        raise SettingValueError(
            "temperature", f"temperature must be a finite, positive number, got {temperature!r}"
        )


def weights_for(weights: str | None, recipe: Mapping[str, Any], experts: int) -> str:
    """Choose how the experts of a bank are weighted, and warn where that is known to fail.

    Args:
        weights: "sum", "router", or None to choose by the recipe: "sum", as the paper does, for
            experts that were trained no longer and no faster than the paper's, and "router" for
            all others.
        recipe: How the experts were trained, as the bank has it. A bank without a recipe is taken
            to have the paper's.
        experts: How many experts act at a time.

    Returns:
        "sum" or "router".

    Raises:
        SettingValueError: If ``weights`` is none of these.
    """
    paper = Recipe()
    lr, epochs = recipe.get("lr", paper.lr), recipe.get("epochs", paper.epochs)
    is_stronger = lr * epochs > paper.lr * paper.epochs
    if weights is None:
        return "router" if is_stronger else "sum"
    check_choice("weights", weights, WEIGHTS)
    if weights == "sum" and is_stronger and experts > 1:
        log.warning(
            "weights=sum with %d experts is known to fail: trained more strongly than the paper's "
            "(lr=%g, epochs=%s), each pushes towards its own answer; use weights=router, or k=1",
            *(experts, lr, epochs),
        )
    return weights
