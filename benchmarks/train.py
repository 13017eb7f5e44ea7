"""Speed of a training step beside the obvious way: ``scripts/benchmark.py suite=train``."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor
from torch.nn import functional

from backbone.loading import load_backbone
from backbone.model import Backbone
from backbone.split import SplitBackbone
from benchmarks.inject import described
from benchmarks.timing import interleaved, ratio, with_range
from genpoe.experts import mix_experts
from genpoe.hypernet.mean import MeanHypernet, mean_pool
from genpoe.training.examples import Examples
from genpoe.training.frozen_states import frozen_states
from genpoe.training.module import GenPoEModule
from genpoe.training.sampler import BatchSpec, Chunk, GroupedBatchSampler
from genpoe.training.settings import OptimSettings
from qa.data.dataset import QADataset
from qa.tables.tables import markdown_table

Batch = dict[str, Any]


def obvious_loss(backbone: Backbone, hypernet: MeanHypernet, layer: int, batch: Batch) -> Tensor:
    """The obvious way: one expert per question, a hook, every logit, and gradients everywhere.

    Args:
        backbone: The model; its parameters ask for gradients, as in a model that is not frozen.
        hypernet: The hypernetwork.
        layer: The expert layer.
        batch: Questions, each with its own copy of its passage.
    """
    embedded = backbone.embedding(batch["passage_input_ids"])
    experts = hypernet.experts(mean_pool(embedded, batch["passage_attention_mask"]))
    weight = torch.ones(experts.num_sets, 1, device=embedded.device)
    handle = backbone.ffn(layer).register_forward_hook(
        lambda _, args, output: output + mix_experts(args[0], experts, weight)
    )
    try:
        logits = backbone.model(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
        ).logits
    finally:
        handle.remove()
    labels = batch["labels"][:, 1:]
    nll = functional.cross_entropy(logits[:, :-1].float().transpose(1, 2), labels, reduction="none")
    return (nll.sum(1) / (labels != -100).sum(1)).mean()


def _ungrouped(batch: Batch) -> Batch:
    """The same questions, each with its own copy of its passage."""
    rows = batch["rows"]
    passages = {k: batch[k][rows] for k in ("passage_input_ids", "passage_attention_mask")}
    return {**batch, **passages, "rows": torch.arange(len(rows), device=rows.device)}


def train_suite(config: DictConfig) -> tuple[dict[str, Any], list[str]]:
    """Measure the examples per second of a training step, ours beside the obvious way.

    Raises:
        ValueError: If both do not compute the same, if the data is too small, or if another
            hypernetwork than ``mean`` is chosen.
    """
    backbone = instantiate(config.backbone)
    peer_backbone = load_backbone(config.backbone.name, dtype="float32").to(backbone.device)
    dataset: QADataset = instantiate(config.data)
    module = _module(config, backbone).to(backbone.device)
    hypernet = module.hypernet
    if not isinstance(hypernet, MeanHypernet):
        raise ValueError("suite=train measures hypernet=mean alone; leave hypernet=… out")
    examples = Examples(dataset, "train", backbone.tokenizer, 512, 256)
    sampler = GroupedBatchSampler(
        examples.groups,
        examples.lengths,
        config.passages_per_batch,
        config.questions_per_passage,
        seed=config.seed,
    )
    specs = [spec for spec, _ in zip(sampler, range(config.rounds + 1), strict=False)]
    if len(specs) <= config.rounds:
        raise ValueError(
            f"rounds={config.rounds} need {config.rounds + 1} batches, the data has {len(specs)}; "
            "set rounds=…, or use more data"
        )
    grouped = [_to(examples[spec], backbone.device) for spec in specs]
    size = len(grouped[0]["rows"])
    peers = _random_batches(examples, size, len(grouped), config.seed, backbone.device)
    pooled = [
        mean_pool(backbone.embedding(b["passage_input_ids"]), b["passage_attention_mask"])
        for b in grouped
    ]
    hypernet.fit(torch.cat(pooled))
    torch.nn.init.normal_(hypernet.linear2.weight, std=1e-3)  # so that experts are not zero
    check = _check_equal(module, peer_backbone, grouped[0])
    optimizer = torch.optim.AdamW(hypernet.parameters(), lr=1e-9)

    def step(loss: Tensor) -> None:
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        peer_backbone.model.zero_grad()

    with tempfile.TemporaryDirectory() as folder:
        cached = _module(config, backbone, folder)
        cached.hypernet = hypernet
        placed = _precompute(cached, grouped, examples, Path(folder))
        check |= _check_cached(module, cached, grouped[0], placed[0])
        ours, again, theirs = (iter(batches) for batches in (grouped, placed, peers))
        tasks = {
            "ours": lambda: step(module(next(ours)).mean()),
            "ours, states cached": lambda: step(cached(next(again)).mean()),
            "obvious": lambda: step(
                obvious_loss(peer_backbone, hypernet, hypernet.settings.layer, next(theirs))
            ),
        }
        seconds = interleaved(tasks, config.rounds)
    sizes = {"ours": grouped, "ours, states cached": grouped, "obvious": peers}
    each = {
        name: [t / len(b["rows"]) for t, b in zip(times, sizes[name][1:], strict=True)]
        for name, times in seconds.items()
    }
    result: dict[str, Any] = {"equality": check, "seconds_per_example": each}
    shape = (
        f"Hypernetwork: {described(hypernet.settings)}; "
        f"{config.passages_per_batch} passages with up to {config.questions_per_passage} questions "
        f"each; {config.rounds} interleaved rounds; backbone in {str(backbone.dtype)[6:]} (ours), "
        "float32 (obvious)."
    )
    equal = (
        f"Equal in float32 before measuring: loss {check['ours']:.6f} and {check['obvious']:.6f}, "
        f"largest difference of a gradient {check['gradient']:.1e} of the largest gradient. With "
        f"states cached, in {str(backbone.dtype)[6:]}: loss {check['cached']:.4f} and "
        f"{check['computed']:.4f}."
    )
    rows = []
    for name in ("ours", "ours, states cached"):
        result[name] = speedup = ratio(each["obvious"], each[name])
        rows.append([name, with_range(speedup, 2)])
    columns = ["", "times the obvious way's examples per second (median, range)"]
    return result, [
        "# Training step: examples per second against the obvious way",
        *("", shape, "", equal, ""),
        *markdown_table(rows, columns, compact=True).splitlines(),
    ]


def _module(config: DictConfig, backbone: Backbone, cache_dir: str | None = None) -> GenPoEModule:
    hypernet = instantiate(config.hypernet).build(backbone)
    return GenPoEModule(backbone, hypernet, OptimSettings(), cache_dir=cache_dir)


def _random_batches(
    examples: Examples, size: int, count: int, seed: int, device: torch.device
) -> list[Batch]:
    """Batches of random questions, each with its own copy of its passage."""
    each = [
        Chunk(passage, (question,))
        for passage, questions in enumerate(examples.groups)
        for question in questions
    ]
    random.Random(seed).shuffle(each)
    parts = [tuple(each[i * size : (i + 1) * size]) for i in range(count)]
    return [_ungrouped(_to(examples[BatchSpec(part, size, 1)], device)) for part in parts]


def _to(batch: Batch, device: torch.device) -> Batch:
    return {k: v.to(device) if isinstance(v, Tensor) else v for k, v in batch.items()}


def _check_equal(module: GenPoEModule, peer: Backbone, batch: Batch) -> dict[str, float]:
    hypernet: Any = module.hypernet.settings.build(peer)
    hypernet.load_state_dict(module.hypernet.state_dict())
    float32 = GenPoEModule(peer, hypernet.to(peer.device), OptimSettings())
    parameters = list(hypernet.parameters())
    peer.model.requires_grad_(True)  # a Backbone freezes its model
    losses, gradients = [], []
    for loss in (
        float32(batch).mean(),
        obvious_loss(peer, hypernet, module.expert_layer.layer, _ungrouped(batch)),
    ):
        losses.append(loss.item())
        gradients.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)]))
    worst = ((gradients[0] - gradients[1]).abs().max() / gradients[1].abs().max()).item()
    if abs(losses[0] - losses[1]) > 1e-4 * losses[1] or worst > 1e-2:
        raise ValueError(f"ours and the obvious way differ: losses {losses}, gradients by {worst}")
    return {"ours": losses[0], "obvious": losses[1], "gradient": worst}


@torch.no_grad()
def _check_cached(
    module: GenPoEModule, cached: GenPoEModule, batch: Batch, placed: Batch
) -> dict[str, float]:
    losses = {"computed": module(batch).mean().item(), "cached": cached(placed).mean().item()}
    # The states come from other batches in the backbone's own dtype, so rounding differs.
    if abs(losses["computed"] - losses["cached"]) > 1e-2 * losses["computed"]:
        raise ValueError(f"the loss changes when states are cached: {losses}")
    return losses


def _precompute(
    module: GenPoEModule, batches: list[Batch], examples: Examples, folder: Path
) -> list[Batch]:
    """Cache the states of the batches' questions; returns the batches with places in the cache."""
    chosen = torch.cat([batch["examples"] for batch in batches])
    sequences = examples.sequences()
    layer = module.expert_layer.layer
    split = SplitBackbone(module.backbone, layer)
    states = frozen_states(split, [sequences[i] for i in chosen.tolist()], layer, folder)
    module._frozen = {"train": states}
    places = torch.arange(len(chosen)).split([len(batch["examples"]) for batch in batches])
    return [{**b, "examples": place} for b, place in zip(batches, places, strict=True)]
