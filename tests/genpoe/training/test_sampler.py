"""Which questions share a batch, in which order, on which rank."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genpoe.training.sampler import BatchSpec, Chunk, GroupedBatchSampler, _deal, _separate


def make_groups(counts: list[int]) -> list[list[int]]:
    ends = np.cumsum(counts).tolist()
    return [list(range(end - count, end)) for count, end in zip(counts, ends, strict=True)]


def make(counts: list[int], **settings: Any) -> GroupedBatchSampler:
    lengths = np.random.default_rng(0).integers(5, 40, sum(counts))
    sizes = {"passages_per_batch": 4, "questions_per_passage": 3} | settings
    return GroupedBatchSampler(make_groups(counts), lengths, **sizes)


def questions(batches: list[BatchSpec]) -> list[int]:
    return [q for batch in batches for chunk in batch.chunks for q in chunk.questions]


@given(
    counts=st.lists(st.integers(0, 12), min_size=1, max_size=40).filter(any),
    passages=st.integers(1, 6),
    per_passage=st.integers(1, 5),
    seed=st.integers(0, 3),
    epoch=st.integers(0, 2),
    shuffle=st.booleans(),
)
@settings(max_examples=200, deadline=None)
def test_an_epoch_holds_every_question_once_and_a_batch_every_passage_once(
    counts: list[int], passages: int, per_passage: int, seed: int, epoch: int, shuffle: bool
) -> None:
    sampler = make(
        counts,
        passages_per_batch=passages,
        questions_per_passage=per_passage,
        seed=seed,
        shuffle=shuffle,
    )
    batches = sampler.batches(epoch)
    assert sorted(questions(batches)) == list(range(sum(counts)))
    assert len(batches) == len(sampler)
    groups = make_groups(counts)
    for batch in batches:
        held = [chunk.passage for chunk in batch.chunks]
        assert 1 <= len(held) == len(set(held)) <= passages
        for chunk in batch.chunks:
            assert 1 <= len(chunk.questions) <= per_passage
            assert set(chunk.questions) <= set(groups[chunk.passage])
        assert batch.num_questions == sum(len(chunk.questions) for chunk in batch.chunks)
    sizes = [len(batch.chunks) for batch in batches]
    assert max(sizes) - min(sizes) <= 1


@given(
    counts=st.lists(st.integers(0, 9), min_size=1, max_size=30).filter(any),
    passages=st.integers(1, 4),
    ranks=st.integers(2, 4),
    epoch=st.integers(0, 2),
)
@settings(max_examples=200, deadline=None)
def test_ranks_share_the_batches_of_one_process(
    counts: list[int], passages: int, ranks: int, epoch: int
) -> None:
    def share(rank: int) -> GroupedBatchSampler:
        return make(counts, passages_per_batch=passages, num_replicas=ranks, rank=rank)

    if np.count_nonzero(counts) < ranks:
        with pytest.raises(ValueError, match="every rank needs a passage"):
            share(0)
        return
    samplers = [share(rank) for rank in range(ranks)]
    steps = list(zip(*(sampler.batches(epoch) for sampler in samplers), strict=True))
    assert {len(sampler) for sampler in samplers} == {len(steps)}
    for step in steps:
        held = [chunk.passage for share in step for chunk in share.chunks]
        assert len(held) == len(set(held))
        assert all(1 <= len(share.chunks) <= passages for share in step)
        total = sum(len(questions([share])) for share in step)
        assert {share.num_questions for share in step} == {total}
        assert step[0].loss_weight == ranks / total
    seen = Counter(questions([share for step in steps for share in step]))
    assert max(seen.values()) == 1
    chunks = sum(len(share.chunks) for step in steps for share in step)
    assert chunks + samplers[0].num_dropped == sum(-(-count // 3) for count in counts)
    if samplers[0].num_dropped == 0:
        assert len(seen) == sum(counts)


def test_two_ranks_make_the_steps_of_one_process_with_twice_the_batch() -> None:
    counts = [3, 7, 2, 1, 9, 4, 4, 6, 2, 5] * 5
    one = make(counts, passages_per_batch=8).batches(1)
    two = [make(counts, num_replicas=2, rank=rank).batches(1) for rank in (0, 1)]
    for whole, *shares in zip(one, *two, strict=True):
        assert sorted(questions([whole])) == sorted(questions(shares))
        assert [share.loss_weight / 2 for share in shares] == [whole.loss_weight] * 2


def test_nothing_is_dropped_where_every_rank_gets_a_share() -> None:
    assert make([1] * 17, num_replicas=4).num_dropped == 0
    assert make([1] * 17, passages_per_batch=1, num_replicas=4).num_dropped == 1
    assert make([50, 1], questions_per_passage=5).num_dropped == 0


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    counts = [3, 1, 4, 1, 5, 9, 2, 6] * 6
    sampler = make(counts, seed=3)
    first = sampler.batches(0)
    assert sampler.batches(1) != first
    assert make(counts, seed=4).batches(0) != first
    assert make(counts, seed=3).batches(0) == first
    fixed = make(counts, shuffle=False)
    assert fixed.batches(0) == fixed.batches(1)


def test_iteration_begins_where_it_was_told() -> None:
    sampler = make([3, 1, 4, 1, 5, 9, 2, 6] * 6)
    whole = sampler.batches(2)
    sampler.seek(2, 5)
    begun = iter(sampler)
    sampler.seek(0)  # touches what comes, not what has begun
    assert list(begun) == whole[5:]
    assert list(sampler) == sampler.batches(0)
    sampler.seek(1, len(sampler))
    assert list(sampler) == []
    with pytest.raises(ValueError, match="expected a batch in"):
        sampler.seek(0, len(sampler) + 1)


def test_sorting_by_length_saves_padding() -> None:
    random = np.random.default_rng(0)
    lengths = random.integers(5, 60, 2000)
    sampler = GroupedBatchSampler([[i] for i in range(2000)], lengths, 16, 1)

    def padding(batches: list[list[int]]) -> float:
        padded = sum(len(batch) * lengths[batch].max() for batch in batches)
        return padded / lengths.sum() - 1

    ours = padding([questions([batch]) for batch in sampler.batches(0)])
    unsorted = padding(np.array_split(random.permutation(2000), 125))  # type: ignore[arg-type]
    assert ours < 0.1 * unsorted
    means = [float(lengths[questions([batch])].mean()) for batch in sampler.batches(0)]
    assert abs(np.corrcoef(means, range(len(means)))[0, 1]) < 0.3  # not from short to long


def test_questions_of_a_passage_are_split_evenly() -> None:
    batches = make([7], questions_per_passage=6).batches(0)
    assert sorted(len(questions([batch])) for batch in batches) == [3, 4]


@pytest.mark.parametrize("name", ["passages_per_batch", "questions_per_passage"])
def test_sizes_must_be_positive(name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name} must be positive, got 0; set {name}$"):
        make([3, 4], **{name: 0})


def test_ranks_must_exist() -> None:
    with pytest.raises(ValueError, match="rank must be in"):
        make([3, 4], num_replicas=2, rank=2)


def test_dealing_is_there_for_what_swapping_cannot_separate() -> None:
    chunks = [Chunk(passage, (index,)) for index, passage in enumerate([0, 0, 0, 1, 1, 1])]
    batches = [chunks[0:2], [chunks[2], chunks[3]], chunks[4:6]]
    if not _separate(batches):
        batches = _deal(chunks, 3)
    assert [{c.passage for c in batch} for batch in batches] == [{0, 1}] * 3
    assert [{c.passage for c in batch} for batch in _deal(chunks, 3)] == [{0, 1}] * 3
