"""PRAG: Parametric Retrieval Augmented Generation (Su et al. 2025), a baseline of DMoE (sec. 4.2).

Each passage is turned into a LoRA adapter on the FFNs of all layers. For a question, the adapters
of its passages are merged,

    W' = W + sum_i alpha / rank · B_i A_i,

and stay for the whole answer. If the passages also stand in the prompt (``rag=true``), the method
is what its authors call PRAG-Combine. DMoE's paper compares itself with that.

Deviation: every question-answer pair is trained in all formats, where the authors of PRAG train
some pairs closed-book.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from backbone.model import Backbone
from dmoe.baselines.prag.adapters import PassageAdapters
from dmoe.baselines.prag.layer_ffns import LayerFFNs
from dmoe.decoding.active import ActiveExperts
from dmoe.experts.expert import Expert, ExpertSpec, stack_experts
from dmoe.experts.recipe import Recipe
from plumbing.mounts import mounted
from qa.method import AnsweringMethod, Prediction, QuestionInput


class PRAGMethod(AnsweringMethod):
    """The backbone with the adapters of each question's passages, all with the same weight.

    Args:
        adapters: The passages' adapters, on the frozen backbone.
        rag: Whether the passages also stand in the prompt (PRAG-Combine).
        max_new_tokens: The most tokens that are decoded.
    """

    def __init__(
        self,
        adapters: PassageAdapters,
        rag: bool = False,
        max_new_tokens: int = 32,
    ) -> None:
        super().__init__(adapters.ffns.backbone, rag, max_new_tokens)
        self.adapters = adapters

    @contextmanager
    def injected(self, inputs: Sequence[QuestionInput]) -> Iterator[None]:
        """Attach the adapters of each row's passages; those that are missing are trained first."""
        passages = [input.selection.passages for input in inputs]
        adapters = self.adapters.load([passage for each in passages for passage in each])
        # A passage that is named twice adds its adapter once.
        ids = [dict.fromkeys(p.id for p in each if p.id in adapters) for each in passages]
        source = _Loaded(adapters, self.adapters.scaling)
        active = ActiveExperts(
            self.adapters.ffns, source, len(inputs), max(map(len, ids), default=0)
        )
        active.swap(range(len(inputs)), ids)
        with active.attached():
            yield

    def measure(self, predictions: Sequence[Prediction]) -> dict[str, float]:
        """Count the adapters that were trained or read so far, and the seconds of training.

        PRAG trains its adapters before any question comes, and here they are trained while
        questions are answered. To compare times, subtract ``training_seconds / n`` from
        ``seconds_per_question``. An evaluation that finds all adapters in the cache has no
        training seconds.

        Returns:
            ``adapters_trained``, ``adapters_read`` (from the cache), ``passages_without_adapter``
            and ``training_seconds``.
        """
        return {
            "adapters_trained": self.adapters.trained,
            "adapters_read": self.adapters.read,
            "passages_without_adapter": len(self.adapters.without),
            "training_seconds": self.adapters.seconds,
        }


@dataclass(frozen=True)
class _Loaded:
    """The adapters of one batch, as a `dmoe.decoding.active.ExpertSource`."""

    adapters: Mapping[str, Expert]
    scaling: float

    def __contains__(self, id: object) -> bool:
        return id in self.adapters

    def __iter__(self) -> Iterator[str]:
        return iter(self.adapters)

    def get(self, ids: Sequence[str]) -> dict[str, Tensor]:
        return stack_experts(self.adapters[id] for id in ids)


def load_prag(
    backbone: Backbone, rag: bool = False, max_new_tokens: int = 32, **adapters: Any
) -> PRAGMethod:
    """Make the method from plain settings.

    Args:
        backbone: The frozen model.
        rag: Whether the passages also stand in the prompt (PRAG-Combine).
        max_new_tokens: The most tokens that are decoded.
        **adapters: The further arguments of `open_adapters`.

    Raises:
        ValueError: If a setting is out of range, or the augmentations are malformed.
        UnsupportedBackboneError: If the projections of a layer's FFN are not known.
    """
    return PRAGMethod(open_adapters(backbone, **adapters), rag, max_new_tokens)


def open_adapters(
    backbone: Backbone,
    augmentation: str | Path,
    formats: Sequence[str],
    expert: Mapping[str, Any],
    recipe: Mapping[str, Any],
    cache_dir: str | Path,
    placement: float = 1.0,
) -> PassageAdapters:
    """Open the adapters of passages, from plain settings.

    Args:
        backbone: The frozen model.
        augmentation: The file that the adapters are trained on, as in `PassageAdapters`.
        formats: The formats of the instances, as in `PassageAdapters`.
        expert: The settings of an `ExpertSpec`.
        recipe: The settings of a `Recipe`.
        cache_dir: The folder of the adapters, as in `PassageAdapters`.
        placement: The share of the layers that have adapters, as in `LayerFFNs`.

    Raises:
        ValueError: If a setting is out of range, or the augmentations are malformed.
        UnsupportedBackboneError: If the projections of a layer's FFN are not known.
    """
    ffns = LayerFFNs(backbone, placement)
    with mounted("expert"):
        spec = ExpertSpec(**expert)
    with mounted("recipe"):
        how = Recipe(**recipe)
    return PassageAdapters(ffns, augmentation, formats, spec, how, cache_dir)
