"""How a bank of codes grows: ``scripts/benchmark.py suite=codes``.

Banks of several sizes are filled with made-up codes, and no language model reads: the keys are
random numbers, and the token ids are those of the data's passages, recombined, so that the codes
are as long as real ones. Lines through the sizes say what a larger bank would take.

Shapes: P passages, S passage tokens, U key width.
"""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from benchmarks.bank import read_whole, used
from genpoe.codes import CodeBank, CodeLayout, CodeSpec
from genpoe.hypernet.reader import ReaderSettings
from genpoe.hypernet.reader_experts import ReaderCode
from plumbing.batches import pad
from plumbing.mounts import SettingValueError
from plumbing.progress import progress
from plumbing.stopwatch import Stopwatch
from qa.bank.layout import Rows
from qa.prompts import encode_passage
from qa.tables.tables import markdown_table
from retrieval.passage import Passage

_AT_A_TIME = 4096  # passages that are added at a time
_OPENINGS = 5


def codes_suite(config: DictConfig) -> tuple[dict[str, Any], list[str]]:
    """Measure bytes and seconds a passage, the opening of a bank, and looking up k codes.

    Raises:
        ValueError: If a setting is out of range, or if the disk has no room for the largest bank.
    """
    settings = config.codes
    _check(settings)
    backbone = instantiate(config.backbone)
    made = ReaderSettings(layer=backbone.num_layers - 1, read_layer=1)
    layout = CodeLayout(made.key_width, backbone.vocab_size, settings["keys"])
    spec = CodeSpec(
        *(backbone.name, backbone.fingerprint, "float32", made.saved(), "0" * 64, 512),
        layout=layout,
    )
    passages = list(instantiate(config.data).passages.values())
    pool = _pool(layout, backbone.tokenizer, passages, config.seed)
    output = Path(config.paths.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    _check_space(output, pool, max(settings.sizes))
    points = []
    for size in sorted(settings.sizes):
        with tempfile.TemporaryDirectory(prefix="codes-", dir=output) as folder:
            points.append(_measured(Path(folder, "bank"), spec, pool, size, settings, config.seed))
    tokens = len(pool.data) / len(pool) / layout.token_bytes
    lines = {key: _line(points, key) for key in ("bytes", "add_seconds", "open_milliseconds")}
    result: dict[str, Any] = {"points": points, "tokens_per_passage": tokens, "lines": lines}
    result["expected"] = {
        key: line["at_0"] + line["per_passage"] * settings.expected for key, line in lines.items()
    }
    return result, _lines(config, result)


def _check(settings: DictConfig) -> None:
    for name in ("k", "draws", "expected"):
        if not isinstance(settings[name], int) or settings[name] < 1:
            raise SettingValueError(
                f"codes.{name}", f"codes.{name} must be a positive number, got {settings[name]!r}"
            )
    sizes = list(settings.sizes)
    if len(set(sizes)) < max(2, len(sizes)) or not all(
        isinstance(size, int) and size >= settings.k for size in sizes
    ):
        raise SettingValueError(
            "codes.sizes",
            "codes.sizes must be two or more different whole numbers, none below codes.k, which is "
            f"{settings.k}, got {sizes}",
        )


def _pool(layout: CodeLayout, tokenizer: Any, passages: Sequence[Passage], seed: int) -> Rows:
    """Rows of real lengths, with keys at random and the passages' tokens put together anew."""
    draw = random.Random(seed)
    some = draw.sample(passages, min(len(passages), _AT_A_TIME))
    ids = [encode_passage(tokenizer, passage, 512) for passage in some]
    words = [token for row in ids for token in row]
    mixed = [[draw.choice(words) for _ in row] for row in ids]
    torch.manual_seed(seed)
    rows: list[bytes] = []
    for start in range(0, len(mixed), 256):
        ids_PS, mask_PS = pad(mixed[start : start + 256], 0)
        keys_PSU = torch.randn(*ids_PS.shape, layout.key_width)
        found = layout.rows(ReaderCode(keys_PSU, ids_PS, mask_PS))
        rows += [found[place].tobytes() for place in range(len(found))]
    return Rows.of(rows)


def _check_space(folder: Path, pool: Rows, size: int) -> None:
    needed = 1.1 * len(pool.data) / len(pool) * size
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ValueError(
            f"a bank of {size:,} codes needs about {needed / 2**30:.1f} GiB, but {folder} has "
            f"{free / 2**30:.1f} GiB free; lower codes.sizes, or set hydra.run.dir to a larger disk"
        )


def _measured(
    path: Path, spec: CodeSpec, pool: Rows, size: int, settings: DictConfig, seed: int
) -> dict[str, float]:
    draw, numbers = random.Random(seed), np.random.default_rng(seed)
    bank = CodeBank.create(path, spec)
    seconds = 0.0
    for start in progress(range(0, size, _AT_A_TIME), f"{size:,} codes"):
        count = min(_AT_A_TIME, size - start)
        chosen = numbers.integers(len(pool), size=count)
        rows = Rows.of([pool[int(row)].tobytes() for row in chosen])
        some = [Passage(f"p{n}", "", str(n)) for n in range(start, start + count)]
        watch = Stopwatch()
        bank.add_rows(some, rows)
        seconds += watch.seconds
    del bank
    opening = []
    for _ in range(_OPENINGS):
        watch = Stopwatch()
        opened = CodeBank.open(path, read_only=True)
        opening.append(watch.seconds)
    read_whole(path)
    looking = []
    for number in range(settings.draws + 1):
        ids = [f"p{n}" for n in draw.sample(range(size), settings.k)]
        watch = Stopwatch()
        opened.get(ids)
        if number:  # the first one warms up
            looking.append(watch.seconds)
    p50, p95 = (1e3 * float(each) for each in np.percentile(looking, [50, 95]))
    return {
        "passages": size,
        "bytes": used(path),
        "add_seconds": seconds,
        "open_milliseconds": 1e3 * float(np.median(opening)),
        "get_milliseconds_p50": p50,
        "get_milliseconds_p95": p95,
    }


def _line(points: Sequence[dict[str, float]], key: str) -> dict[str, float]:
    """The line through the points, by least squares."""
    slope, start = np.polyfit([p["passages"] for p in points], [p[key] for p in points], 1)
    return {"per_passage": float(slope), "at_0": float(start)}


def _lines(config: DictConfig, result: dict[str, Any]) -> list[str]:
    settings = config.codes
    rows = [
        [
            f"{point['passages']:,}",
            f"{point['bytes'] / 2**20:,.1f}",
            f"{point['bytes'] / point['passages']:,.0f}",
            f"{1e6 * point['add_seconds'] / point['passages']:.0f}",
            f"{point['open_milliseconds']:.1f}",
            f"{point['get_milliseconds_p50']:.2f}",
            f"{point['get_milliseconds_p95']:.2f}",
        ]
        for point in result["points"]
    ]
    columns = ["passages", "MiB", "bytes a passage", "µs to add one", "open, ms"]
    columns += [f"look up {settings.k}, p50, ms", "p95, ms"]
    expected, largest = result["expected"], max(settings.sizes)
    shape = (
        f"Made-up codes of the lengths of {config.data.get('name', 'the data')}'s passages, "
        f"{result['tokens_per_passage']:.0f} tokens on average, keys in {settings['keys']}, added "
        f"{_AT_A_TIME:,} at a time; {settings.draws} random look-ups. All files were read before, "
        "so they are in the page cache as far as they fit; a cold one was not measured."
    )
    guess = (
        f"A line through these, {settings.expected / largest:.0f} times beyond the largest: "
        f"{settings.expected:,} passages take {expected['bytes'] / 2**30:,.1f} GiB, "
        f"{expected['add_seconds'] / 60:,.1f} minutes to add (without reading them), and "
        f"{expected['open_milliseconds'] / 1e3:,.2f} s to open."
    )
    table = markdown_table(rows, columns, compact=True)
    return ["# A bank of codes", "", shape, "", *table.splitlines(), "", guess]
