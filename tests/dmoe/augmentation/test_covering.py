"""Pairs about all spans of a passage, and whether they have the answers of later questions."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from dmoe.augmentation.coverage import coverage, coverage_metrics
from dmoe.augmentation.covering import CoveringAugmenter
from dmoe.commands.augment import augment_command
from dmoe.training.lessons import Lesson
from plumbing.mounts import SettingValueError
from plumbing.storage.jsonl import read_jsonl
from qa.data.dataset import Question
from qa.writing.writer import RefusedError
from retrieval.answers import answer_tokens
from retrieval.passage import Passage

CONF = str(Path(__file__).parents[3] / "conf")
PASSAGE = Passage("p", "Tollen Bridge", "It was designed by Ines Corvalho and opened in 1874.")
PASSAGES = {"p": PASSAGE}


class Rule:
    """A writer that asks by a rule, answers "1874" to every doubt, and notes its requests."""

    batch_size = 4
    fingerprint = "rule"

    def __init__(self, asks=lambda text: f"Which word fits it {'so ' * (len(text) % 20)}well?"):
        self.asks, self.asked = asks, []

    def write(self, requests):
        self.asked += requests
        return [
            "1874" if "Question: " in r.messages[-1][1] else self.asks(r.messages[-1][1])
            for r in requests
        ]


def pairs(folder, writer=None, **settings):
    (found,) = CoveringAugmenter(writer, cache_dir=folder, **settings).augment(PASSAGES)
    return found


def test_every_span_is_asked_for_in_every_phrasing_without_a_model(tmp_path):
    found = pairs(tmp_path, phrasings=["sentence", "cloze"])
    about = "Tollen Bridge: It was designed by"
    assert {
        (f"{about} whom and opened in 1874?", "Ines Corvalho"),
        (f"{about} ___ and opened in 1874.", "Ines Corvalho"),
        (f"{about} Ines Corvalho and opened in when?", "1874"),
        (f"{about} Ines Corvalho and opened in ___.", "1874"),
    } <= set(found.lesson.pairs)
    assert (found.answers, found.doubted) == (0, len(found.lesson.pairs))
    assert found.lesson.rewrite is None
    assert not (tmp_path / "answers.log").exists()


def test_a_question_for_the_title_does_not_say_it(tmp_path):
    passage = Passage("p", "Tollen Bridge", "Tollen Bridge spans the Ave near Marvick.")
    augmenter = CoveringAugmenter(None, ["sentence"], cache_dir=tmp_path)
    (found,) = augmenter.augment({"p": passage})
    assert ("what spans the Ave near Marvick?", "Tollen Bridge") in found.lesson.pairs
    assert any(q.startswith("Tollen Bridge: ") and a == "Marvick" for q, a in found.lesson.pairs)


def test_confirmed_pairs_come_first_and_the_writer_confirms_with_the_whole_passage(tmp_path):
    writer = Rule()
    found = pairs(tmp_path, writer)
    sure = len(found.lesson.pairs) - found.doubted
    assert [answer for _, answer in found.lesson.pairs[:sure]] == ["1874"] == ["1874"] * sure
    assert found.lesson.pairs[0][0].startswith("Which word fits")
    doubts = [r for r in writer.asked if "Question: " in r.messages[-1][1]]
    assert doubts
    assert all(PASSAGE.text in r.messages[-1][1] for r in doubts)
    assert found.answers >= len(writer.asked) > 8  # equal requests are made once
    again = Rule()
    assert pairs(tmp_path, again).lesson == found.lesson
    assert not again.asked  # all of it was kept


def test_the_budget_ends_the_pairs_and_the_limit_the_questions(tmp_path):
    def size(found):
        return sum(len(answer_tokens(f"{q} {a}")) for q, a in found.lesson.pairs)

    whole = pairs(tmp_path, phrasings=["cloze"])
    part = pairs(tmp_path, phrasings=["cloze"], budget=50)
    assert size(part) <= 50 < size(whole)
    assert part.lesson.pairs == whole.lesson.pairs[: len(part.lesson.pairs)]
    assert len(pairs(tmp_path, phrasings=["cloze"], budget=1).lesson.pairs) == 1
    writer = Rule()
    pairs(tmp_path, writer, spans=2)
    assert sum("Question: " not in r.messages[-1][1] for r in writer.asked) == 2


def test_questions_that_cannot_be_used_are_left_out_and_refusals_reported(tmp_path):
    class Refusing(Rule):
        def write(self, requests):
            return [RefusedError("too long") for _ in requests]

    useless = pairs(tmp_path / "a", Rule(lambda text: "I do not know"), phrasings=["written"])
    assert useless.lesson.pairs == ()
    assert useless.problems == ("no pairs: the passage has no span",)
    refused = pairs(tmp_path / "b", Refusing())
    assert refused.refusal == "too long"
    assert refused.answers == 0
    assert refused.doubted == len(refused.lesson.pairs) > 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"budget": 0}, "budget must be positive, got 0"),
        ({"spans": 0}, "spans must be positive, got 0"),
        (
            {"phrasings": ["sung"]},
            r"phrasings must be some of written, sentence, cloze.*\['sung'\]",
        ),
        ({"phrasings": ["cloze", "cloze"]}, "each once"),
        ({"phrasings": ["written"]}, "needs a writer, got none"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(SettingValueError, match=message):
        CoveringAugmenter(**{"phrasings": ["cloze"], **settings})


def test_the_coverage_of_questions():
    lesson = Lesson(PASSAGE, (("Who designed it?", "the Ines Corvalho"),))
    questions = [
        Question("a", "Who?", ("Anna", "Ines Corvalho"), ("p",)),
        Question("b", "When?", ("1874",), ("other", "p")),
        Question("c", "Is it old?", ("yes",), ("p",)),
        Question("d", "Who?", ("Ines Corvalho",), ("other",)),
        Question("e", "Who?", ("Ines Corvalho",)),
    ]
    found = coverage(questions, {"p": lesson})
    assert found == {"a": "covered", "b": "not covered", "c": "not in the passage"}
    assert coverage_metrics(found) == pytest.approx(
        {"questions": 3, "covered": 100 / 3, "answer_in_gold": 200 / 3}
    )
    assert coverage_metrics({}) == {"questions": 0}


BIOS = [
    *("data=bios", "data.train_entities=2", "data.dev_entities=2", "data.distractor_entities=0"),
    *("data.test_entities=0", "data.unseen_entities=0"),
]


def composed(folder, *overrides):
    with initialize_config_dir(CONF, version_base="1.3"):
        return compose("augment", [f"paths.output_dir={folder}", *overrides])


def test_the_command_measures_the_coverage(tmp_path):
    metrics = augment_command(composed(tmp_path, *BIOS, "augmenter=spans", "coverage=dev"))
    groups = list(read_jsonl(tmp_path / "coverage.jsonl"))
    assert metrics["coverage/questions"] == len(groups) > 0
    assert {row["group"] for _, row in groups} <= {"covered", "not covered", "not in the passage"}
    covered = sum(row["group"] == "covered" for _, row in groups)
    assert metrics["coverage/covered"] == pytest.approx(100 * covered / len(groups))
    assert covered > len(groups) / 2
    with pytest.raises(ValueError, match="name the data set by data=NAME, or leave coverage out"):
        augment_command(composed(tmp_path, "corpus.path=x", "augmenter=spans", "coverage=dev"))


def test_the_budget_of_the_configuration_reaches_the_augmenter(tmp_path):
    config = composed(tmp_path, *BIOS, "augmenter=spans", "augmenter.budget=1")
    for found in instantiate(config.augmenter).augment(PASSAGES):
        assert len(found.lesson.pairs) == 1
