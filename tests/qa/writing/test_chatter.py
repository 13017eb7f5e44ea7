"""Thinking and chatter around an answer are left out, and a text that looks alike is kept."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qa.writing.chatter import without_chatter, without_thinking
from qa.writing.parse import (
    MalformedAnswerError,
    parse_pairs,
    parse_question,
    parse_rewrite,
    parse_sentence,
)
from retrieval.passage import Passage

SOURCE = (
    "Tollen Bridge was designed by Ines Corvalho and opened in 1874. It crosses the Arle in "
    "Marvick. In 1951 it was widened for trams."
)
PASSAGE = Passage("p", "Tollen Bridge", SOURCE)
REWRITE = (
    "In 1874, Tollen Bridge was opened, which Ines Corvalho had designed. In Marvick it leads over "
    "the Arle. Trams made a wider bridge necessary in 1951."
)
DRAFT = "The bridge was designed by Ines, opened in 1874 and crosses the Arle in Marvick, I think."
PAIRS = '[{"question": "Who designed it?", "answer": "Ines Corvalho"}]'
BAD = '{"question": "When was it closed?", "answer": "1951"}'


@pytest.mark.parametrize(
    "before",
    [
        "<think>\n\n</think>\n\n",
        f"<think>{DRAFT}</think>",
        f"<thinking>\n{DRAFT}\n</thinking>\n",
        f"<reasoning>{DRAFT}</reasoning>",
        f"<THINK>{DRAFT}</THINK>",
        f"<think >{DRAFT}</ think>",
        f"<thought>{DRAFT}</thought>",
        f"<seed:think>{DRAFT}</seed:think>",
        f"[THINK]{DRAFT}[/THINK]",
        f"◁think▷{DRAFT}◁/think▷",
        f"<|begin_of_thought|>{DRAFT}<|end_of_thought|>",
        f"{DRAFT}\n</think>\n\n",  # the chat template has written the first tag
        f"<think>{DRAFT}<think>again</think>{DRAFT}</think>",
        f"<think>{DRAFT}</think><think>{DRAFT}</think>",
        f"Okay. <think>{DRAFT}</think>",
        f"<|channel|>analysis<|message|>{DRAFT}<|end|><|start|>assistant<|channel|>final<|message|>",
    ],
)
def test_thinking_is_left_out(before: str) -> None:
    assert parse_rewrite(before + REWRITE, PASSAGE) == REWRITE
    if "Okay" not in before:
        assert parse_question(before + "Who designed the bridge?", "Ines", PASSAGE) == (
            "Who designed the bridge?"
        )
        assert parse_sentence(before + REWRITE, SOURCE) == REWRITE
    pairs = parse_pairs(before.replace(DRAFT, f"{DRAFT} {BAD} no,") + PAIRS, PASSAGE)
    assert pairs == [("Who designed it?", "Ines Corvalho")]


def test_thinking_behind_the_answer_is_left_out() -> None:
    assert parse_rewrite(f"{REWRITE}\n<think>{DRAFT}</think>", PASSAGE) == REWRITE


@pytest.mark.parametrize(
    "text",
    [f"<think>{DRAFT} {BAD}", f"<think>{DRAFT}</think><think>{BAD}", "<thinking>", "</think>",
     f"<|channel|>analysis<|message|>{DRAFT}", "<think>\n\n</think>"],
)  # fmt: skip
def test_thinking_that_is_cut_off_is_no_answer(text: str) -> None:
    assert without_thinking(text) == ""
    assert parse_pairs(text, PASSAGE) == []
    with pytest.raises(MalformedAnswerError, match="got thinking alone, which is cut off"):
        parse_rewrite(text, PASSAGE)


def test_a_tag_of_the_passage_is_no_thinking() -> None:
    source = "The tag <think> opens a thought in the notes of Ines Corvalho, and </think> ends it."
    text = "In the notes of Ines Corvalho, <think> opens a thought which </think> ends again."
    assert parse_rewrite(text, Passage("p", "", source)) == text


@pytest.mark.parametrize(
    "form",
    [
        "Sure! {}",
        "Sure! Here is the rewritten passage:\n\n{}",
        "Sure! Here is the rewritten passage: {}",
        "Sure thing! Here's a rewritten version:\n{}",
        "Certainly! Here’s the revised text:\n\n{}",
        "Of course, I'd be happy to help.\n\n{}",
        "Here is the rewritten passage:\n\n---\n\n{}\n\n---",
        "Here you go:\n{}",
        "Below is a paraphrase of the passage.\n\n{}",
        "I have rewritten the passage as requested.\n\n{}",
        "Voici le passage réécrit :\n\n{}",
        "以下是改写后的段落：\n{}",
        "### Rewritten Passage\n{}",
        "# Tollen Bridge\n\n{}",
        "**Rewritten Passage**\n\n{}",
        "**Rewritten:** {}",
        "**Rewritten passage:**\n{}",
        "Rewrite: {}",
        "Passage: {}",
        "_Revised version of the passage:_ {}",
        "{}\n\n(Note: I kept all names.)",
        "{} (Note: I kept all names.)",
        "{}\n\n**Note:** the dates are the same.",
        "{}\n\nNote: the dates are the same. Nothing was lost.",
        "{}\n\nLet me know if you need anything else!",
        "{} Let me know if you need anything else!",
        "{}\n\nI hope this helps!",
        "{}\n\nWould you like another version?",
        "{}\n\nThis version keeps the names and preserves the meaning.",
        "{}\n\n### Key changes:\n- the order\n- the verbs",
        "```\n{}\n```",
        "```text\n{}\n```",
        "```{}```",
        "```markdown\n{}",
        "~~~\n{}\n~~~",
        "Here is the rewrite:\n```\n{}\n```\nI hope this helps.",
        '"{}"',
        "“{}”",
        "«{}»",
        "「{}」",
        "**{}**",
        "> {}",
        "<answer>{}</answer>",
        "Sure!\n<rewritten_passage>\n{}\n</rewritten_passage>\nI hope this helps.",
        '{"rewrite": "{}"}',
        '```json\n{"rewritten_passage": "{}"}\n```',
        "{}<|return|>",
        "<|im_start|>{}<|im_end|>",
        "{}</s>",
        "Assistant: {}",
        "As requested, here is a paraphrase of the passage.\n\n{}",
        'Sure! Here it is:\n\n"{}"\n\n(Note: all names are the same.)\n\nLet me know!',
    ],
)
def test_chatter_around_a_rewrite_is_left_out(form: str) -> None:
    assert parse_rewrite(form.replace("{}", REWRITE), PASSAGE) == REWRITE


@pytest.mark.parametrize(
    ("source", "rewrite"),
    [
        (
            '"Sure," said Tom, "I will come to Marvick in May." Ines laughed.',
            '"Sure, in May I will come to Marvick," Tom said. Ines had to laugh.',
        ),
        (
            "Sure! was the name of a magazine that Tom Hagen founded in Marvick in 1951.",
            "Sure! A magazine of that name was founded by Tom Hagen in 1951 in Marvick.",
        ),
        (
            "The manual of 1951 ends with a warning. Note: the bridge may not bear trams.",
            "A warning ends the manual of 1951. Note: trams may be too heavy for the bridge.",
        ),
        (
            "Here are the three rivers of Marvick: the Toll, the Arle and the Ruun.",
            "Here are the rivers that Marvick has, three of them: the Arle, the Ruun and the Toll.",
        ),
        (
            "The version of the text in Marvick keeps the original spelling. It is from 1874.",
            "It is from 1874. The text's version in Marvick keeps the spelling of the original.",
        ),
        (
            "I have kept the letters of Ines in Marvick since 1951. I hope that they will be read.",
            "Since 1951, the letters of Ines have been in Marvick. I hope that people read them.",
        ),
        (
            'He wrote to her: "If you need further help, let me know." She never answered Tom.',
            '"Let me know if you need further help," he wrote. She never gave Tom an answer.',
        ),
        (
            "The passage of the Arle through Marvick takes an hour. A text from 1874 says so.",
            "It takes an hour to pass through Marvick on the Arle. The text of 1874 says so.",
        ),
        (
            '"Yes," said Ines Corvalho in 1874. Tom asked her again. "No," she said.',
            '"Yes," Ines Corvalho replied in 1874. Asked again by Tom, she answered, "No."',
        ),
        (
            "In Markdown, ``` begins and ends a block of code. Ines Corvalho wrote that in 1951.",
            "Ines Corvalho wrote in 1951 that ``` begins and ends blocks of code in Markdown.",
        ),
        (
            "This is the text of the treaty that ended the war in Marvick in 1951.",
            "This is the text that ended the war in Marvick: the treaty of 1951.",
        ),
    ],
)
def test_a_text_that_looks_like_chatter_is_kept(source: str, rewrite: str) -> None:
    assert parse_rewrite(rewrite, Passage("p", "", source)) == rewrite
    assert parse_rewrite(
        f"Here is the rewritten passage:\n\n{rewrite}", Passage("p", "", source)
    ) == (rewrite)


@given(st.text(), st.text())
def test_any_answer_is_read_without_an_error(text: str, source: str) -> None:
    without_chatter(without_thinking(text, source), source)


@pytest.mark.parametrize(
    "part",
    [
        *("<think>", "</think>", "```\n", "Sure! ", "Note: ", "> ", "a " * 9),
        *("<a>", "{", "<|a|>", "</s>"),
    ],
)
def test_the_longest_chatter_is_read_in_no_time(part: str) -> None:
    start = time.perf_counter()
    without_chatter(without_thinking(part * 3000), SOURCE)
    assert time.perf_counter() - start < 5
