"""Reads pairs and rewrites from a model's answers, and repairs them where that is safe.

Small models wrap lists in prose, forget brackets and quotes, leave commas behind, break lines
within a string, repeat themselves and are cut off in mid-sentence. Everything that can be read
without guessing is read. The rest is left out, or raises `MalformedAnswerError`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from qa.metrics import f1_score, normalize_answer
from qa.writing.chatter import without_chatter, without_thinking
from qa.writing.objects import find_objects
from qa.writing.sentences import count_words, invented, lost, split_sentences
from retrieval.answers import holds_answer
from retrieval.passage import Passage

Pair = tuple[str, str]

_Q = r"(?:q(?:uestion)?|问题?|問題?|質問|frage|pregunta|pergunta|domanda|вопрос)"
_A = r"(?:a(?:nswer)?|答案?|回答|antwort|respuesta|resposta|risposta|réponse|ответ)"
_LABELLED = re.compile(
    rf"^[\s\d.)\-*]*{_Q}\s*\d*\W{{0,3}}[:：]\s*(?P<question>[^\n]+?)\s*$"
    rf"\s*^[\s\d.)\-*]*{_A}\s*\d*\W{{0,3}}[:：]\s*(?P<answer>[^\n]+?)\s*$",
    re.IGNORECASE | re.MULTILINE,
)
_ON_ONE_LINE = re.compile(
    rf"^[\s\d.)\-*]*{_Q}\s*\d*\W{{0,3}}[:：]\s*(?P<question>[^\n]+?[?？؟])[ \t*_|/-]*"
    rf"{_A}\s*\d*\W{{0,3}}[:：]\s*(?P<answer>[^\n]+?)\s*$",
    re.IGNORECASE | re.MULTILINE,
)
_NUMBERED = re.compile(
    r"^\s*(?:\d+[.)、]|[-*•])\s*(?P<question>[^\n?？؟]+[?？؟])[*_]*"
    rf"(?:\s*\n\s*|[ \t]*[-–—:：][ \t]*|[ \t]+)(?:[-*•>–—]\s*|(?:[*_]*{_A}\W{{0,3}}[:：])\s*)?"
    r"(?P<answer>(?!\d+[.)、])[^\n]*[^\n?？؟\s])\s*$",
    re.IGNORECASE | re.MULTILINE,
)
_KEY = re.compile(rf"(?:(?P<q>{_Q})|(?P<a>{_A}))[ _-]?(?P<number>\d*)", re.IGNORECASE)
_ASKS = "?？؟⸮՞፧"  # question marks of several scripts
_GREEK = re.compile("[\u0370-\u03ff\u1f00-\u1fff]")  # its question mark looks like a semicolon
_FULL = re.compile("[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")  # scripts with a wide "？"
_CLOSING = "\"'”’»」』）)]"
_STOPS = tuple(".!?。！？．｡…؟۔।॥።။។")
_MAX_ANSWER_WORDS = 24
_LENGTHS = 0.4, 2.0  # the least and the most words of a rewrite, as shares of the source's words
_MIN_OVERLAP = 0.25  # the least token F1 with the passage; below, a rewrite is about something else
_MIN_QUESTION_WORDS = 3


class MalformedAnswerError(ValueError):
    """A model's answer does not hold what was asked for; the message says what is missing."""


def find_pairs(text: str) -> list[Pair]:
    """Find all question-answer pairs in a model's answer.

    The pairs are JSON objects or, if there are none, lines ``Q: …`` and ``A: …``. A list that is
    cut off, or lacks a comma or bracket, gives the objects that are complete. Keys may be in upper
    or lower case. An answer may be a number, or a list of texts and numbers. The items of a list
    are joined, because each of them may be a part of the answer.
    """
    pairs = [pair for found in find_objects(text) for pair in _pairs_of(found)]
    found = [(q, _answer_text(a)) for q, a in pairs if isinstance(q, str) and _answer_text(a)]
    for form in (_LABELLED, _ON_ONE_LINE, _NUMBERED):
        found = found or [(m["question"], m["answer"]) for m in form.finditer(text)]
    return [(_clean(question), _clean(answer)) for question, answer in found]


def parse_pairs(text: str, passage: Passage, prompt: str = "") -> list[Pair]:
    """Find the usable pairs in a model's answer.

    Args:
        text: The model's answer.
        passage: The passage that the answer is about.
        prompt: A text with the prompt's examples. A question that only repeats one of them is left
            out.

    Returns:
        Pairs with different questions, possibly none. The pairs whose answers stand in the passage
        come first; apart from that, the order is that of the model's answer.
    """
    taken = {normalize_answer(question) for question, _ in find_pairs(prompt)}
    usable: list[Pair] = []
    for question, answer in find_pairs(without_thinking(text, passage.text)):
        key = normalize_answer(question)
        if key and key not in taken and _answers(question, answer):
            taken.add(key)
            usable.append((_asked(question), answer))
    return sorted(usable, key=lambda pair: not holds_answer(passage.text, [pair[1]]))


def parse_question(text: str, answer: str, passage: Passage) -> str:
    """Read the question that a model wrote for a given answer.

    Args:
        text: What the model wrote.
        answer: The answer that the question must have.
        passage: The passage that the question must be about.

    Raises:
        MalformedAnswerError: If there is no question, if it gives the answer away, or if it has a
            name or number that neither the passage nor its title has.
    """
    text = without_thinking(text, passage.text)
    question, mark, *_ = [
        *re.split("([?？؟])", _clean(text.strip().split("\n")[0]), maxsplit=1),
        "",
    ]
    question = re.sub(rf"^{_Q}\s*[:：]\s*", "", question, flags=re.IGNORECASE).strip() + mark
    long = len(question.split()) > _MAX_ANSWER_WORDS
    if not mark or long or count_words(question) < _MIN_QUESTION_WORDS:
        raise MalformedAnswerError(f"expected a question, got {question[:80]!r}")
    if holds_answer(question, [answer]):
        raise MalformedAnswerError(f"expected a question without its answer, got {question!r}")
    if unknown := invented(question, [passage.title, passage.text]):
        raise MalformedAnswerError(
            f"expected a question about the passage, got one about {', '.join(sorted(unknown))}"
        )
    return question


def parse_sentence(text: str, source: str) -> str:
    """Read a sentence that a model wrote in other words.

    Args:
        text: What the model wrote.
        source: The original sentence.

    Raises:
        MalformedAnswerError: If the new sentence has lost or invented a name or number, or is far
            shorter or longer than the original.
    """
    sentence = _clean(without_thinking(text, source).strip().split("\n")[0])
    if wrong := lost(sentence, source) | invented(sentence, [source]):
        raise MalformedAnswerError(
            f"expected the names and numbers of the sentence, got a difference in "
            f"{', '.join(sorted(wrong))}"
        )
    _check_length(sentence, source)
    return sentence


def parse_rewrite(text: str, passage: Passage) -> str:
    """Read the rewrite in a model's answer.

    Thinking, chatter, repeated sentences, and a last sentence that is cut off are removed.

    Raises:
        MalformedAnswerError: If `check_rewrite` refuses the rewrite.
    """
    said = without_thinking(text, passage.text)
    if text.strip() and not said.strip():
        raise MalformedAnswerError("expected a rewrite, got thinking alone, which is cut off")
    return check_rewrite(_distinct_sentences(without_chatter(said, passage.text)), passage)


def check_rewrite(rewrite: str, passage: Passage) -> str:
    """Check that a text can be a rewrite of a passage, and return it unchanged.

    Raises:
        MalformedAnswerError: If the text is far shorter or longer than the passage, is about
            something else, or repeats the passage.
    """
    _check_length(rewrite, passage.text)
    overlap = f1_score(rewrite, [passage.text])
    same = normalize_answer(rewrite) == normalize_answer(passage.text)
    if same or overlap < _MIN_OVERLAP:
        raise MalformedAnswerError(
            "expected the passage in other words, got a text whose token F1 with the passage is "
            f"{overlap:.0%}"
        )
    return rewrite


def _check_length(text: str, source: str) -> None:
    words, wanted = count_words(text), count_words(source)
    low, high = (share * wanted for share in _LENGTHS)
    if not low <= words <= high:
        raise MalformedAnswerError(f"expected {low:.0f} to {high:.0f} words, got {words}")


def _answer_text(value: Any) -> str:
    """Turn an answer that is a text, a number or a list of these into a text; else return "".

    It may also be an object with such an answer in it, as in ``{"text": "Lisbon"}``.
    """
    if isinstance(value, dict):
        named = [value[key] for key in ("text", "answer", "value") if key in value]
        value = named[0] if named else next(iter(value.values())) if len(value) == 1 else None
    if isinstance(value, list):
        parts = [_answer_text(part) for part in value if not isinstance(part, list)]
        return ", ".join(parts) if len(parts) == len(value) and all(parts) else ""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, float):
        return str(value) if math.isfinite(value) else ""
    return str(value) if type(value) is int else ""


def _pairs_of(found: Mapping[str, Any]) -> Iterator[tuple[Any, Any]]:
    """The questions of an object and their answers, by the numbers of their keys."""
    named: dict[str, dict[str, Any]] = {}
    for key, value in found.items():
        if match := _KEY.fullmatch(key.strip()):
            named.setdefault(match["number"], {})["q" if match["q"] else "a"] = value
    yield from ((each["q"], each["a"]) for each in named.values() if len(each) == 2)


def _asked(question: str) -> str:
    """A question with one question mark at its end, of the script that it is written in."""
    question = re.sub(f"([{_ASKS}])[{_ASKS}]+$", r"\1", question)
    end = question.rstrip(_CLOSING + " ")[-1:]
    if end in _ASKS or (end in ";\u037e" and _GREEK.search(question)):
        return question
    if _FULL.search(question[-2:]):
        return f"{question.rstrip('。．｡')}？"
    return f"{question}?"


def _clean(text: str) -> str:
    text = " ".join(text.split()).strip("*_` ")
    is_quoted = len(text) > 1 and text[0] + text[-1] in ('""', "“”")
    return text[1:-1].strip() if is_quoted else text


def _answers(question: str, answer: str) -> bool:
    """True if an answer has words, has not too many, and does not repeat the question."""
    normal = normalize_answer(answer)
    return (
        bool(normal)
        and len(answer.split()) <= _MAX_ANSWER_WORDS
        and count_words(answer) <= 2 * _MAX_ANSWER_WORDS
        and (normal != normalize_answer(question))
    )


def _distinct_sentences(text: str) -> str:
    """The sentences of a text in their order, each once, on one line.

    A last sentence that is cut off is left out, unless it is the only one.
    """
    sentences = [
        (part, "" if number else " ")
        for sentence in split_sentences(" ".join(_WRAPPED.sub("", text).split()))
        for number, part in enumerate(filter(None, _WIDE_END.split(sentence)))
    ]
    if len(sentences) > 1 and not sentences[-1][0].rstrip(_CLOSING).endswith(_STOPS):
        sentences.pop()
    distinct: dict[str, str] = {}
    for part, gap in sentences:
        distinct.setdefault(part, gap)
    return "".join(f"{gap}{part}" for part, gap in distinct.items()).strip()


# Where a sentence ends in a script without spaces, and where a line was broken in one.
_WIDE_END = re.compile(r"(?<=[。！？｡][”’」』）])|(?<=[。！？｡])(?![”’」』）])")
_WIDE = "\u3000-\u30ff\u3400-\u9fff\uff00-\uffef"
_WRAPPED = re.compile(rf"(?<=[{_WIDE}])[^\S\n]*\n\s*(?=[{_WIDE}])")
