"""Lessons, their instances, and how the model reads them."""

from __future__ import annotations

import json

import pytest

from backbone.tokens import encode_answer, encode_prompt
from dmoe.training.instances import Encoded, encode, encode_all
from dmoe.training.lessons import (
    Instance,
    InstancesError,
    Lesson,
    lessons_from_augmentation,
    lessons_from_questions,
)
from plumbing.storage.jsonl import DataError
from qa.data.bios import generate
from qa.prompts import build_prompt
from retrieval.passage import Passage

PASSAGE = Passage("p", "Tova Blick", "Tova Blick was born in Lisbon.")
LESSON = Lesson(PASSAGE, (("Where was she born?", "Lisbon"), ("Who?", "Tova")), "In Lisbon.")


def test_formats():
    assert LESSON.instances(["qa"]) == [
        Instance(build_prompt("Where was she born?"), "Lisbon"),
        Instance(build_prompt("Who?"), "Tova"),
    ]
    behind = LESSON.instances(["qa_with_rewrite"])
    assert behind[1] == Instance(
        build_prompt("Who?", [Passage("p", "Tova Blick", "In Lisbon.")]), "Tova"
    )
    assert LESSON.instances(["passage", "rewrite"]) == [
        Instance("", PASSAGE.text),
        Instance("", "In Lisbon."),
    ]
    assert len(LESSON.instances(["qa_with_passage", "qa_with_rewrite", "qa"])) == 6


def test_without_a_rewrite_its_instances_are_left_out():
    lesson = Lesson(PASSAGE, LESSON.pairs)
    assert lesson.instances(["rewrite", "qa_with_rewrite", "qa"]) == LESSON.instances(["qa"])


@pytest.mark.parametrize("formats", [[], ["qa", "qa"], ["cot"]])
def test_formats_are_checked(formats):
    with pytest.raises(InstancesError, match=r"formats must be some of qa, .* set form"):
        LESSON.instances(formats)


def test_labels_of_the_answer_and_of_all(tiny_tokenizer):
    instance = Instance("Question: Where?\nAnswer:", "Lisbon")
    prompt = encode_prompt(tiny_tokenizer, instance.prompt)
    answer = encode_answer(tiny_tokenizer, "Lisbon")
    assert encode(tiny_tokenizer, instance, "answer", 99) == Encoded(
        (*prompt, *answer), len(prompt)
    )
    assert encode(tiny_tokenizer, instance, "all", 99) == Encoded((*prompt, *answer), 1)
    text = encode(tiny_tokenizer, Instance("", "Lisbon"), "answer", 99)
    assert text == Encoded(tuple(answer), 1)


def test_what_is_too_long_is_cut(tiny_tokenizer):
    instance = Instance("Question: Where?\nAnswer:", "Lisbon by the sea")
    prompt = encode_prompt(tiny_tokenizer, instance.prompt)
    answer = encode_answer(tiny_tokenizer, instance.answer)
    size = len(answer) + 3
    cut = encode(tiny_tokenizer, instance, "answer", size)
    assert cut == Encoded((*prompt[-3:], *answer), 3)  # the prompt's beginning is cut first
    shorter = encode(tiny_tokenizer, instance, "answer", 3)
    assert shorter == Encoded((prompt[-1], *answer[:2]), 1)


def test_what_has_nothing_to_predict_is_left_out():
    class Blank:
        """A tokenizer that gives no token for a space."""

        eos_token_id = 2

        def __call__(self, text, **_):
            return {"input_ids": [ord(char) for char in text.strip()]}

    empty = Instance("", "")  # the answer has only an end token
    assert encode(Blank(), empty, "all", 9) is None
    assert len(encode_all(Blank(), [empty, Instance("a", "b")], "all", 9)) == 1


def test_questions_of_each_passage_in_two_halves():
    dataset = generate(train_entities=4, dev_entities=2, distractor_entities=0)
    whole = lessons_from_questions(dataset, "train")
    even, odd = (lessons_from_questions(dataset, "train", part) for part in ("even", "odd"))
    assert len(whole) == 4
    for lesson, first, second in zip(whole, even, odd, strict=True):
        assert lesson.passage == first.passage == second.passage
        assert len(lesson.pairs) == 6
        assert lesson.pairs[::2] == first.pairs
        assert lesson.pairs[1::2] == second.pairs
    with pytest.raises(InstancesError, match=r"part must be one of all, even, odd, got 'half'"):
        lessons_from_questions(dataset, "train", "half")
    with pytest.raises(DataError, match="has no split 'other'"):
        lessons_from_questions(dataset, "other")


def test_namesakes_have_lessons_of_their_own():
    sizes = {f"{group}_entities": 0 for group in ("train", "dev", "distractor", "unseen")}
    dataset = generate(**sizes, test_entities=4, namesakes=2)
    lessons = lessons_from_questions(dataset, "test")
    assert [lesson.passage.id for lesson in lessons] == list(dataset.passages)
    assert len(lessons) == 4 * 3
    for lesson in lessons:
        assert len(lesson.pairs) == 6
        assert all(answer in lesson.passage.text for _, answer in lesson.pairs)


def write(tmp_path, *rows):
    path = tmp_path / "augmentation.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def test_augmentations_are_read(tmp_path):
    path = write(
        tmp_path,
        {
            "passage_id": "p",
            "rewrite": "In Lisbon.",
            "qa": [{"question": q, "answer": a} for q, a in LESSON.pairs],
        },
        {"passage_id": "q", "rewrite": " ", "qa": [], "model": "x"},
        {"passage_id": "r", "rewrite": None, "qa": []},
    )
    others = {id: Passage(id, "", "text") for id in "qr"}
    lessons = list(lessons_from_augmentation(path, {"p": PASSAGE, **others}))
    assert lessons == [LESSON, Lesson(others["q"], ()), Lesson(others["r"], ())]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"passage_id": "x", "qa": []}, "names 'x', which is not in the corpus"),
        ({"passage_id": "p", "qa": [], "rewrite": 3}, "'rewrite' must be a text or null"),
        ({"passage_id": "p", "qa": "none"}, "'qa' must be a list of objects"),
        ({"passage_id": "p", "qa": [["Who?", "Tova"]]}, "'qa' must be a list of objects"),
        ({"passage_id": "p", "qa": [{"question": "Who?"}]}, r"qa\[0\].*answer"),
        ({"passage_id": "p"}, "qa"),
        ({"qa": []}, "passage_id"),
    ],
)
def test_malformed_augmentations_name_their_line(row, message, tmp_path):
    path = write(tmp_path, row)
    with pytest.raises(DataError, match=message) as error:
        list(lessons_from_augmentation(path, {"p": PASSAGE}))
    assert f"{path}:1" in str(error.value)


def test_a_passage_augmented_twice_is_an_error(tmp_path):
    path = write(tmp_path, *[{"passage_id": "p", "qa": []}] * 2)
    with pytest.raises(DataError, match="passage 'p' is augmented in line 1 already"):
        list(lessons_from_augmentation(path, {"p": PASSAGE}))
