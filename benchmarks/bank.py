"""From disk to active, beside PEFT's adapters: ``scripts/benchmark.py suite=bank``.

Our way reads k experts from a bank, checks them, and writes them into the final FFN's buffers. The
peer loads k adapter folders and adds them up (``add_weighted_adapter``, ``cat``). Both compute the
same sum.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor

from backbone.final_ffn import FinalFFN
from backbone.model import Backbone
from dmoe.bank import Bank, BankSpec, ExpertLayout
from dmoe.commands.build_experts import check_dtype
from dmoe.decoding.active import ActiveExperts
from dmoe.experts.expert import ExpertSpec, expert_at
from dmoe.experts.peft import export_adapter
from plumbing.quiet import without_warning_of_old_name
from plumbing.stopwatch import Stopwatch
from qa.tables.tables import markdown_table
from retrieval.passage import Passage

_TOLERANCE = 1e-4  # largest difference of the logits, relative to their largest value
_AT_A_TIME = 500  # experts that are added to a bank at a time
_SUM = "sum"  # the name in PEFT of the k adapters together
_REST = "rest"  # the name of the adapter that is active between two measurements
_OPENINGS = 7  # times that a bank is opened; the median counts
_BLOCKS = 5  # blocks of draws, between blocks of the peer's draws


class PeftFolders:
    """The peer: experts as PEFT adapter folders, loaded one by one and added up.

    Args:
        backbone: The model that gets PEFT's layers; it cannot be used for anything else afterwards.
        folders: The folder of each adapter, by passage id.
    """

    def __init__(self, backbone: Backbone, folders: dict[str, Path]) -> None:
        from peft import PeftModel

        self._folders = folders
        first, *_ = folders.values()
        with without_warning_of_old_name():
            self.model = PeftModel.from_pretrained(backbone.model, first, adapter_name=_REST)
        self._loaded: list[str] = []

    def load(self, ids: Sequence[str]) -> None:
        """Bring the adapters of some passages from disk into the model."""
        names = [f"expert{index}" for index in range(len(ids))]
        for name, id in zip(names, ids, strict=True):
            self.model.load_adapter(self._folders[id], adapter_name=name)
        self.model.add_weighted_adapter(names, [1.0] * len(ids), _SUM, combination_type="cat")
        self.model.set_adapter(_SUM)
        self._loaded = [*names, _SUM]

    def unload(self) -> None:
        """Delete the loaded adapters. This is not measured."""
        self.model.set_adapter(_REST)
        for name in self._loaded:
            self.model.delete_adapter(name)
        self._loaded = []


def bank_suite(config: DictConfig) -> tuple[dict[str, Any], list[str]]:
    """Measure milliseconds from disk to active, for several banks and PEFT, and bytes per expert.

    Raises:
        ValueError: If our way and the peer do not compute the same, or if a setting is out of
            range.
    """
    settings, source = config.bank, config.backbone
    _check(settings)
    final = FinalFFN(instantiate(source, dtype="float32"))
    spec = ExpertSpec()
    output = Path(config.paths.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="banks-", dir=output) as folder:
        banks = {
            size: fill_bank(Path(folder, str(size)), final, spec, made_up(size), settings.dtype)
            for size in settings.sizes
        }
        small = next(iter(banks.values()))
        folders = export_folders(Path(folder, "peft"), small, final, spec, settings.folders)
        peer = PeftFolders(instantiate(source, dtype="float32"), folders)
        difference = check_equal_experts(final, small, peer, list(folders)[: settings.k])
        result: dict[str, Any] = {"difference": difference, "milliseconds": {}}
        times = measure(final, banks, peer, list(folders), settings.k, settings.draws)
        for name, values in times.items():
            p50, p99 = np.percentile(np.array(values) * 1e3, [50, 99])
            result["milliseconds"][name] = {"p50": float(p50), "p99": float(p99)}
        result["open_milliseconds"] = {str(n): opening(bank.path) for n, bank in banks.items()}
        result["bytes_per_expert"] = {
            **{str(size): used(bank.path) / size for size, bank in banks.items()},
            "weights": small.layout.row_bytes,
            "PEFT": used(Path(folder, "peft")) / len(folders),
        }
    return result, _lines(config, result)


def _check(settings: DictConfig) -> None:
    check_dtype(settings.dtype)
    # PEFT's k adapters are drawn from the folders.
    for key, least in {"k": 1, "draws": 1, "folders": settings.k}.items():
        if not isinstance(settings[key], int) or settings[key] < least:
            what = f"{least} (bank.k)" if key == "folders" else least
            raise ValueError(
                f"{key} must be a whole number of {what} or more, got {settings[key]!r}; "
                f"set bank.{key}"
            )
    sizes = list(settings.sizes) if isinstance(settings.sizes, Sequence) else [settings.sizes]
    if len(set(sizes)) < max(2, len(sizes)) or not all(
        isinstance(size, int) and size >= settings.k for size in sizes
    ):
        raise ValueError(
            f"sizes must be two or more different whole numbers, none below bank.k, which is "
            f"{settings.k}, got {sizes}; set bank.sizes=[…]"
        )


def made_up(count: int) -> list[Passage]:
    """Passages without any content."""
    return [Passage(f"p{n}", "", str(n)) for n in range(count)]


def fill_bank(
    path: Path, final: FinalFFN, spec: ExpertSpec, passages: Sequence[Passage], dtype: str
) -> Bank:
    """Make a bank of random experts, with factors of a usual size that change the logits."""
    layout = ExpertLayout(spec.shapes(final.sizes), dtype)
    backbone = final.backbone
    bank = Bank.create(path, BankSpec(backbone.name, backbone.fingerprint, layout, spec.alpha))
    generator = torch.Generator().manual_seed(len(passages))
    for start in range(0, len(passages), _AT_A_TIME):
        some = passages[start : start + _AT_A_TIME]
        rows = torch.randn(len(some), layout.numel, generator=generator) * 0.02
        bank.add(some, layout.split(rows))
    return bank


def export_folders(
    folder: Path, bank: Bank, final: FinalFFN, spec: ExpertSpec, count: int
) -> dict[str, Path]:
    """Export some of a bank's experts as PEFT adapter folders; returns them by passage id."""
    folders = {id: folder / id for id in list(bank)[:count]}
    for index, path in enumerate(folders.values()):
        experts = bank.get([list(folders)[index]])
        export_adapter(path, expert_at(experts, 0), spec, final)
    return folders


def check_equal_experts(
    final: FinalFFN, bank: Bank, peer: PeftFolders, ids: Sequence[str]
) -> float:
    """The largest relative difference between the logits with our experts and with the peer's.

    Raises:
        ValueError: If it is larger than rounding explains, or if the experts change nothing.
    """
    backbone = final.backbone
    input_ids = torch.arange(10, 26)[None] % backbone.vocab_size
    active = ActiveExperts(final, bank, rows=1, k=len(ids))
    active.swap([0], [ids])
    with torch.no_grad():
        plain: Tensor = backbone.model(input_ids=input_ids).logits
        with active.attached():
            ours: Tensor = backbone.model(input_ids=input_ids).logits
        peer.load(ids)
        theirs: Tensor = peer.model(input_ids=input_ids).logits
        peer.unload()
    scale = float(theirs.abs().max())
    difference, effect = (float((ours - other).abs().max()) / scale for other in (theirs, plain))
    if difference > _TOLERANCE or effect < 10 * _TOLERANCE:
        raise ValueError(
            f"ours and PEFT's sum of adapters differ: by {difference:.1e} of the logits, where the "
            f"experts themselves change {effect:.1e}"
        )
    return difference


def measure(
    final: FinalFFN,
    banks: dict[int, Bank],
    peer: PeftFolders,
    folders: Sequence[str],
    k: int,
    draws: int,
) -> dict[str, list[float]]:
    """Measure the seconds from disk to active for random sets of k experts.

    The banks take turns, draw by draw. The peer is slow, so it has a hundredth of the draws (at
    least 10), in several blocks between those of the banks. The very first draw of each warms up
    and does not count.
    """
    chance = random.Random(0)
    active = {size: ActiveExperts(final, bank, rows=1, k=k) for size, bank in banks.items()}
    seconds: dict[str, list[float]] = {name: [] for name in (*map(str, banks), "PEFT")}

    def draw_banks() -> None:
        for size in banks:
            ids = [f"p{n}" for n in chance.sample(range(size), k)]
            seconds[str(size)].append(_timed(active[size].swap, [0], [ids]))

    def draw_peer() -> None:
        seconds["PEFT"].append(_timed(peer.load, chance.sample(folders, k)))
        peer.unload()

    for bank in banks.values():
        read_whole(bank.path)
    draw_peer()
    draw_banks()
    for block in range(_BLOCKS):
        for _ in range(max(10, draws // 100) // _BLOCKS):
            draw_peer()
        for _ in range(block, draws, _BLOCKS):
            draw_banks()
    return {name: values[1:] for name, values in seconds.items()}


def read_whole(folder: Path) -> None:
    """Read all files of a folder, so that they are in the page cache."""
    for path in folder.rglob("*"):
        if path.is_file():
            path.read_bytes()


def opening(path: Path) -> float:
    """The milliseconds that it takes to open a bank, as the median of several measurements."""
    return float(np.median([_timed(Bank.open, path) for _ in range(_OPENINGS)])) * 1e3


def used(folder: Path) -> int:
    """The bytes that a folder takes on the disk, in whole blocks."""
    files = (path.stat() for path in folder.rglob("*"))
    return sum(getattr(stat, "st_blocks", -(-stat.st_size // 512)) * 512 for stat in files)


def _timed(task: Callable[..., object], *args: Any) -> float:
    watch = Stopwatch()
    task(*args)
    return watch.seconds


def _lines(config: DictConfig, result: dict[str, Any]) -> list[str]:
    settings, times = config.bank, result["milliseconds"]
    theirs = times["PEFT"]
    setting = (
        f"Experts of rank {ExpertSpec().rank} for {config.backbone.name}, stored in "
        f"{settings.dtype}; {settings.draws} random draws; files in the page cache. PEFT: "
        "load_adapter of each, then add_weighted_adapter(cat)."
    )
    columns = ["", "p50, ms", "p99, ms", "PEFT takes times p50", "times p99", "open, ms"]
    rows = []
    for name, time_ in times.items():
        opened = result["open_milliseconds"].get(name)
        rows.append(
            [
                name if name == "PEFT" else f"bank of {int(name):,}",
                f"{time_['p50']:.3f}",
                f"{time_['p99']:.3f}",
                f"{theirs['p50'] / time_['p50']:.0f}",
                f"{theirs['p99'] / time_['p99']:.0f}",
                "" if opened is None else f"{opened:.1f}",
                f"{result['bytes_per_expert'][name]:.0f}",
            ]
        )
    lines = [
        f"# From disk to active: {settings.k} experts of a bank against PEFT's adapters",
        "",
        setting,
        "",
        f"Equal before measuring: the logits differ by {result['difference']:.0e} at most.",
        "",
        *markdown_table(rows, [*columns, "bytes an expert"], compact=True).splitlines(),
    ]
    first, *_, last = (times[str(size)] for size in settings.sizes)
    result["p99_growth"] = last["p99"] / first["p99"]
    weights = result["bytes_per_expert"]["weights"]
    growth = f"p99 grows {result['p99_growth']:.2f} times from the smallest bank to the largest."
    return [*lines, "", f"{growth} The weights of an expert are {weights} bytes."]
