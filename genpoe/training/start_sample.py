"""What a hypernetwork may look at before its training begins.

Shapes: M positions, D d_model.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from backbone.likelihood import IGNORE
from genpoe.experts import GeneratedExperts, Looks, Mixed, Site
from genpoe.hypernet.hypernet import PassageTokens

_PASSAGES_TO_START = 16384  # passages that a hypernetwork may look at
_QUESTIONS_TO_START = 512  # questions at whose answers it may look at the FFN


class TrainingSample:
    """The `genpoe.hypernet.hypernet.StartSample` of a training.

    Args:
        module: The `genpoe.training.module.GenPoEModule` whose training begins.
        datamodule: Its data.
    """

    def __init__(self, module: Any, datamodule: Any) -> None:
        self._module = module
        self._datamodule = datamodule

    def passages(self) -> Iterator[PassageTokens]:
        """Batches of a sample of the training passages."""
        device = self._module.device
        for ids, mask in self._datamodule.passage_batches(_PASSAGES_TO_START):
            yield PassageTokens(ids.to(device), mask.to(device))

    def ffn(self) -> tuple[Tensor, Tensor]:
        """Inputs and outputs of the layer's FFN where answers are predicted, of a sample."""
        inputs, outputs = zip(
            *((site.hidden_NTD[at], site.output_NTD[at]) for site, at in self._sites(None)),
            strict=True,
        )
        return torch.cat(inputs), torch.cat(outputs)

    def seen(self, looks: Looks) -> list[Tensor]:
        """What experts would see there: the FFN's input, and the earlier states."""
        seen = [
            [states[at] for states in (site.hidden_NTD, *site.around.earlier)]  # type: ignore[union-attr]
            for site, at in self._sites(looks)
        ]
        return [torch.cat(parts) for parts in zip(*seen, strict=True)]

    @torch.no_grad()
    def _sites(self, looks: Looks | None) -> Iterator[tuple[Site, Tensor]]:
        """What is known at the FFN for some questions, and where their answers are predicted."""
        module = self._module
        for batch in self._datamodule.question_batches(_QUESTIONS_TO_START):
            batch = module.transfer_batch_to_device(batch, module.device, 0)
            spy, known = _Spy(looks), module.at_answers(batch)
            around = known.around if known is not None and looks is not None else None
            with module.expert_layer.injected(spy, torch.empty(0), around=around):
                module.answer_logits(batch, known)
            yield spy.sites[-1], module.targets(batch, known) != IGNORE


@dataclass(frozen=True)
class _Spy(GeneratedExperts):
    """Experts that add nothing, and keep what they see."""

    wanted: Looks | None
    sites: list[Site] = field(default_factory=list)

    @property
    def looks(self) -> Looks | None:
        return self.wanted

    def mix(self, site: Site, relevance_BK: Tensor, rows_N: Tensor | None = None) -> Mixed:
        self.sites.append(site)
        return Mixed(torch.zeros_like(site.output_NTD))
