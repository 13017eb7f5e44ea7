"""Experts on the FFNs of more layers than the final one (DMoE sec. 5.3.1 and Table 3).

If an expert lies below another layer's attention, the keys and values of the layers above it depend
on it (eq. 7-9). As soon as experts are swapped, the keys and values in the cache are stale. The
paper goes on decoding with the stale cache, and finds that answers get worse.

`dmoe.baselines.swapped` does the same. Beside it stands a control.

Deviation: here the router is asked once, for the question, before the prompt is read, and its
experts stay for the whole answer. Every key and value is computed with the experts that act, so the
cache is never stale. The cells of a table then differ only by the placement, and not by damage to
the cache. With experts on the final layer alone, this method is DMoE without its trigger.

The experts are PRAG's adapters, because a bank holds experts of the final FFN only. An adapter is
trained when a question first needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from backbone.model import Backbone
from dmoe.baselines.prag.adapters import PassageAdapters
from dmoe.baselines.prag.method import PRAGMethod, open_adapters
from dmoe.decoding.router import Router, RoutingRequest, last_tokens
from dmoe.metrics import gold_metrics
from dmoe.training.lessons import lessons_from_augmentation
from plumbing.mounts import SettingValueError, mounted
from qa.method import Prediction, QuestionInput
from qa.passages.gold_ids import warn_of_missing_gold
from qa.passages.source import Selection
from retrieval.passage import Passage


class PlacedMethod(PRAGMethod):
    """The backbone with the adapters of the passages that a router selects for the question.

    The details of each prediction are ``routed``, the ids of the selected passages, and
    ``routed_gold``, True if a gold passage is among them. It is null for a question without gold
    passages.

    Args:
        adapters: The passages' adapters, on the layers that have experts.
        router: Selects passages for the question.
        passages: The passages that the router may choose, by id.
        experts: How many experts a question gets.
        max_query_tokens: The query is at most this many of the question's last tokens.
        max_new_tokens: The most tokens that are decoded.

    Raises:
        ValueError: If a number is not positive.
    """

    def __init__(
        self,
        adapters: PassageAdapters,
        router: Router,
        passages: Mapping[str, Passage],
        experts: int = 3,
        max_query_tokens: int = 128,
        max_new_tokens: int = 32,
    ) -> None:
        super().__init__(adapters, max_new_tokens=max_new_tokens)
        for name, value in (("experts", experts), ("max_query_tokens", max_query_tokens)):
            if value < 1:
                raise SettingValueError(name, f"{name} must be positive, got {value}")
        self._router, self._passages = router, passages
        self._experts, self._max_query_tokens = experts, max_query_tokens
        self.uses_passages = router.uses_passages  # type: ignore[misc]

    def answer(self, inputs: Sequence[QuestionInput]) -> list[Prediction]:
        """Route each question once, and answer it under the experts that were chosen."""
        hits = self._router.route([self._request(input) for input in inputs], self._experts)
        ids = [[hit.passage_id for hit in each] for each in hits]
        chosen = [Selection.uniform([self._passages[id] for id in each]) for each in ids]
        routed = [
            replace(input, selection=selection)
            for input, selection in zip(inputs, chosen, strict=True)
        ]
        return [
            replace(prediction, details=_details(each, input))
            for prediction, each, input in zip(super().answer(routed), ids, inputs, strict=True)
        ]

    def check_passages(self, passages: Iterable[Passage]) -> None:
        """Warn if few of the gold passages are among those that the router may choose."""
        warn_of_missing_adapters(passages, self._passages)

    def measure(self, predictions: Sequence[Prediction]) -> dict[str, float]:
        """Add ``routed_gold``, in percent as for DMoE, to the metrics of `PRAGMethod.measure`."""
        found = gold_metrics([each.details for each in predictions])
        return super().measure(predictions) | found

    def _request(self, input: QuestionInput) -> RoutingRequest:
        question, tokenizer = input.question.question, self.backbone.tokenizer
        query = last_tokens(tokenizer, question, self._max_query_tokens)
        given = tuple(passage.id for passage in input.selection.passages)
        return RoutingRequest(query, given, tuple(input.question.passage_ids))


def load_placed(
    backbone: Backbone,
    placement: float,
    router: Callable[[Collection[str]], Router],
    passages: Mapping[str, Passage],
    augmentation: str | Path | None,
    formats: Sequence[str] | None,
    expert: Mapping[str, Any] | None,
    recipe: Mapping[str, Any] | None,
    cache_dir: str | Path,
    rag: bool = False,
    **settings: Any,
) -> PlacedMethod:
    """Make the method from plain settings.

    Args:
        backbone: The frozen model.
        placement: Share of the layers that have experts, the final ones; 0: the final one alone.
        router: Makes the router, given the ids of the passages that have something to train on.
        passages: The corpus.
        augmentation: What the adapters are trained on; see `open_adapters`.
        formats: The formats of the instances; see `open_adapters`.
        expert: The settings of the adapters; see `open_adapters`.
        recipe: The settings of their training; see `open_adapters`.
        cache_dir: Where the adapters are kept; see `open_adapters`.
        rag: It must be false, because experts are compared without passages in the prompt.
        **settings: Further arguments of `PlacedMethod`.

    Raises:
        ValueError: If a setting is out of range or missing, or the augmentations are malformed.
        UnsupportedBackboneError: If a layer's FFN has no linear maps that we know.
    """
    given = check_given("placed", rag, augmentation, formats, expert, recipe)
    adapters = open_adapters(backbone, *given, cache_dir, placement)
    with mounted("router"):
        chosen = router(trainable(given[0], given[1], passages))
    return PlacedMethod(adapters, chosen, passages, **settings)


def check_given(
    method: str,
    rag: bool,
    augmentation: str | Path | None,
    formats: Sequence[str] | None,
    expert: Mapping[str, Any] | None,
    recipe: Mapping[str, Any] | None,
) -> tuple[str | Path, Sequence[str], Mapping[str, Any], Mapping[str, Any]]:
    """Check that the settings of a placement are there, and that the prompt has no passages.

    Args:
        method: The name of the method in messages.
        rag: Whether passages stand in the prompt.
        augmentation: What the adapters are trained on.
        formats: The formats of the instances.
        expert: The settings of the adapters.
        recipe: The settings of their training.

    Returns:
        The last four.

    Raises:
        ValueError: If there are passages in the prompt, or one of the last four is missing.
    """
    if rag:
        raise ValueError(
            f"method={method} has no passages in the prompt, got rag=true; use method=prag for "
            "adapters and passages together"
        )
    if augmentation is None or formats is None or expert is None or recipe is None:
        raise ValueError(
            f"method={method} needs the settings instances, expert and recipe, which this command "
            "does not have; run python scripts/ablation.py ablation=placement"
        )
    return augmentation, formats, expert, recipe


def warn_of_missing_adapters(gold: Iterable[Passage], there: Container[str]) -> None:
    """Warn if few of the gold passages are among those that the router may choose.

    Args:
        gold: The gold passages.
        there: The ids of the passages that have something to train on.
    """
    warn_of_missing_gold(
        (passage.id for passage in gold),
        there,
        "the corpus",
        "routing can hardly find a right passage; give the corpus whose ids the data set's "
        "passage_ids name",
    )


def trainable(
    augmentation: str | Path, formats: Sequence[str], passages: Mapping[str, Passage]
) -> dict[str, Passage]:
    """The passages that have something to train on, by id, in the order of the augmentations.

    Raises:
        DataError: If the augmentations are malformed, or name a passage that is not there.
    """
    lessons = lessons_from_augmentation(augmentation, passages)
    return {each.passage.id: each.passage for each in lessons if each.instances(formats)}


def _details(routed: Sequence[str], input: QuestionInput) -> dict[str, Any]:
    gold = set(input.question.passage_ids)
    return {"routed": list(routed), "routed_gold": bool(gold & set(routed)) if gold else None}
