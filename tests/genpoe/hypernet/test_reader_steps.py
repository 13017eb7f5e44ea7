"""What is kept from token to token is what would be computed anew."""

from __future__ import annotations

from itertools import pairwise

import torch

from genpoe.experts import Around
from genpoe.hypernet.reader import ReaderHypernet
from genpoe.hypernet.reader_steps import ReaderInSteps
from tests.helpers.tiny_reader import make_reader

TEXTS = [
    "Read.\nQuestion: Where was Tova Blick born?\nAnswer: Lisbon\nQuestion: the sea?\nAnswer: a b",
    "\nAnswer: the quick\nQuestion:\nAnswer: fox jumps over the lazy dog and violins play: so",
]


def read(ids, mask, upto):
    return Around(ids[:, :upto], mask[:, :upto], ())


def test_the_questions_part_of_the_query_is_as_if_it_were_computed_anew(tiny_backbone):
    genpoe = make_reader(tiny_backbone)
    reader = genpoe.hypernet
    assert isinstance(reader, ReaderHypernet)
    rows = [tiny_backbone.tokenizer(text)["input_ids"] for text in TEXTS]
    length = min(map(len, rows))
    ids = torch.tensor([row[-length:] for row in rows])
    mask = torch.ones_like(ids)
    mask[1, :3] = 0
    steps = ReaderInSteps(reader)
    kept, seen = 0, []
    with torch.inference_mode():
        for upto in range(5, length + 1):
            before = steps._asked
            found = steps.asked(read(ids, mask, upto), 1)
            kept += found is before
            fresh = reader.asked(read(ids, mask, upto), 1)
            assert fresh is not None
            torch.testing.assert_close(found, fresh)
            seen.append(fresh)
        several = steps.asked(read(ids, mask, length), 4)
        assert several is not None
        assert several.shape[1] == 4
        again = steps.asked(read(ids, mask, length), 1)
        torch.testing.assert_close(again, fresh)
    assert 3 < kept < length - 8
    assert any(not torch.allclose(a, b) for a, b in pairwise(seen))


def test_another_text_of_the_right_length_is_read_anew(tiny_backbone):
    """Two texts are decoded in turns under one injection."""
    reader = make_reader(tiny_backbone).hypernet
    assert isinstance(reader, ReaderHypernet)
    steps = ReaderInSteps(reader)
    texts = [
        "Question: Where was Tova Blick born?\nAnswer: a b c d",
        "Question: the old sea?\nAnswer:",
    ]
    rows = [tiny_backbone.tokenizer(text)["input_ids"] for text in texts]
    rows[1] += [9] * (len(rows[0]) - len(rows[1]))
    one, other = (torch.tensor([row]) for row in rows)
    ones = torch.ones_like(one)
    with torch.inference_mode():
        for upto in range(len(rows[0]) - 3, len(rows[0]) + 1):
            ids = (one, other)[upto % 2]
            found = steps.asked(read(ids, ones, upto), 1)
            fresh = reader.asked(read(ids, ones, upto), 1)
            assert found is not None
            assert fresh is not None
            torch.testing.assert_close(found, fresh)


def test_the_one_map_is_the_two(tiny_backbone):
    reader = make_reader(tiny_backbone).hypernet
    assert isinstance(reader, ReaderHypernet)
    writer = reader.writer
    read_MD, stream, output = torch.randn(3, 5, tiny_backbone.d_model)
    torch.testing.assert_close(
        writer(read_MD, stream, output, writer.whole()),
        writer(read_MD, stream, output),
        rtol=1e-4,
        atol=1e-4,
    )
