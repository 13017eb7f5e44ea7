"""Scripts without spaces: characters are tokens there, and every other text is as it was."""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qa.data.dataset import Question
from qa.metrics import exact_match, f1_score, normalize_answer
from qa.passages.containment import answers_question
from qa.passages.retrieved import OracleNegativeError, check_oracle_negatives
from qa.passages.source import Selection
from retrieval.answers import answer_tokens, holds_answer
from retrieval.passage import Passage
from retrieval.unspaced import fold_width, spaced

CONTAINED = [
    ("北京是首都", "北京"),
    ("他在北京市工作。", "北京市"),
    ("東京は日本の首都です。", "日本"),
    ("トヨタ自動車は愛知県にある", "愛知県"),
    ("กรุงเทพเป็นเมืองหลวง", "กรุงเทพ"),
    ("ນະຄອນຫຼວງວຽງຈັນ", "ວຽງຈັນ"),
    ("រាជធានីភ្នំពេញជា", "ភ្នំពេញ"),
    ("ရန်ကုန်မြို့သည်", "ရန်ကုန်"),
    ("ལྷ་ས་གྲོང་ཁྱེར", "ལྷ་ས"),
    ("NBA球员姚明生于1980年", "姚明"),
    ("NBA球员姚明生于1980年", "NBA"),
    ("NBA球员姚明生于1980年", "1980"),
    ("奥运会在２００８年举行", "2008年"),
    ("奥运会在2008年举行", "２００８年"),
    ("ﾄﾖﾀは大きい", "トヨタ"),
    ("𠮷野家は店です", "𠮷野家"),
]


@pytest.mark.parametrize(("text", "answer"), CONTAINED)
def test_an_answer_is_found_in_a_text_without_spaces(text: str, answer: str) -> None:
    question = Question("q", "?", (answer,))
    passage = Passage("p", "", text)
    assert holds_answer(text, [answer])
    assert answers_question(question, passage)
    with pytest.raises(OracleNegativeError):
        check_oracle_negatives([question], [Selection.uniform([passage])])


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("北京是首都", "南京"),
        ("北上京都", "北京"),
        ("がん", "か"),  # the mark belongs to its character
        ("กิน", "ก"),
        ("서울특별시는 수도이다", "서울"),  # Korean has spaces and stays by words
        ("the party", "art"),
    ],
)
def test_an_answer_that_is_not_there_is_not_found(text: str, answer: str) -> None:
    assert not holds_answer(text, [answer])
    assert not answers_question(Question("q", "?", (answer,)), Passage("p", "", text))


@pytest.mark.parametrize(
    ("prediction", "answer", "em", "f1"),
    [
        ("北京市", "北京", 0, 2 * 2 / (3 + 2)),
        ("北京。", "北京", 1, 1),
        ("“北京”", "北京", 1, 1),
        ("《红楼梦》", "红楼梦", 1, 1),
        ("约翰·史密斯", "约翰史密斯", 1, 1),
        ("２００８年", "2008年", 1, 1),
        ("２００８", "2008", 1, 1),
        ("维生素A", "维生素", 0, 2 * 3 / (4 + 3)),
        ("ガーナ", "ｶﾞｰﾅ", 1, 1),
        ("the 北京", "北京", 1, 1),
        ("上海", "北京", 0, 0),
        ("서울시", "서울", 0, 0),
        ("서울 시", "서울", 0, 2 / 3),
        ("東京　都", "東京都", 1, 1),  # an ideographic space
    ],
)
def test_scores_of_answers_without_spaces(
    prediction: str, answer: str, em: float, f1: float
) -> None:
    assert exact_match(prediction, [answer]) == em
    assert f1_score(prediction, [answer]) == pytest.approx(f1)


def squad_normal(text: str) -> str:
    """SQuAD's normalisation, written from its definition."""
    text = "".join(char for char in text.lower() if char not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def squad_f1(prediction: str, answer: str) -> float:
    """SQuAD's F1, written from its definition."""
    ours, right = squad_normal(prediction).split(), squad_normal(answer).split()
    same = sum((Counter(ours) & Counter(right)).values())
    if not ours or not right:
        return float(ours == right)
    if same == 0:
        return 0.0
    precision, recall = same / len(ours), same / len(right)
    return 2 * precision * recall / (precision + recall)


ENGLISH = [
    ("The U.S. Navy", "US Navy"),
    ("about 3.14 million people", "3.14 million"),
    ("2001–2004", "2001-2004"),
    ("“Book Blade” – a novel…", "Book Blade"),
    ("Beyoncé Knowles·Carter", "Beyonce Knowles-Carter"),
    ("a an the", "The"),
    ("£5bn or €6bn", "£5bn"),
    ("Straße № 5", "strasse no 5"),
    ("Владимир Путин", "Путин"),
    ("القاهرة هي العاصمة", "القاهرة"),
    ("दिल्ली भारत", "दिल्ली"),
    ("서울특별시 중구", "중구"),
    ("Hà Nội", "Hà Nội, Việt Nam"),
    ("", "the"),
]


@pytest.mark.parametrize(("prediction", "answer"), ENGLISH)
def test_all_other_texts_have_the_values_of_squad(prediction: str, answer: str) -> None:
    for text in (prediction, answer):
        assert normalize_answer(text) == squad_normal(text)
        assert fold_width(text) == spaced(text) == text
    assert exact_match(prediction, [answer]) == (squad_normal(prediction) == squad_normal(answer))
    assert f1_score(prediction, [answer]) == pytest.approx(squad_f1(prediction, answer), abs=1e-12)


LATIN = st.text(st.characters(max_codepoint=0xDFF) | st.sampled_from("–“”…·№€가나다 a the"))


@settings(max_examples=100, deadline=None)
@given(LATIN)
def test_texts_of_other_scripts_are_never_changed(text: str) -> None:
    assert normalize_answer(text) == squad_normal(text)
    table = {"L": "w", "N": "w", "M": "w", "Z": " ", "C": " "}
    plain = unicodedata.normalize("NFD", text)
    kinds = "".join(table.get(unicodedata.category(char)[0], "x") for char in plain)
    tokens = [plain[found.start() : found.end()] for found in re.finditer("w+|x", kinds)]
    assert " ".join(answer_tokens(text)) == " ".join(tokens).lower()
