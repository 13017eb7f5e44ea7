"""What a training of the hypernetwork takes of memory and disk (`plumbing.plan`).

Weights, gradients and the optimiser's state are counted exactly. What a step makes besides is
counted by a step of the largest batch on the meta device, forwards and backwards, in which nothing
is computed. There every token is a row by itself: attention then costs what its memory-saving
kernels cost, since those keep no scores, and all else costs the same.

Shapes: N questions, T tokens, P passages, S passage tokens, A answer tokens of all questions, K
experts a question, D d_model.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from backbone.final_ffn import FinalFFN
from backbone.model import Backbone
from genpoe.hypernet.hypernet import Hypernet, PassageTokens
from genpoe.injection import ExpertLayer
from genpoe.training.examples import Examples
from genpoe.training.sampler import BatchSpec, GroupedBatchSampler
from genpoe.training.settings import BatchingSettings
from plumbing.plan import Memory, PeakMemory, bytes_of, trained_memory
from plumbing.plan.memory import number_bytes
from qa.data.dataset import QADataset, drop_overlap

ANSWER_TOKENS = 8  # of a question, where the data are not at hand


@dataclass(frozen=True)
class StepSize:
    """The size of one step on one device.

    Attributes:
        passages: P.
        passage_tokens: S, with padding.
        questions: N.
        tokens: T, with padding.
        answer_tokens: A, of all questions together.
    """

    passages: int
    passage_tokens: int
    questions: int
    tokens: int
    answer_tokens: int

    @classmethod
    def most(cls, batching: BatchingSettings) -> StepSize:
        """The largest step that the limits of the batches allow."""
        questions = batching.passages_per_batch * batching.questions_per_passage
        return cls(
            batching.passages_per_batch * batching.gold_passages,
            batching.max_passage_tokens,
            questions,
            batching.max_prompt_tokens,
            questions * min(ANSWER_TOKENS, batching.max_prompt_tokens),
        )

    @classmethod
    def of(cls, examples: Examples, spec: BatchSpec, gold_passages: int = 1) -> StepSize:
        """The size of a batch, whose questions have so many gold passages at most."""
        questions = [index for chunk in spec.chunks for index in chunk.questions]
        passages = [chunk.passage for chunk in spec.chunks]
        return cls(
            len(passages) * gold_passages,
            int(examples.passages.lengths[passages].max()),
            len(questions),
            int(examples.lengths[questions].max()),
            int(examples.answers.lengths[questions].sum()),
        )


@dataclass(frozen=True)
class DataSize:
    """The size of a training's data.

    Attributes:
        steps: Batches of an epoch.
        largest: The step with the most tokens.
        tokens: All tokens of the questions, of training and of validation.
        answer_tokens: Those of their answers.
        passage_tokens: All tokens of the passages.
        questions: The questions.
    """

    steps: int
    largest: StepSize
    tokens: int
    answer_tokens: int
    passage_tokens: int
    questions: int


def data_size(
    dataset: QADataset, tokenizer: Any, batching: BatchingSettings, processes: int = 1
) -> DataSize:
    """Read the data as a training does, and measure its batches.

    Args:
        dataset: The questions and passages.
        tokenizer: The backbone's.
        batching: How batches are made.
        processes: How many processes train together.

    Raises:
        DataError: If a split is missing or empty.
    """
    if batching.drop_overlap and batching.val_split is not None:
        dataset, _ = drop_overlap(dataset, batching.train_split, batching.val_split)

    def read(split: str, limit: int | None, rag: float) -> Examples:
        return Examples(
            *(dataset, split, tokenizer, batching.max_passage_tokens, batching.max_prompt_tokens),
            *(limit, batching.seed, rag, batching.gold_passages),
        )

    examples = read(batching.train_split, batching.train_limit, batching.rag_fraction)
    splits = [examples]
    if batching.val_split is not None:
        splits.append(read(batching.val_split, batching.val_limit, 0.0))
    sampler = GroupedBatchSampler(
        examples.groups,
        examples.lengths,
        batching.passages_per_batch,
        batching.questions_per_passage,
        seed=batching.seed,
        num_replicas=processes,
    )
    sizes = [StepSize.of(examples, spec, batching.gold_passages) for spec in sampler.batches(0)]
    return DataSize(
        len(sampler),
        max(sizes, key=lambda size: (size.questions * size.tokens, size.passage_tokens)),
        sum(int(each.lengths.sum()) for each in splits),
        sum(int(each.answers.lengths.sum()) for each in splits),
        sum(int(each.passages.lengths.sum()) for each in splits),
        sum(len(each) for each in splits),
    )


def training_memory(
    backbone: Backbone,
    hypernet: Hypernet,
    size: StepSize,
    precision: str | int | None = None,
    processes: int = 1,
    cache_frozen: bool | str = False,
    other_passages: int = 0,
    working: int | None = None,
) -> Memory:
    """The memory of a device, without the process itself.

    Args:
        backbone: The backbone, on the meta device unless ``working`` is given.
        hypernet: The hypernetwork, on the same device.
        size: The largest step.
        precision: Lightning's ``precision``.
        processes: How many processes train together.
        cache_frozen: What is cached, as in ``conf/train_hypernet.yaml``.
        other_passages: The most passages of other questions that are injected in training.
        working: What a step makes, in bytes, where that was measured. None counts it.

    Raises:
        ValueError: If the precision is unknown, or if a step of this hypernetwork cannot be counted
            on the meta device (`is_counted`) and was not measured.
    """
    trained = [each for each in hypernet.parameters() if each.requires_grad]
    numbers = sum(each.numel() for each in trained)
    memory = trained_memory(numbers, precision, processes)
    fixed = [each for each in hypernet.parameters() if not each.requires_grad]
    buffers = bytes_of([*fixed, *hypernet.buffers()])
    frozen = bytes_of([*backbone.model.parameters(), *backbone.model.buffers()])
    if working is None:
        whole = step_peak(backbone, hypernet, size, precision, cache_frozen, other_passages)
        working = max(0, whole - memory.gradients)
    return replace(
        memory,
        frozen=frozen,
        trained=memory.trained + buffers,
        cached=_cached(backbone, hypernet, size, cache_frozen),
        working=memory.working + working,
    )


def _cached(
    backbone: Backbone, hypernet: Hypernet, size: StepSize, cache_frozen: bool | str
) -> int:
    """The bytes of the cached states of one step on the device."""
    state = backbone.d_model * backbone.dtype.itemsize
    layers = len(hypernet.looks.layers) if hypernet.looks else 0
    passages = size.passages * size.passage_tokens if hypernet.reads_layer is not None else 0
    if cache_frozen == "answers":
        longest = -(-size.answer_tokens // size.questions)
        return state * (size.questions * longest * (1 + layers) + passages)
    return state * (size.questions * size.tokens + passages) if cache_frozen else 0


def cached_bytes(
    backbone: Backbone, hypernet: Hypernet, size: DataSize, cache_frozen: bool | str
) -> int:
    """The bytes that cached states take on the disk (`genpoe.training.frozen_states`)."""
    if not cache_frozen:
        return 0
    state = backbone.d_model * backbone.dtype.itemsize
    half = backbone.d_model * min(2, backbone.dtype.itemsize)  # of the passages' states
    passages = half * size.passage_tokens if hypernet.reads_layer is not None else 0
    if cache_frozen == "answers":
        layers = len(hypernet.looks.layers) if hypernet.looks else 0
        return state * size.answer_tokens * (1 + layers) + passages
    return state * (size.tokens - size.questions) + passages  # the last token is never read


def checkpoint_bytes(hypernet: Hypernet, precision: str | int | None, kept: int = 0) -> int:
    """The most bytes that checkpoints take on the disk at a time.

    While one is written, there are that one, ``last.ckpt`` and ``last.previous.ckpt``, each with
    the weights and AdamW's two running means.

    Args:
        hypernet: The hypernetwork.
        precision: Lightning's ``precision``.
        kept: Checkpoints that are kept besides, for their score.
    """
    number, _ = number_bytes(precision)
    trained = sum(each.numel() for each in hypernet.parameters() if each.requires_grad)
    others = bytes_of([p for p in hypernet.parameters() if not p.requires_grad])
    return (3 + kept) * (3 * trained * number + others + bytes_of(hypernet.buffers()))


def is_counted(hypernet: Hypernet) -> bool:
    """Whether a step can be counted on the meta device.

    Experts that look at more than the FFN's input choose by the words that they see, and on the
    meta device there are none.
    """
    return hypernet.looks is None


def step_peak(
    backbone: Backbone,
    hypernet: Hypernet,
    size: StepSize,
    precision: str | int | None = None,
    cache_frozen: bool | str = False,
    other_passages: int = 0,
) -> int:
    """Count the most bytes that one training step makes, with the gradients, on the meta device.

    Args:
        backbone: The backbone on the meta device.
        hypernet: The hypernetwork on the meta device. Its parameters get gradients.
        size: The size of the step.
        precision: Lightning's ``precision``.
        cache_frozen: What is cached; with "answers" only the last FFN is computed.
        other_passages: The most passages of other questions that are injected.

    Raises:
        ValueError: If the hypernetwork cannot be counted so.
    """
    if not is_counted(hypernet):
        raise ValueError(
            f"a step of {type(hypernet).__name__} cannot be counted on the meta device, since its "
            "experts look at the words; measure it with the backbone's weights at hand"
        )
    number, _ = number_bytes(precision)
    if number == 2:
        hypernet.to(torch.bfloat16)
    hypernet.zero_grad(set_to_none=True)
    # Other passages give each question a set of its own; else the questions of a passage share one.
    sets, count = (size.questions, 1 + other_passages) if other_passages else (size.passages, 1)
    positions = size.answer_tokens if cache_frozen == "answers" else size.questions * size.tokens
    rows = -(-positions // sets) * sets
    final = FinalFFN(backbone) if cache_frozen == "answers" else None
    with PeakMemory() as memory, torch.device("meta"):
        passages = PassageTokens(*(_ids(size.passages, size.passage_tokens) for _ in range(2)))
        with torch.no_grad():
            code = hypernet.encode(passages)
        experts = hypernet.experts(code)
        if other_passages:
            experts = experts.arranged(_ids(sets, count))
        with ExpertLayer(backbone, hypernet.settings.layer).injected(
            experts, torch.ones(sets, count)
        ):
            hidden_AD = _hidden(backbone, rows, size.answer_tokens, final)
        targets_A = _ids(len(hidden_AD))
        functional.cross_entropy(backbone.logits(hidden_AD).float(), targets_A).backward()
    hypernet.zero_grad(set_to_none=True)
    return memory.peak


def _hidden(backbone: Backbone, rows: int, answers: int, final: FinalFFN | None) -> Tensor:
    """Final hidden states ``[A, D]`` where answers are predicted; every token is a row.

    With the last FFN given, nothing below it is computed.
    """
    if final is not None:
        return final.hidden(torch.empty(rows, 1, backbone.d_model, dtype=backbone.dtype))[:, 0]
    hidden_N1D = backbone.hidden_states(_ids(rows, 1), _ids(rows, 1))
    return hidden_N1D[:, 0][_ids(answers)]


def _ids(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.long)
