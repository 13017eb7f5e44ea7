"""Load on the server: ``scripts/benchmark.py suite=serve``.

Clients ask, add and remove passages all the time (`benchmarks.load`). The server and its peer,
plain transformers behind the same HTTP (`benchmarks.servers`), run in processes of their own,
and are asked in turns. Besides, the time of a token is measured in this process for whole batches:
each row decodes equally many tokens with experts and without.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from hydra.utils import instantiate
from omegaconf import DictConfig

from backbone.model import Backbone
from benchmarks.load import Client, Tally, load, serving
from benchmarks.servers import PlainBatch
from benchmarks.timing import interleaved, ratio, with_range
from genpoe.model import GenPoE
from live.answer import Ask
from live.session import KnowledgeSession
from plumbing.mounts import SettingValueError
from qa.data.dataset import QADataset
from qa.tables.tables import markdown_table

_COUNTS = ("asked", "added", "removed", "wrong", "lost", "refused")


def serve_suite(config: DictConfig) -> tuple[dict[str, Any], list[str]]:
    """Measure the server under load beside plain transformers.

    Raises:
        ValueError: If a setting is at fault, or a server does not start.
    """
    chosen = config.serve
    for name in ("clients", "seconds", "slices", "tokens", "rows"):
        if not chosen[name] > 0:
            raise SettingValueError(f"serve.{name}", f"{name} must be positive, got {chosen[name]}")
    backbone = instantiate(config.backbone)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = chosen.ckpt_path or _untrained(config, backbone, Path(folder))
        seconds = _time_of_a_token(config, backbone, checkpoint)
        tallies = _under_load(config, backbone, checkpoint, Path(folder))
    result = {name: _numbers(tally, chosen) for name, tally in tallies.items()}
    result |= {"token": seconds}
    return result, _page(chosen, result, str(backbone.dtype)[6:])


def _untrained(config: DictConfig, backbone: Backbone, folder: Path) -> Path:
    """A checkpoint of the configuration's hypernetwork; untrained weights take as long."""
    hypernet = instantiate(config.hypernet).build(backbone).eval().requires_grad_(False)
    path = folder / "untrained.ckpt"
    GenPoE(backbone, hypernet).save(path)
    return path


def _under_load(
    config: DictConfig, backbone: Backbone, checkpoint: str | Path, folder: Path
) -> dict[str, Tally]:
    chosen, dtype = config.serve, str(backbone.dtype)[6:]
    kept = folder / "kept"
    ours = ["scripts/serve.py", "method=genpoe", f"ckpt_path={checkpoint}", "port=0"]
    ours += [f"passages_dir={kept}", f"hydra.run.dir={folder / 'run'}", "max_queue=1000"]
    ours += [f"backbone.name={backbone.name}", f"backbone.dtype={dtype}", "backbone.device=cpu"]
    plain = ["-m", "benchmarks.servers", "plain", backbone.name, dtype]
    if chosen.full:
        ours = ["-m", "benchmarks.servers", "experts", backbone.name, dtype]
        ours += [str(checkpoint), str(kept)]
        plain += ["full"]
    tallies = {"experts": Tally(), "plain": Tally()}
    with serving(ours) as one, serving(plain) as other:
        servers = {"experts": one, "plain": other}
        models = {"experts": "experts", "plain": "base"}
        clients = {
            name: [
                Client(servers[name].port, number, chosen.tokens, tallies[name], models[name])
                for number in range(chosen.clients)
            ]
            for name in servers
        }
        for _ in range(chosen.slices):
            for name, server in servers.items():
                load(server, clients[name], tallies[name], chosen.seconds / chosen.slices)
        for client in clients["experts"]:
            client.settle()
        for client in [*clients["experts"], *clients["plain"]]:
            client.close()
    return tallies


def _time_of_a_token(
    config: DictConfig, backbone: Backbone, checkpoint: str | Path
) -> dict[str, Any]:
    """The seconds of a token of a full batch, decoded with experts and by plain transformers."""
    chosen = config.serve
    dataset: QADataset = instantiate(config.data)
    session = KnowledgeSession.from_checkpoint(checkpoint, backbone)
    session.add(list(dataset.passages.values())[: 2 * chosen.rows])
    found: dict[str, Any] = {}
    for rows in sorted({1, chosen.rows}):
        titles = [passage.title for passage in session.passages.values()][:rows]
        asks = [Ask(f"Where was {title} born?", "experts", chosen.tokens) for title in titles]

        def with_experts(asks: Sequence[Ask]) -> None:
            batch = session.begin(asks, stops=False)
            while batch.running:
                batch.step()

        def plainly(asks: Sequence[Ask]) -> None:
            batch = PlainBatch(backbone, asks, stops=False)
            while batch.running:
                batch.step()

        tasks = {"experts": partial(with_experts, asks), "plain": partial(plainly, asks)}
        seconds = interleaved(tasks, config.rounds)
        each = {name: [one / chosen.tokens for one in some] for name, some in seconds.items()}
        medians = {name: float(np.median(some)) for name, some in each.items()}
        found[f"rows_{rows}"] = {**medians, "ratio": ratio(each["experts"], each["plain"])}
    return found


def _numbers(tally: Tally, chosen: DictConfig) -> dict[str, float]:
    """What a table shows of a tally: seconds, tokens a second, megabytes, counts."""
    first = [float(each) for each in np.percentile(tally.first or [np.nan], [50, 95])]
    spent, behind = (sum(column) for column in zip(*(tally.pace or [(0.0, 0)]), strict=True))
    warm = tally.memory[len(tally.memory) // 5 :] or [0.0]
    return {
        "first_token_p50": first[0],
        "first_token_p95": first[1],
        "seconds_per_token": spent / behind if behind else float("nan"),
        "tokens_per_second": tally.tokens / chosen.seconds,
        "memory_begin": warm[0],
        "memory_end": warm[-1],
        **{name: tally.counts[name] for name in _COUNTS},
    }


def _page(chosen: DictConfig, result: dict[str, Any], dtype: str) -> list[str]:
    labels = {
        "first_token_p50": ("first token, p50, s", 3),
        "first_token_p95": ("first token, p95, s", 3),
        "seconds_per_token": ("a further token, s", 4),
        "tokens_per_second": ("tokens a second", 1),
        "memory_begin": ("resident after a fifth of the time, MB", 0),
        "memory_end": ("resident at the end, MB", 0),
        **{name: (name, 0) for name in _COUNTS},
    }
    served = [
        [what, *(f"{result[name][key]:.{digits}f}" for name in ("experts", "plain"))]
        for key, (what, digits) in labels.items()
    ]
    tokens = [
        [
            name.removeprefix("rows_"),
            *(f"{1000 * each[way]:.1f}" for way in ("experts", "plain")),
            with_range(each["ratio"], 3),
        ]
        for name, each in result["token"].items()
    ]
    shape = (
        f"{chosen.clients} clients, {chosen.seconds} s each, in {chosen.slices} turns; {dtype}. A "
        f"client asks for {'' if chosen.full else 'at most '}{chosen.tokens} tokens; the clients "
        "of plain transformers change no passages."
    )
    head = ["rows", "experts, ms", "plain transformers, ms", "ratio (median, range)"]
    return [
        "# Serving",
        "",
        shape,
        "",
        *markdown_table(served, ["", "experts", "plain transformers"], compact=True).splitlines(),
        "",
        f"The time of a token, {chosen.tokens} tokens a row with the reading of the prompt:",
        "",
        *markdown_table(tokens, head, compact=True).splitlines(),
    ]
