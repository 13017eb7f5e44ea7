"""Generated experts as one of the kinds of experts that DMoE's decoder routes to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from backbone.final_ffn import FinalFFN
from backbone.model import Backbone
from genpoe.codes import CodeBank
from genpoe.model import GenPoE
from genpoe.routed.acting import Codes, RoutedExperts
from genpoe.routed.on_demand import CodesOnDemand
from plumbing.mounts import SettingValueError
from plumbing.settings import typed
from qa.passages.gold_ids import warn_of_missing_gold
from retrieval.passage import Passage


class GeneratedKind:
    """Experts that a hypernetwork generates from passages.

    Args:
        genpoe: The hypernetwork, whose experts stand beside the final FFN.
        source: The codes of the passages, by their ids.

    Raises:
        BankError: If a bank of codes belongs to another hypernetwork or backbone, or is empty.
        SettingValueError: If the experts stand elsewhere than beside the final FFN.
    """

    def __init__(self, genpoe: GenPoE, source: CodesOnDemand | CodeBank) -> None:
        layer, last = genpoe.expert_layer.layer, genpoe.backbone.num_layers - 1
        if layer != last:
            raise SettingValueError(
                "ckpt_path",
                f"experts can come and go while decoding only beside the last layer's FFN ({last}),"
                f" got a hypernetwork for layer {layer}",
                f"set {{}} to one that was trained with hypernet.layer={last}, or use "
                "method=genpoe",
            )
        if isinstance(source, CodeBank):
            source.check_hypernet(genpoe.backbone, genpoe.hypernet, genpoe.max_passage_tokens)
            source.check_filled()
        self.genpoe = genpoe
        self.source = source

    @classmethod
    @typed
    def open(
        cls,
        backbone: Backbone,
        ckpt_path: str | None = None,
        bank_dir: str | Path | None = None,
        passages: Callable[[], Mapping[str, Passage]] | None = None,
        keep: int = 4096,
    ) -> GeneratedKind:
        """Load a hypernetwork, and open the codes of passages or the passages themselves.

        Args:
            backbone: The frozen model with which the hypernetwork was trained.
            ckpt_path: A checkpoint of ``scripts/train_hypernet.py``.
            bank_dir: A bank of codes that ``scripts/encode_passages.py`` wrote. None: passages are
                read when they are needed.
            passages: Opens the passages; it is not called if there is a bank.
            keep: The most passages whose codes stay in memory, if there is no bank.

        Raises:
            BackboneMismatchError: If the checkpoint belongs to another backbone.
            BankError: If the bank is missing, damaged or empty, or does not belong to the
                hypernetwork.
            CheckpointError: If the file is missing, is damaged or is no GenPoE checkpoint.
            SettingValueError: If no checkpoint or no passages are named, or if the experts stand
                elsewhere than beside the final FFN.
        """
        if not ckpt_path:
            raise SettingValueError(
                "ckpt_path",
                f"experts=generated needs a trained hypernetwork, got ckpt_path={ckpt_path!r}",
                "set {} to a checkpoint of scripts/train_hypernet.py",
            )
        genpoe = GenPoE.from_checkpoint(ckpt_path, backbone)
        if bank_dir is not None:
            return cls(genpoe, CodeBank.open(bank_dir, read_only=True))
        if passages is None:
            raise SettingValueError(
                "passages",
                "experts=generated needs passages or a bank of their codes, got neither",
                "set {} or bank_dir",
            )
        return cls(genpoe, CodesOnDemand(genpoe, passages(), keep))

    def acting(self, final: FinalFFN, codes: Codes, rows: int, k: int) -> RoutedExperts:
        """Make what acts in the rows of a batch; see `RoutedExperts`."""
        return RoutedExperts(final, self.genpoe.hypernet, codes, rows, k)

    def weights(self, weights: str | None, experts: int) -> str:
        """Choose how the experts are weighted: by default "router", by the router's scores.

        With "sum" they are equally relevant.
        """
        return "router" if weights is None else weights

    def check_passages(self, passages: Iterable[Passage]) -> None:
        """Warn if few of the passages are there.

        Raises:
            BankError: If a code was made of another text than its passage has.
        """
        passages, source = list(passages), self.source
        if isinstance(source, CodeBank):
            source.check_passages(passages)
        where = f"the bank {source.path}" if isinstance(source, CodeBank) else source.where
        warn_of_missing_gold(
            (passage.id for passage in passages),
            source,
            where,
            "routing can hardly find a right passage; give the corpus (or the bank of the corpus) "
            "that has the questions' passages",
        )

    def measure(self) -> dict[str, float]:
        """How many passages were read so far, and the mean seconds that it took to read one.

        With a bank, none is read and nothing is measured.
        """
        if isinstance(self.source, CodeBank):
            return {}
        read = self.source.read
        return {
            "passages_read": read,
            "seconds_per_passage": self.source.seconds / read if read else 0.0,
        }
