"""Experts of several layers that are swapped while decoding, with a stale KV cache (DMoE Table 3).

This is the paper's experiment on placement (sec. 5.3.1). As in DMoE, the router is asked wherever
the trigger fires, and the experts that it finds act from that token on. If they stand below another
layer's attention, the keys and values of the tokens before were computed with other experts, or
with none. They stay in the cache as they are (eq. 7-9), and the paper finds that answers get worse.

At a trigger the last token is read again under the new experts, through all layers: its own keys
and values are replaced, and those before it are not. With experts on the final layer alone nothing
in the cache is stale, and the method is DMoE. `dmoe.baselines.placed` is its control, which routes
before the prompt is read and so never has a stale cache.

Shapes: B rows, D d_model, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from backbone.final_ffn import FinalFFN
from backbone.kv_cache import can_be_cut, make_cache
from backbone.model import Backbone, UnsupportedBackboneError
from backbone.tokens import encode_answer
from dmoe.baselines.placed import check_given, trainable, warn_of_missing_adapters
from dmoe.baselines.prag.adapters import PassageAdapters
from dmoe.baselines.prag.method import open_adapters
from dmoe.decoding.active import ActiveExperts
from dmoe.decoding.decoder import DMoEDecoder
from dmoe.decoding.router import Router
from dmoe.decoding.session import Session
from dmoe.decoding.trigger import Trigger
from dmoe.decoding.weighting import weights_for
from dmoe.experts.expert import stack_experts
from dmoe.method import DMoEMethod
from plumbing.batches import pad
from retrieval.passage import Passage


class StaleSession(Session):
    """A session whose experts change what the layers above them read, and whose cache stays."""

    def _redecode(self, logits_BV: Tensor, rows: list[int], position: int) -> None:
        """Read the last token again under the experts that act now, and with it its keys."""
        if rows:
            mask = self._prompt[1].new_ones(self._tokens.shape)
            mask[:, : self._prompt[1].shape[1]] = self._prompt[1]
            self.cache.crop(-1)  # the last token
            hidden_BD = self._read(self._tokens[:, -1:], mask)[:, 0]
            index = torch.tensor(rows, device=logits_BV.device)
            logits_BV[index] = self._logits(hidden_BD[index])

    @torch.inference_mode()
    def score(self, answers: Sequence[str]) -> list[float]:
        """Score given answers as `Session.score` does, but reading them token by token."""
        self._forget()
        self.cache = make_cache(self._backbone.model)  # the old one has keys of experts
        rows = [encode_answer(self._backbone.tokenizer, answer) for answer in answers]
        ids_BN, mask = self._prompt
        labels_BA, labelled_BA = pad(rows, 0, device=ids_BN.device)
        total_B = torch.zeros(len(rows), device=ids_BN.device)
        for t in range(labels_BA.shape[1]):
            running = [row for row, ids in enumerate(rows) if t < len(ids)]
            settled = self._settle(self._logits(self._read(ids_BN, mask)[:, 0]), running, 0)
            logits_BV = settled.logits_BV.float()
            nll_B = functional.cross_entropy(logits_BV, labels_BA[:, t], reduction="none")
            total_B += nll_B * labelled_BA[:, t]
            for row in running:
                self._new[row].append(rows[row][t])
            ids_BN = labels_BA[:, t : t + 1]
            mask = torch.cat([mask, mask.new_ones(len(rows), 1)], 1)
        return (total_B / labelled_BA.sum(1)).tolist()


class StaleDecoder(DMoEDecoder):
    """The decoder whose sessions are `StaleSession`.

    Raises:
        UnsupportedBackboneError: If the backbone's cache cannot be cut back by a token.
    """

    session = StaleSession

    def __init__(self, backbone: Backbone, routing: Any) -> None:
        super().__init__(backbone, routing)
        if not can_be_cut(make_cache(backbone.model)):
            raise UnsupportedBackboneError(
                f"{backbone.name}: its cache cannot be cut back by one token, as swapped experts "
                "need; use method=placed, or another backbone"
            )


class AdapterSource:
    """The adapters of passages as a source of experts; each is trained when it is first wanted.

    Args:
        adapters: The adapters.
        passages: The passages that have something to train on, by id.
    """

    def __init__(self, adapters: PassageAdapters, passages: Mapping[str, Passage]) -> None:
        self.adapters, self._passages = adapters, passages
        self.scaling = adapters.scaling

    def __contains__(self, id: object) -> bool:
        return id in self._passages

    def __iter__(self) -> Iterator[str]:
        return iter(self._passages)

    def get(self, ids: Sequence[str]) -> dict[str, Tensor]:
        """The adapters of some passages, stacked in their order; one that is missing is silent."""
        found = self.adapters.load([self._passages[id] for id in ids])
        silent = self.adapters.untrained() if len(found) < len(set(ids)) else {}
        return stack_experts(found.get(id, silent) for id in ids)


class AdapterKind:
    """PRAG's adapters as a kind of experts (`dmoe.kinds.ExpertKind`).

    Args:
        source: The adapters.
        recipe: The settings with which they are trained.
    """

    def __init__(self, source: AdapterSource, recipe: Mapping[str, Any]) -> None:
        self.source, self._recipe = source, recipe

    def acting(self, final: FinalFFN, source: AdapterSource, rows: int, k: int) -> ActiveExperts:
        """Make what acts in the rows of a batch, on all layers that have adapters."""
        return ActiveExperts(source.adapters.ffns, source, rows, k)

    def weights(self, weights: str | None, experts: int) -> str:
        """Choose by the recipe how the experts are weighted; see `weights_for`."""
        return weights_for(weights, self._recipe, experts)

    def check_passages(self, passages: Iterable[Passage]) -> None:
        """Warn if few of the gold passages have an adapter."""
        warn_of_missing_adapters(passages, self.source)

    def measure(self) -> dict[str, float]:
        """How many adapters were trained or read, and the seconds of training."""
        adapters = self.source.adapters
        return {
            "adapters_trained": adapters.trained,
            "adapters_read": adapters.read,
            "training_seconds": adapters.seconds,
        }


class SwappedMethod(DMoEMethod):
    """DMoE with experts on the FFNs of the final layers, and with what that leaves in the cache.

    Predictions have the same details as those of `DMoEMethod`.

    Args:
        backbone: The frozen model.
        source: The adapters.
        **settings: The further arguments of `DMoEMethod`.

    Raises:
        ValueError: If a setting is out of range.
        UnsupportedBackboneError: If the backbone's cache cannot be cut back by a token.
    """

    def __init__(self, backbone: Backbone, source: AdapterSource, **settings: Any) -> None:
        super().__init__(backbone, source, **settings)
        self.decoder = StaleDecoder(backbone, self.decoder.routing)


def load_swapped(
    backbone: Backbone,
    placement: float,
    router: Callable[[Collection[str]], Router],
    trigger: Trigger,
    passages: Mapping[str, Passage],
    augmentation: str | Path | None,
    formats: Sequence[str] | None,
    expert: Mapping[str, Any] | None,
    recipe: Mapping[str, Any] | None,
    cache_dir: str | Path,
    rag: bool = False,
    experts: int = 3,
    weights: str | None = None,
    **settings: Any,
) -> SwappedMethod:
    """Make the method from plain settings.

    Args:
        backbone: The frozen model.
        placement: Share of the layers that have experts, the final ones; 0: the final one alone.
        router: Makes the router, given the ids of the passages that have something to train on.
        trigger: Decides at which tokens the router is asked.
        passages: The corpus.
        augmentation: What the adapters are trained on; see `open_adapters`.
        formats: The formats of the instances; see `open_adapters`.
        expert: The settings of the adapters; see `open_adapters`.
        recipe: The settings of their training; see `open_adapters`.
        cache_dir: Where the adapters are kept; see `open_adapters`.
        rag: It must be false, because experts are compared without passages in the prompt.
        experts: How many experts act at a time.
        weights: "sum", "router", or None to let the recipe decide, as for `DMoEMethod`.
        **settings: Further arguments of `SwappedMethod`.

    Raises:
        ValueError: If a setting is out of range or missing, or the augmentations are malformed.
        UnsupportedBackboneError: If a layer's FFN has no linear maps that we know, or the cache
            cannot be cut back.
    """
    given = check_given("swapped", rag, augmentation, formats, expert, recipe)
    adapters = open_adapters(backbone, *given, cache_dir, placement)
    source = AdapterSource(adapters, trainable(given[0], given[1], passages))
    kind = AdapterKind(source, given[3])
    chosen = kind.weights(weights, experts)
    return SwappedMethod(
        backbone,
        source,
        router=router,
        trigger=trigger,
        experts=experts,
        weights=chosen,
        kind=kind,
        **settings,
    )
