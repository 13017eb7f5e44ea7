"""Generated experts as one of the kinds of experts that DMoE's decoder routes to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from backbone.final_ffn import FinalFFN
from backbone.model import Backbone
from genpoe.model import GenPoE
from genpoe.routed.acting import Codes, RoutedExperts
from genpoe.routed.on_demand import CodesOnDemand
from plumbing.mounts import SettingValueError
from plumbing.settings import typed
from qa.passages.gold_ids import warn_of_missing_gold
from retrieval.passage import Passage


class GeneratedKind:
    """Experts that a hypernetwork generates from the passages of a corpus.

    Args:
        genpoe: The hypernetwork, whose experts stand beside the final FFN.
        source: The codes of the passages, by their ids.
        where: What messages call the passages, such as the file of the corpus.

    Raises:
        SettingValueError: If the experts stand elsewhere than beside the final FFN.
    """

    def __init__(self, genpoe: GenPoE, source: CodesOnDemand, where: str = "the corpus") -> None:
        layer, last = genpoe.expert_layer.layer, genpoe.backbone.num_layers - 1
        if layer != last:
            raise SettingValueError(
                "ckpt_path",
                f"experts can come and go while decoding only beside the last layer's FFN ({last}),"
                f" got a hypernetwork for layer {layer}",
                f"set {{}} to one that was trained with hypernet.layer={last}, or use "
                "method=genpoe",
            )
        self.genpoe = genpoe
        self.source = source
        self._where = where

    @classmethod
    @typed
    def open(
        cls,
        backbone: Backbone,
        ckpt_path: str | None = None,
        bank_dir: str | Path | None = None,
        corpus: Mapping[str, Passage] | None = None,
        keep: int = 4096,
    ) -> GeneratedKind:
        """Load a hypernetwork that reads the passages of a corpus when they are needed.

        Args:
            backbone: The frozen model with which the hypernetwork was trained.
            ckpt_path: A checkpoint of ``scripts/train_hypernet.py``.
            bank_dir: None, because no bank is needed.
            corpus: The passages.
            keep: The most passages whose codes stay in memory.

        Raises:
            BackboneMismatchError: If the checkpoint belongs to another backbone.
            CheckpointError: If the file is missing, is damaged or is no GenPoE checkpoint.
            SettingValueError: If the checkpoint or the corpus is not named, or if the experts stand
                elsewhere than beside the final FFN.
        """
        if not ckpt_path:
            raise SettingValueError(
                "ckpt_path",
                f"experts=generated needs a trained hypernetwork, got ckpt_path={ckpt_path!r}",
                "set {} to a checkpoint of scripts/train_hypernet.py",
            )
        if bank_dir is not None:
            raise SettingValueError(
                "bank_dir",
                f"experts=generated reads the passages of a corpus, got a bank ({bank_dir})",
                "leave {} out",
            )
        if corpus is None:
            raise SettingValueError(
                "corpus", "experts=generated needs the passages that are read, got none"
            )
        genpoe = GenPoE.from_checkpoint(ckpt_path, backbone)
        source = CodesOnDemand(genpoe, corpus, keep)
        return cls(genpoe, source, str(getattr(corpus, "path", "the corpus")))

    def acting(self, final: FinalFFN, codes: Codes, rows: int, k: int) -> RoutedExperts:
        """Make what acts in the rows of a batch; see `RoutedExperts`."""
        return RoutedExperts(final, self.genpoe.hypernet, codes, rows, k)

    def weights(self, weights: str | None, experts: int) -> str:
        """Choose how the experts are weighted: by default "router", by the router's scores.

        With "sum" they are equally relevant.
        """
        return "router" if weights is None else weights

    def check_passages(self, passages: Iterable[Passage]) -> None:
        """Warn if few of the passages are in the corpus."""
        warn_of_missing_gold(
            (passage.id for passage in passages),
            self.source,
            self._where,
            "routing can hardly find a right passage; give the corpus that has the questions' "
            "passages",
        )

    def measure(self) -> dict[str, float]:
        """How many passages were read so far, and the mean seconds that it took to read one."""
        read = self.source.read
        return {
            "passages_read": read,
            "seconds_per_passage": self.source.seconds / read if read else 0.0,
        }
