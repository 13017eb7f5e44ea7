"""The cost of injecting K passages: ``scripts/benchmark.py suite=inject``."""

from __future__ import annotations

import random
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor

from backbone.model import Backbone
from backbone.split import SplitBackbone
from backbone.tokens import encode_prompt
from benchmarks.timing import interleaved, ratio, with_range
from genpoe.hypernet.hypernet import HypernetSettings
from genpoe.model import GenPoE
from qa.data.dataset import QADataset
from qa.prompts import build_prompt
from qa.tables.tables import markdown_table


def inject_suite(config: DictConfig) -> tuple[dict[str, Any], list[str]]:
    """Measure what K experts cost: to generate them, and to decode with them.

    Raises:
        ValueError: If the data is too small, or if zero experts change what is decoded.
    """
    backbone = instantiate(config.backbone)
    dataset: QADataset = instantiate(config.data)
    hypernet = instantiate(config.hypernet).build(backbone).eval().requires_grad_(False)
    genpoe = GenPoE(backbone, hypernet.to(backbone.device).cast(backbone.dtype))
    questions = dataset.split("dev")[: config.rounds + 1]
    passages = list(dataset.passages.values())
    if len(questions) <= config.rounds or len(passages) < config.k:
        raise ValueError(
            f"rounds={config.rounds} and k={config.k} need {config.rounds + 1} questions and "
            f"{config.k} passages, the data has {len(questions)} and {len(passages)}"
        )
    chosen = [
        random.Random(config.seed + i).sample(passages, config.k) for i in range(len(questions))
    ]
    inputs = [prompt_ids(backbone, build_prompt(q.question)) for q in questions]
    turn = {"generate": 0, "read": 0, "answer": 0, "rag": 0, "plain": 0, "experts": 0}

    def following(name: str) -> int:
        turn[name] += 1
        return turn[name] - 1

    decode = partial(decode_exactly, backbone)

    plain = decode(inputs[0], config.new_tokens)
    with genpoe.injected(chosen[0]):  # untrained experts are zero, so every token must be the same
        same = torch.equal(decode(inputs[0], config.new_tokens), plain)
    if not same:
        raise ValueError("zero experts changed what is decoded")

    def with_experts() -> None:
        i = following("experts")
        with genpoe.injected(chosen[i]):
            decode(inputs[i], config.new_tokens)

    def injected_only() -> None:
        genpoe.inject(chosen[following("generate")])
        genpoe.remove()

    reads = hypernet.reads_layer
    below = None if reads is None else SplitBackbone(backbone, reads).below

    @torch.inference_mode()
    def read_only() -> None:
        tokens = genpoe.tokens(chosen[following("read")])
        if below is not None:
            below(tokens.input_ids_PS, tokens.attention_mask_PS)

    answer_tokens = 5  # tokens of a typical answer, with its end
    pairs = zip(questions, chosen, strict=True)
    with_passages = [
        prompt_ids(backbone, build_prompt(q.question, passages)) for q, passages in pairs
    ]
    seconds = interleaved(
        {
            "generate": injected_only,
            "read": read_only,
            "answer": lambda: decode(inputs[following("answer")], answer_tokens),
            "rag": lambda: decode(with_passages[following("rag")], answer_tokens),
            "plain": lambda: decode(inputs[following("plain")], config.new_tokens),
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
    if below is not None:
        result["generation_over_reading"] = ratio(seconds["generate"], seconds["read"])
    shape = (
        f"Hypernetwork: {described(hypernet.settings)}; "
        f"{str(backbone.dtype)[6:]}; one question at a time; {config.rounds} interleaved rounds. "
        "Zero experts decode the same tokens."
    )
    labels = {
        "generation_over_answering": f"generating the experts / answering ({answer_tokens} tokens)",
        "generation_over_answering_with_rag": "generating the experts / answering with RAG",
        "decoding_over_plain": f"decoding {config.new_tokens} tokens with the experts / without",
        "generation_over_reading": f"generating the experts / the first {reads} layers alone",
    }
    rows = [[what, with_range(result[key], 3)] for key, what in labels.items() if key in result]
    table = markdown_table(rows, ["", "ratio (median, range)"], compact=True)
    return result, [
        f"# Injecting K = {config.k} passages",
        *("", shape, ""),
        *table.splitlines(),
    ]


def described(settings: HypernetSettings) -> str:
    """A hypernetwork's own settings, whichever they are, for the head of a table."""
    return ", ".join(f"{name} {value}" for name, value in asdict(settings).items())


def prompt_ids(backbone: Backbone, prompt: str) -> Tensor:
    """A prompt as a batch of one: ``[1, N]``."""
    return torch.tensor([encode_prompt(backbone.tokenizer, prompt)], device=backbone.device)


def decode_exactly(backbone: Backbone, ids: Tensor, tokens: int) -> Tensor:
    """Decode greedily for so many tokens, whatever they are.

    Args:
        backbone: The model.
        ids: The prompts ``[B, N]``, without padding.
        tokens: T, the number of new tokens.

    Returns:
        The prompts with the new tokens ``[B, N + T]``.
    """
    decoded: Tensor = backbone.model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        min_new_tokens=tokens,
        max_new_tokens=tokens,
        do_sample=False,
        pad_token_id=0,
    )
    return decoded
