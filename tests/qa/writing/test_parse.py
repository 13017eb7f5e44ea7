"""Parsing of small models' answers: they are repaired if that is safe, and refused otherwise."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmoe.augmentation.prompts import PAPER_EXAMPLE, SMALL_REWRITE
from dmoe.augmentation.tasks import TASK_SETS, task_set
from qa.writing.parse import (
    MalformedAnswerError,
    check_rewrite,
    find_pairs,
    parse_pairs,
    parse_question,
    parse_rewrite,
    parse_sentence,
)
from qa.writing.prompts import BLANK, SMALL_ANSWER, SMALL_QUESTION, Prompt
from qa.writing.sentences import (
    Span,
    answer_spans,
    fronted,
    invented,
    lost,
    names_and_numbers,
    split_sentences,
)
from retrieval.passage import Passage

PASSAGE = Passage(
    "p", "Tova Blick", "Tova Blick was born in Lisbon in 1874 and worked as a surgeon by the sea."
)
THREE = [("Where?", "Lisbon"), ("When?", "1874"), ("As what?", "a surgeon")]

JSON = """[
{"question": "Where?", "answer": "Lisbon", "full_answer": "She was born in Lisbon."},
{"question": "When?", "answer": "1874", "full_answer": "In 1874."},
{"question": "As what?", "answer": "a surgeon", "full_answer": "As a surgeon."}
]"""
LINES = "Q: Where?\nA: Lisbon\nQ: When?\nA: 1874\nQ: As what?\nA: a surgeon"


@pytest.mark.parametrize(
    "text",
    [
        JSON,
        f"Sure! Here is the list:\n```json\n{JSON}\n```\nI hope this helps.",
        JSON.replace('surgeon."}', 'surgeon.",}').replace("\n]", ",\n]"),  # trailing commas
        JSON.removesuffix("]"),  # cut off
        JSON + ',\n{"question": "Why',  # cut off in the next one
        JSON.replace('"', "'"),  # as Python writes it
        JSON.replace('"1874",', "1874,"),  # a number
        JSON.replace("},\n", "}\n"),  # commas forgotten
        JSON.replace('"question"', '"Question"').replace('"answer"', '"ANSWER "'),
        JSON.replace('"', "“"),  # curly quotes
        JSON.replace(': "', ": “").replace('",', "”,").replace('"}', "”}"),  # some curly quotes
        JSON.replace('"', "’").replace("’1874’", "'1874'"),
        JSON.replace("born in Lisbon", "born\nin {Lisbon}"),
        JSON.replace("Where?", "\nWhere?\t").replace("a surgeon", "a\nsurgeon"),
        JSON.replace('"', "'").replace("a surgeon", "a\nsurgeon"),
        JSON.replace("In 1874.", "In } 1874 {."),
        JSON.replace('"', "'").replace("In 1874.", "In } 1874 {."),
        JSON.replace('surgeon."}', 'surgeon}{.",}'),
        JSON.replace("She was born in Lisbon.", "The doctor's."),
        JSON.replace('"Lisbon"', '["Lisbon"]').replace('"1874"', "[1874]"),
        f'{{"pairs": {JSON}, "count": 3}}',
        f'{{"pairs": {JSON}, "cou',
        "{so} " + JSON,
        LINES,
        LINES.replace("Q:", "Question:").replace("A:", "Answer:"),
        LINES.replace("Q:", "1. Q:").replace("A:", "   A:"),
        LINES.replace("Q:", "**Question 1:**").replace("A:", "**Answer:**"),
        LINES.replace("\nQ:", "\n\nQ:") + "\nQ: Why",  # cut off in the next one
        LINES.replace("Q:", "q1:").replace("A:", "a1:"),
        LINES.replace("Lisbon", '"Lisbon"'),
        LINES.replace("Lisbon", "“Lisbon”"),
        LINES.replace("\nA:", " A:"),
        LINES.replace("Q:", "Q1.:").replace("\nA:", " **A1:**"),
        LINES.replace("Q: ", "1. ").replace("A: ", "   "),
        LINES.replace("Q: ", "1) **").replace("?\nA: ", "?** - "),
        LINES.replace("Q: ", "- ").replace("A: ", "  - "),
        LINES.replace("Q:", "问题1：").replace("A:", "答案："),
        JSON.replace('"Lisbon"', '{"text": "Lisbon"}').replace('"1874"', '{"value": 1874}'),
        JSON.replace('"question"', '"Q"').replace('"answer"', '"A"'),
        (
            '{"question1": "Where?", "answer1": "Lisbon", "question_2": "When?", "answer_2": 1874, '
            '"Q3": "As what?", "A3": "a surgeon"}'
        ),
        f"Here are the pairs:\n\n```\n{JSON}",
    ],
)
def test_three_pairs_are_found(text):
    assert find_pairs(text) == THREE


@pytest.mark.parametrize(
    "text", ["", "I am sorry.", "Q: Where?", "A: Lisbon", "[]", "{}", '{"question": 3}', "{" * 5000]
)
def test_nothing_is_found_where_nothing_is(text):
    assert find_pairs(text) == []


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ('"Lisbon"', "Lisbon"),
        ("1874", "1874"),
        ("-2.5", "-2.5"),
        ('["Lisbon", "Porto", 3]', "Lisbon, Porto, 3"),
        *((nothing, None) for nothing in ("null", "NaN", "Infinity", "-Infinity", "1e999")),
        *((nothing, None) for nothing in ("true", "[]", '""', '" "', "{}", '["a", null]', "[[1]]")),
        ("9" * 400, "9" * 400),
        ("9" * 5000, None),
    ],
)
def test_an_answer_is_a_text_a_number_or_a_list_of_them(answer, expected):
    found = find_pairs(f'[{{"question": "Where?", "answer": {answer}}}]')
    assert found == ([("Where?", expected)] if expected else [])


@pytest.mark.parametrize("part", ["{", '{"', '{"a":', '{"a":[', "[{'", "{''", '{"a": "\\'])
def test_the_longest_nonsense_is_read_in_no_time(part):
    start = time.perf_counter()
    assert find_pairs(part * 1000) == []
    assert time.perf_counter() - start < 5


@given(st.text())
def test_any_answer_can_be_read(text):
    parse_pairs(text, PASSAGE)


def test_pairs_whose_answer_stands_in_the_passage_come_first():
    text = "Q: W?\nA: Porto\nQ: X?\nA: lisbon\nQ: Y?\nA: Madrid\nQ: Z?\nA: 1874"
    assert [answer for _, answer in parse_pairs(text, PASSAGE)] == [
        "lisbon",
        "1874",
        "Porto",
        "Madrid",
    ]


def test_unusable_pairs_are_left_out():
    long = "word " * 30
    text = (
        "Q: Where was she born\nA: Lisbon\n"  # the question mark is added
        "Q: Where was she born?\nA: Porto\n"  # the same question was asked before
        "Q: Who designed it?\nA: Corvalho\n"  # the question is an example of the prompt
        f"Q: Long?\nA: {long}\n"
        "Q: Same?\nA: same\n"
        "Q: Nothing?\nA: ...\n"
    )
    pairs = parse_pairs(text, PASSAGE, prompt="For example:\nQ: Who designed it?\nA: Corvalho")
    assert pairs == [("Where was she born?", "Lisbon")]


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("Where was she born", "Where was she born?"),
        ("北京在哪里？", "北京在哪里？"),
        ("北京在哪里??", "北京在哪里?"),
        ("北京在哪里？？", "北京在哪里？"),
        ("北京在哪里", "北京在哪里？"),
        ("首都はどこですか。", "首都はどこですか？"),
        ("أين ولدت؟", "أين ولدت؟"),
        ("Πού γεννήθηκε;", "Πού γεννήθηκε;"),
        ("Πού γεννήθηκε\u037e", "Πού γεννήθηκε\u037e"),
        ("¿Dónde nació?", "¿Dónde nació?"),
        ("¿Dónde nació", "¿Dónde nació?"),
        ("Who wrote “Why?”", "Who wrote “Why?”"),
        ("서울은 어디에 있습니까", "서울은 어디에 있습니까?"),
    ],
)
def test_a_question_ends_with_one_mark_of_its_script(question, expected):
    text = f'[{{"question": "{question}", "answer": "x"}}]'
    assert parse_pairs(text, PASSAGE) == [(expected, "x")]


CHINESE = Passage(
    "z",
    "北京",
    "北京是中华人民共和国的首都，位于华北平原的北部。它有三千多年的建城历史，2008年举办了奥运会。",
)
JAPANESE = Passage(
    "j",
    "東京",
    "東京は日本の首都であり、世界最大の都市圏の一つである。1868年に江戸から改名された。",
)


@pytest.mark.parametrize(
    ("passage", "rewrite"),
    [
        (
            CHINESE,
            "位于华北平原北部的北京，是中华人民共和国的首都。这座城市建城已有三千多年，并于2008年举办过奥运会。",
        ),
        (
            JAPANESE,
            "日本の首都である東京は、世界で最も大きな都市圏の一つだ。江戸という名は1868年に東京へ改められた。",
        ),
    ],
)
def test_a_rewrite_in_a_script_without_spaces_is_accepted_unchanged(passage, rewrite):
    first, second = (f"{part}。" for part in rewrite.split("。")[:2])
    for text in (
        rewrite,
        f"「{rewrite}」",
        f"好的！以下是改写后的段落：\n\n{rewrite}",
        f"{rewrite}\n\n（注：保留了所有名称。）",
        f"{first}\n{second}",
        f"{rewrite}{second}",  # repeats itself
        f"{rewrite}この",  # cut off
    ):
        assert parse_rewrite(text, passage) == rewrite
    for text in (first[:6], rewrite * 3 + passage.text * 3, passage.text):
        with pytest.raises(MalformedAnswerError):
            check_rewrite(text, passage)


def test_a_question_and_a_sentence_in_a_script_without_spaces_are_read():
    assert parse_question("問：首都は東京ですか？東京", "大阪", JAPANESE) == "首都は東京ですか？"
    sentence = "奥运会于2008年在北京举办。"
    assert parse_sentence(sentence, "2008年，北京举办了奥运会。") == sentence
    with pytest.raises(MalformedAnswerError, match="a difference in 2008, 2012"):
        parse_sentence(sentence.replace("2008", "2012"), "2008年，北京举办了奥运会。")


def test_a_request_for_a_text_without_spaces_leaves_room_for_its_answer():
    for name, tasks in TASK_SETS.items():
        (short,) = tasks.rewrite.ask(CHINESE, 0)
        words = len(CHINESE.text) // 2
        assert short.max_new_tokens > words, name


REWRITE = "A surgeon by the sea, Tova Blick came into the world in Lisbon in 1874."


@pytest.mark.parametrize(
    "text",
    [
        REWRITE,
        f'  "{REWRITE}"\n',
        f"Here is a rewritten version of the passage:\n\n{REWRITE}",
        f"Sure, I can do that.\n\nHere's the revised passage: {REWRITE}",
        f"Rewritten passage: {REWRITE}",
        f"{REWRITE} {REWRITE}\n{REWRITE}",  # repeats itself
        f"{REWRITE} Her work in the",  # cut off
    ],
)
def test_a_rewrite_is_read_without_what_is_not_part_of_it(text):
    assert parse_rewrite(text, PASSAGE) == REWRITE


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"expected \d+ to \d+ words, got 0"),
        ("Tova Blick.", r"words, got 2"),
        (" ".join(f"word{i}" for i in range(60)), r"words, got 60"),
        (
            "That quick brown fox jumps over lazy dogs which play violins.",
            r"token F1 with the passage is 0%",
        ),
        (PASSAGE.text, r"expected the passage in other words, .* is 100%"),
        (PASSAGE.text.lower().rstrip("."), r"expected the passage in other words"),
    ],
)
def test_what_is_no_rewrite_is_refused(text, message):
    for read in (parse_rewrite, check_rewrite):
        with pytest.raises(MalformedAnswerError, match=message):
            read(text, PASSAGE)


def test_a_question_is_read():
    for text in ("Where was Tova Blick born?", "Q: Where was Tova Blick born? Lisbon.\nA: Lisbon"):
        assert parse_question(text, "Lisbon", PASSAGE) == "Where was Tova Blick born?"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a question, got ''"),
        ("Lisbon is where.", "expected a question, got 'Lisbon"),
        ("Where?", r"expected a question, got 'Where\?'"),
        ("Was Tova Blick born in Lisbon?", "without its answer"),
        ("Where was Ines Corvalho born in 1999?", "got one about 1999, corvalho, ines"),
    ],
)
def test_what_is_no_question_about_the_passage_is_refused(text, message):
    with pytest.raises(MalformedAnswerError, match=message):
        parse_question(text, "Lisbon", PASSAGE)


def test_a_sentence_keeps_its_names_and_numbers():
    assert parse_sentence(f"{REWRITE}\nAnd so on.", PASSAGE.text) == REWRITE
    for wrong in ("1874", "Lisbon", "Blick"):
        with pytest.raises(MalformedAnswerError, match=f"a difference in {wrong.lower()}$"):
            parse_sentence(REWRITE.replace(wrong, "it"), PASSAGE.text)
    with pytest.raises(MalformedAnswerError, match="a difference in porto"):
        parse_sentence(REWRITE.replace("sea", "sea of Porto"), PASSAGE.text)
    with pytest.raises(MalformedAnswerError, match="words, got 1"):
        parse_sentence("This.", "this is one sentence of some length")


def test_sentences_end_where_they_end():
    text = (
        'The U.S. Navy met J. S. Bach. Dr. Ruiz of St. Louis paid 3.5 million! "Why?" She left '
        "at 5 p.m. in May. (It rained.) Then no. End"
    )
    assert split_sentences(text) == [
        "The U.S. Navy met J. S. Bach.",
        "Dr. Ruiz of St. Louis paid 3.5 million!",
        '"Why?"',
        "She left at 5 p.m. in May.",
        "(It rained.)",
        "Then no.",
        "End",
    ]
    assert split_sentences(" \n ") == []


@given(st.text())
def test_no_word_is_lost_between_sentences(text):
    assert " ".join(" ".join(split_sentences(text)).split()) == " ".join(text.split())
    for span in answer_spans(text):
        assert span.text in text
        assert span.before.removeprefix("… ") in text
        assert span.after.removesuffix(" …") in text


def test_names_and_numbers():
    text = "In 1874 the Arle froze. Nobody from St. Louis saw the 60-story O'Hara tower."
    expected = {"1874", "arle", "st", "louis", "60-story", "o'hara"}
    assert names_and_numbers(text) == expected
    assert lost("The Arle froze in 1874.", text) == expected - {"arle", "1874"}
    assert invented("Did the Arle freeze in Porto in 1875?", [text]) == {"porto", "1875"}


def test_spans_come_from_different_sentences_first():
    text = (
        "Tollen Bridge crosses the Arle in Marvick. It was designed by Ines Corvalho and opened on "
        "12 May 1874. Later 23,410 people came."
    )
    assert [span.text for span in answer_spans(text)] == [
        "Ines Corvalho",  # from here on, spans with a question word
        "23,410",
        "Marvick",
        "12 May 1874",
        "Arle",
        "Tollen Bridge",
    ]
    assert answer_spans(text)[0].context.startswith("It was designed by Ines")
    assert answer_spans("It rained. Nobody came.") == []


def test_where_there_is_no_name_last_words_are_spans():
    text = "He found release from all suffering. It is a form of pain relief. It hurts the most."
    assert [span.text for span in answer_spans(text)] == ["all suffering", "pain relief", "most"]


def test_a_span_is_shown_with_the_words_around_it():
    words = [f"w{i}" for i in range(30)]
    words[20] = "Porto"
    (span,) = answer_spans(" ".join(words))
    assert span.context == "… " + " ".join(words[7:26]) + " …"
    (span,) = answer_spans("w0 Porto w2.")
    assert span.context == "w0 Porto w2."


def test_a_span_is_where_it_stands_and_not_within_another_word():
    (span, *_) = answer_spans("It grew through the 1970s, until it had 70 branches.")
    assert span == ("70", "It grew through the 1970s, until it had ", " branches.")
    (span, *_) = answer_spans("Rather late the art came to the Art Institute.")
    assert span == ("Art Institute", "Rather late the art came to the ", ".")


def test_spans_are_whole():
    text = "The 60-story tower of the 16th century is Nintendo's. About 23,410 saw the U.S. Navy."
    assert [span.text for span in answer_spans(text)] == ["23,410", "Nintendo", "U.S. Navy"]


@pytest.mark.parametrize(
    ("span", "sentence", "word"),
    [
        ("1874", "It opened in 1874.", "When"),
        ("12 May 1874", "It opened on 12 May 1874.", "When"),
        ("May 12, 1874", "It opened on May 12, 1874.", "When"),
        ("23,410", "It had 23,410 inhabitants.", "How many"),
        ("60", "A tower of 60 storeys.", "How many"),
        ("60 per cent", "It has 60 per cent of them.", ""),
        ("Porto", "He lived in Porto.", "Where"),
        ("Ines Corvalho", "Designed by Ines Corvalho.", "Who"),
        ("Ines Corvalho", "It was Ines Corvalho.", ""),
        ("Tollen Bridge", "Tollen Bridge crosses it.", ""),
    ],
)
def test_a_question_begins_as_its_answer_tells(span, sentence, word):
    before, _, after = sentence.partition(span)
    assert Span(span, before, after).question_word == word


def test_a_sentence_begins_anew_with_its_when_or_where():
    assert fronted("It was opened in Porto on 12 May 1874.") == "On 12 May 1874,"
    assert fronted("He moved to Spain and lived in the Old Town of Porto.") == (
        "In the Old Town of Porto,"
    )
    assert fronted("In 1874 it was opened.") == ""  # the sentence begins with it already
    assert fronted("in 1874 it was opened.") == ""
    assert fronted("It rained.") == ""


@pytest.mark.parametrize("name", sorted(TASK_SETS))
def test_prompts_hold_what_they_ask_about_as_it_is(name):
    tasks = task_set(name)
    odd = 'braces {passage} {0} and "quotes" \\n of Lisbon'
    passage = Passage("p", "{title}", odd)
    for request in [*tasks.rewrite.ask(passage, 1), *tasks.pairs.ask(passage, 0)]:
        roles = [role for role, _ in request.messages]
        assert roles == ["user", "assistant"] * (len(roles) // 2) + ["user"]
        assert odd.replace("Lisbon", BLANK) in request.messages[-1][1].replace("Lisbon", BLANK)
        assert request.max_new_tokens > 8


def test_the_papers_prompts_are_the_papers():
    tasks = task_set("paper")
    (rewrite,), (pairs,) = tasks.rewrite.ask(PASSAGE, 0), tasks.pairs.ask(PASSAGE, 0)
    assert rewrite.messages[0][1].startswith("Rewrite the following passage. While keeping the ent")
    assert f"format:\n{PAPER_EXAMPLE}\nThis list should have at least" in pairs.messages[0][1]
    assert find_pairs(PAPER_EXAMPLE) == [("What is the capital of France?", "Paris")]
    assert parse_pairs(PAPER_EXAMPLE, PASSAGE, PAPER_EXAMPLE) == []


def test_the_examples_of_the_small_prompts_pass_their_own_checks():
    for slots, answer in SMALL_REWRITE.shots:
        assert parse_sentence(answer, slots["sentence"]) == answer
    for slots, answer in SMALL_QUESTION.shots:
        passage = Passage("p", slots["title"], slots["text"])
        assert BLANK in slots["text"]
        assert parse_question(answer, "never said", passage) == answer
    for slots, answer in SMALL_ANSWER.shots:
        assert answer in slots["text"]
        assert answer not in slots["question"]


def test_a_slot_is_filled_once():
    prompt = Prompt("{a} and {b}", max_new_tokens=5, tokens_per_word=2.0)
    request = prompt.request({"a": "{b}", "b": "x"}, words=3, attempt=1)
    assert request.messages == (("user", "{b} and x"),)
    assert (request.max_new_tokens, request.attempt) == (11, 1)


def test_unknown_prompts_are_an_error():
    with pytest.raises(ValueError, match=r"one of paper, small, got 'big'; set prompts"):
        task_set("big")
