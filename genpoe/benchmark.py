"""Speed of training and of injection, as ratios (``scripts/benchmark.py``)."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console
from torch import Tensor
from torch.nn import functional

from genpoe.examples import Examples
from genpoe.experts import mix_experts
from genpoe.frozen import SplitBackbone, frozen_states
from genpoe.hypernet import Hypernet, mean_pool
from genpoe.model import GenPoE
from genpoe.module import GenPoEModule
from genpoe.sampler import BatchSpec, Chunk, GroupedBatchSampler
from qa.backbone import Backbone, load_backbone
from qa.dataset import QADataset
from qa.prompts import build_prompt, encode_prompt
from qa.timing import interleaved, machine, ratio, write_report

Batch = dict[str, Any]
_MODEL_KEYS = ("rank", "layer", "hidden_width", "embedding_scaling", "initialization")


def benchmark(config: DictConfig) -> dict[str, Any]:
    """Run one suite and write ``<suite>.json`` and ``<suite>.md`` into the run directory.

    Raises:
        ValueError: If the suite is unknown, or ours and the peer do not compute the same.
    """
    suites: dict[str, Callable[[DictConfig], tuple[dict[str, Any], list[str]]]] = {
        "train": train_suite,
        "inject": inject_suite,
    }
    if config.suite not in suites:
        raise ValueError(f"suite must be one of {', '.join(suites)}, got {config.suite!r}")
    torch.manual_seed(config.seed)
    result, lines = suites[config.suite](config)
    result["machine"] = machine(config.model.backbone.device)
    write_report(Path(config.paths.output_dir), config.suite, result, lines)
    Console(highlight=False).print("\n".join(lines), markup=False)
    return result


# --- suite=train ----------------------------------------------------------------------------------


def obvious_loss(backbone: Backbone, hypernet: Hypernet, layer: int, batch: Batch) -> Tensor:
    """The obvious way: an expert for each question, a hook, every logit, autograd everywhere.

    Args:
        backbone: Its parameters ask for gradients, as those of a model do that nobody froze.
        hypernet: The hypernetwork.
        layer: The expert layer.
        batch: Questions, each with its own copy of its passage.
    """
    embedded = backbone.embedding(batch["passage_input_ids"])
    experts = hypernet(mean_pool(embedded, batch["passage_attention_mask"]))
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
    """Examples per second of one training step, ours against the obvious way."""
    settings = config.model
    backbone = instantiate(settings.backbone)
    peer_backbone = load_backbone(settings.backbone.name, dtype="float32").to(backbone.device)
    peer_backbone.model.requires_grad_(True)
    dataset: QADataset = instantiate(config.data)
    module = _module(config, backbone).to(backbone.device)
    examples = Examples(dataset, "train", backbone.tokenizer, 512, 256)
    sampler = GroupedBatchSampler(
        examples.groups,
        examples.lengths,
        config.passages_per_batch,
        config.questions_per_passage,
        seed=config.seed,
    )
    specs = [spec for spec, _ in zip(sampler, range(config.rounds + 1), strict=False)]
    grouped = [_to(examples[spec], backbone.device) for spec in specs]
    size = len(grouped[0]["rows"])
    peers = _random_batches(examples, size, len(grouped), config.seed, backbone.device)
    pooled = [
        mean_pool(backbone.embedding(b["passage_input_ids"]), b["passage_attention_mask"])
        for b in grouped
    ]
    module.hypernet.fit(torch.cat(pooled))
    torch.nn.init.normal_(module.hypernet.linear2.weight, std=1e-3)  # experts that do something
    check = _check_equal(module, peer_backbone, grouped[0])
    optimizer = torch.optim.AdamW(module.hypernet.parameters(), lr=1e-9)

    def step(loss: Tensor) -> None:
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        peer_backbone.model.zero_grad()

    with tempfile.TemporaryDirectory() as folder:
        cached = _module(config, backbone, folder)
        cached.hypernet = module.hypernet
        _precompute(cached, grouped, examples, Path(folder))
        ours, again, theirs = (iter(batches) for batches in (grouped, grouped, peers))
        tasks = {
            "ours": lambda: step(module(next(ours)).mean()),
            "ours, states cached": lambda: step(cached(next(again)).mean()),
            "obvious": lambda: step(
                obvious_loss(peer_backbone, module.hypernet, settings.layer, next(theirs))
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
        f"Layer {settings.layer}, rank {settings.rank}, width {settings.hidden_width}; "
        f"{config.passages_per_batch} passages with up to {config.questions_per_passage} questions "
        f"each; {config.rounds} interleaved rounds; backbone in {str(backbone.dtype)[6:]} (ours), "
        "float32 (obvious)."
    )
    equal = (
        f"Equal in float32 before measuring: loss {check['ours']:.6f} and {check['obvious']:.6f}, "
        f"largest difference of a gradient {check['gradient']:.1e} of the largest gradient."
    )
    lines = [
        "# Training step: examples per second against the obvious way",
        *("", shape, "", equal, ""),
        "| | times the obvious way's examples per second (median, range) |",
        "|---|---|",
    ]
    for name in ("ours", "ours, states cached"):
        result[name] = speedup = ratio(each["obvious"], each[name])
        lines.append(
            f"| {name} | {speedup['median']:.2f} ({speedup['min']:.2f}–{speedup['max']:.2f}) |"
        )
    return result, lines


def _module(config: DictConfig, backbone: Backbone, cache_dir: str | None = None) -> GenPoEModule:
    return GenPoEModule(backbone, **{k: config.model[k] for k in _MODEL_KEYS}, cache_dir=cache_dir)


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
    parameters = list(module.hypernet.parameters())
    float32 = GenPoEModule(
        peer,
        **{key: module.hparams[key] for key in _MODEL_KEYS},
    )
    peer.model.requires_grad_(True)
    float32.hypernet = module.hypernet
    losses, gradients = [], []
    for loss in (
        float32(batch).mean(),
        obvious_loss(peer, module.hypernet, module.expert_layer.layer, _ungrouped(batch)),
    ):
        losses.append(loss.item())
        gradients.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)]))
    worst = ((gradients[0] - gradients[1]).abs().max() / gradients[1].abs().max()).item()
    if abs(losses[0] - losses[1]) > 1e-4 * losses[1] or worst > 1e-2:
        raise ValueError(f"ours and the obvious way differ: losses {losses}, gradients by {worst}")
    return {"ours": losses[0], "obvious": losses[1], "gradient": worst}


def _precompute(
    module: GenPoEModule, batches: list[Batch], examples: Examples, folder: Path
) -> None:
    """Give the module the cached states of the batches' questions only."""
    chosen = torch.cat([batch["examples"] for batch in batches]).tolist()
    place = {index: i for i, index in enumerate(chosen)}
    sequences = examples.sequences()
    split = SplitBackbone(module.backbone, module.expert_layer.layer)
    states = frozen_states(split, [sequences[i] for i in chosen], module.expert_layer.layer, folder)

    class _Chosen:
        def rows(self, indices: Tensor) -> Tensor:
            return states.rows(torch.tensor([place[i] for i in indices.tolist()]))

    module._frozen = {"train": _Chosen()}  # type: ignore[dict-item]


# --- suite=inject ---------------------------------------------------------------------------------


def inject_suite(config: DictConfig) -> tuple[dict[str, Any], list[str]]:
    """What K experts cost: generating them, and decoding with them."""
    settings = config.model
    backbone = instantiate(settings.backbone)
    dataset: QADataset = instantiate(config.data)
    hypernet = Hypernet(
        backbone.d_model, settings.rank, settings.hidden_width, settings.embedding_scaling
    )
    genpoe = GenPoE(
        backbone, hypernet.eval().requires_grad_(False).to(backbone.device), settings.layer
    )
    questions = dataset.split("dev")[: config.rounds + 1]
    passages = list(dataset.passages.values())
    chosen = [
        random.Random(config.seed + i).sample(passages, config.k) for i in range(len(questions))
    ]
    inputs = [_ids(backbone, build_prompt(q.question)) for q in questions]
    turn = {"generate": 0, "answer": 0, "rag": 0, "plain": 0, "experts": 0}

    def following(name: str) -> int:
        turn[name] += 1
        return turn[name] - 1

    def decode(i: int, tokens: int) -> Tensor:
        return backbone.model.generate(
            inputs[i],
            attention_mask=torch.ones_like(inputs[i]),
            min_new_tokens=tokens,
            max_new_tokens=tokens,
            do_sample=False,
            pad_token_id=0,
        )

    plain = decode(0, config.new_tokens)
    with genpoe.injected(chosen[0]):  # untrained experts are zero: every token must be the same
        same = torch.equal(decode(0, config.new_tokens), plain)
    if not same:
        raise ValueError("zero experts changed what is decoded")

    def with_experts() -> None:
        i = following("experts")
        with genpoe.injected(chosen[i]):
            decode(i, config.new_tokens)

    def injected_only() -> None:
        genpoe.inject(chosen[following("generate")])
        genpoe.remove()

    answer_tokens = 5  # a typical answer with its end
    rag_prompts = [build_prompt(q.question, c) for q, c in zip(questions, chosen, strict=True)]
    seconds = interleaved(
        {
            "generate": injected_only,
            "answer": lambda: decode(following("answer"), answer_tokens),
            "rag": lambda: _answer_with_rag(backbone, rag_prompts[following("rag")], answer_tokens),
            "plain": lambda: decode(following("plain"), config.new_tokens),
            "experts": with_experts,
        },
        config.rounds,
    )
    decoding = [e - g for e, g in zip(seconds["experts"], seconds["generate"], strict=True)]
    result: dict[str, Any] = {
        "seconds": seconds,
        "generation_over_answering": ratio(seconds["generate"], seconds["answer"]),
        "generation_over_answering_with_rag": ratio(seconds["generate"], seconds["rag"]),
        "decoding_over_plain": ratio(decoding, seconds["plain"]),
    }
    shape = (
        f"Layer {settings.layer}, rank {settings.rank}, width {settings.hidden_width}; "
        f"one question at a time; {config.rounds} interleaved rounds. "
        "Zero experts decode the same tokens."
    )
    lines = [
        f"# Injecting K = {config.k} passages",
        *("", shape, ""),
        "| | ratio (median, range) |",
        "|---|---|",
    ]
    labels = {
        "generation_over_answering": f"generating the experts / answering ({answer_tokens} tokens)",
        "generation_over_answering_with_rag": "generating the experts / answering with RAG",
        "decoding_over_plain": f"decoding {config.new_tokens} tokens with the experts / without",
    }
    for key, label in labels.items():
        r = result[key]
        lines.append(f"| {label} | {r['median']:.3f} ({r['min']:.3f}–{r['max']:.3f}) |")
    return result, lines


def _ids(backbone: Backbone, prompt: str) -> Tensor:
    return torch.tensor([encode_prompt(backbone.tokenizer, prompt)], device=backbone.device)


def _answer_with_rag(backbone: Backbone, prompt: str, tokens: int) -> None:
    ids = _ids(backbone, prompt)
    backbone.model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=tokens,
        do_sample=False,
        pad_token_id=0,
    )
