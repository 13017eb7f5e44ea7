"""From disk to active, against PEFT's adapters: ``scripts/benchmark.py suite=bank``.

Ours reads k experts from a bank, checks them and writes them into the final FFN's buffers. The peer
loads k adapter folders and adds them up (``add_weighted_adapter``, ``cat``), which is the same sum.
"""

from __future__ import annotations

import random
import tempfile
import time
import warnings
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
from retrieval.passage import Passage

_TOLERANCE = 1e-4  # of the logits' largest difference, relative to their largest value
_AT_A_TIME = 500  # experts that are added to a bank at a time
_SUM = "sum"  # how PEFT calls the k adapters together
_REST = "rest"  # and the one that is active between two measurements
_OPENINGS = 7
_BLOCKS = 5  # of draws, between those of the peer


class PeftFolders:
    """The peer: experts as PEFT adapter folders, loaded one by one and added up.

    Args:
        backbone: Gets PEFT's layers; of no use for anything else from then on.
        folders: The adapters, by passage id.
    """

    def __init__(self, backbone: Backbone, folders: dict[str, Path]) -> None:
        from peft import PeftModel

        self._folders = folders
        first, *_ = folders.values()
        with warnings.catch_warnings():
            # PEFT asks transformers by a name that is going; nothing for us to change.
            warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
            self.model = PeftModel.from_pretrained(backbone.model, first, adapter_name=_REST)
        self._loaded: list[str] = []

    def load(self, ids: Sequence[str]) -> None:
        """From disk to active."""
        names = [f"expert{index}" for index in range(len(ids))]
        for name, id in zip(names, ids, strict=True):
            self.model.load_adapter(self._folders[id], adapter_name=name)
        self.model.add_weighted_adapter(names, [1.0] * len(ids), _SUM, combination_type="cat")
        self.model.set_adapter(_SUM)
        self._loaded = [*names, _SUM]

    def unload(self) -> None:
        """Forget what was loaded; not part of what is measured."""
        self.model.set_adapter(_REST)
        for name in self._loaded:
            self.model.delete_adapter(name)
        self._loaded = []


def bank_suite(config: DictConfig) -> tuple[dict[str, Any], list[str]]:
    """Milliseconds from disk to active, of banks of several sizes and of PEFT; bytes an expert.

    Raises:
        ValueError: If ours and the peer do not compute the same, or a setting is out of range.
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
        difference = check_equal(final, small, peer, list(folders)[: settings.k])
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
    """Passages that say nothing."""
    return [Passage(f"p{n}", "", str(n)) for n in range(count)]


def fill_bank(
    path: Path, final: FinalFFN, spec: ExpertSpec, passages: Sequence[Passage], dtype: str
) -> Bank:
    """A bank of random experts, small enough to be LoRA's and large enough to be seen."""
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
    """Some of a bank's experts as PEFT adapter folders, by passage id."""
    folders = {id: folder / id for id in list(bank)[:count]}
    for index, path in enumerate(folders.values()):
        experts = bank.get([list(folders)[index]])
        export_adapter(path, expert_at(experts, 0), spec, final)
    return folders


def check_equal(final: FinalFFN, bank: Bank, peer: PeftFolders, ids: Sequence[str]) -> float:
    """The largest relative difference of the logits under ours and under the peer.

    Raises:
        ValueError: If it is more than rounding, or if the experts change nothing.
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
    """Seconds from disk to active, of random sets of k experts.

    Banks take turns, draw by draw. The peer, which is slow, has a hundredth of the draws (10 at
    least), in several blocks between theirs. All draws count but the very first of each, which
    warms up.
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
    """Bring all files of a folder into the page cache; what was written need not have stayed."""
    for path in folder.rglob("*"):
        if path.is_file():
            path.read_bytes()


def opening(path: Path) -> float:
    """Milliseconds to open a bank, the median of several times."""
    return float(np.median([_timed(Bank.open, path) for _ in range(_OPENINGS)])) * 1e3


def used(folder: Path) -> int:
    """Bytes that a folder takes on the disk, in whole blocks."""
    files = (path.stat() for path in folder.rglob("*"))
    return sum(getattr(stat, "st_blocks", -(-stat.st_size // 512)) * 512 for stat in files)


def _timed(task: Callable[..., object], *args: Any) -> float:
    start = time.perf_counter()
    task(*args)
    return time.perf_counter() - start


def _lines(config: DictConfig, result: dict[str, Any]) -> list[str]:
    settings, times = config.bank, result["milliseconds"]
    theirs = times["PEFT"]
    setting = (
        f"Experts of rank {ExpertSpec().rank} for {config.backbone.name}, stored in "
        f"{settings.dtype}; {settings.draws} random draws; files in the page cache. PEFT: "
        "load_adapter of each, then add_weighted_adapter(cat)."
    )
    lines = [
        f"# From disk to active: {settings.k} experts of a bank against PEFT's adapters",
        "",
        setting,
        "",
        f"Equal before measuring: the logits differ by {result['difference']:.0e} at most.",
        "",
        "| | p50, ms | p99, ms | PEFT takes times p50 | times p99 | open, ms | bytes an expert |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, time_ in times.items():
        label = name if name == "PEFT" else f"bank of {int(name):,}"
        opened = result["open_milliseconds"].get(name)
        lines.append(
            f"| {label} | {time_['p50']:.3f} | {time_['p99']:.3f} | "
            f"{theirs['p50'] / time_['p50']:.0f} | {theirs['p99'] / time_['p99']:.0f} | "
            f"{'' if opened is None else f'{opened:.1f}'} | "
            f"{result['bytes_per_expert'][name]:.0f} |"
        )
    first, *_, last = (times[str(size)] for size in settings.sizes)
    result["p99_growth"] = last["p99"] / first["p99"]
    weights = result["bytes_per_expert"]["weights"]
    growth = f"p99 grows {result['p99_growth']:.2f} times from the smallest bank to the largest."
    return [*lines, "", f"{growth} The weights of an expert are {weights} bytes."]
