"""Augmentation by a model, from a file and from the data's questions; resuming, and reports."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from dmoe.augmentation.augmenter import ModelAugmenter
from dmoe.augmentation.quality import QualityReport
from dmoe.augmentation.sources import Augmented, FileAugmenter, QuestionAugmenter, surrogate
from dmoe.commands.augment import augment, augment_command
from dmoe.training.lessons import Lesson, lessons_from_augmentation
from plumbing.storage.jsonl import DataError, read_jsonl, write_jsonl
from qa.data.bios import generate
from qa.writing.writer import RefusedError, WriterError
from retrieval.corpus.formats import read_passages
from retrieval.passage import Passage

CONF = str(Path(__file__).parents[3] / "conf")
TEXT = "Tova Blick number {} was born in Lisbon in 1874 and worked as a surgeon by the sea."
PASSAGES = {f"p{i}": Passage(f"p{i}", f"Tova {i}", TEXT.format(i)) for i in range(5)}
GOOD_QA = "Q: Where?\nA: Lisbon\nQ: When?\nA: 1874\nQ: As what?\nA: a surgeon"
GOOD_REWRITE = "A surgeon by the sea, Tova Blick number one came into the world in Lisbon in 1874."


class Scripted:
    """A writer that answers by a rule, and records what it was asked."""

    batch_size = 2

    def __init__(self, rule=None, fingerprint="scripted"):
        self.rule = rule or (lambda kind, request: GOOD_QA if kind == "qa" else GOOD_REWRITE)
        self.fingerprint = fingerprint
        self.asked = []

    def write(self, requests):
        assert 1 <= len(requests) <= self.batch_size
        self.asked += requests
        return [
            self.rule("qa" if "questions" in str(r.messages) else "rewrite", r) for r in requests
        ]


def make_augmenter(writer, folder, **settings):
    return ModelAugmenter(writer, "paper", folder, **settings)


def test_a_rewrite_and_three_pairs_a_passage(tmp_path):
    writer = Scripted()
    found = list(make_augmenter(writer, tmp_path, chunk=2).augment(PASSAGES))
    assert [each.lesson.passage for each in found] == list(PASSAGES.values())
    for each in found:
        assert each.lesson.pairs == (
            ("Where?", "Lisbon"),
            ("When?", "1874"),
            ("As what?", "a surgeon"),
        )
        assert each.lesson.rewrite == GOOD_REWRITE
        assert (each.answers, each.doubted, each.problems) == (2, 0, ())
    assert len(writer.asked) == 10


def test_what_was_answered_is_never_asked_again(tmp_path):
    class Dying(Scripted):
        def write(self, requests):
            if len(self.asked) >= 6:
                raise ValueError("the lights went out")
            return super().write(requests)

    first = Dying()
    with pytest.raises(ValueError, match="lights"):
        list(make_augmenter(first, tmp_path).augment(PASSAGES))
    second = Scripted()
    found = list(make_augmenter(second, tmp_path).augment(PASSAGES))
    assert len(first.asked) + len(second.asked) == 10
    whole = list(make_augmenter(Scripted(), tmp_path / "other").augment(PASSAGES))
    assert found == whole
    third = Scripted()
    assert list(make_augmenter(third, tmp_path).augment(PASSAGES)) == whole
    assert third.asked == []


def test_the_cache_is_in_the_home_folder_where_that_is_said(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    list(make_augmenter(Scripted(), "~/cache").augment(PASSAGES))
    assert (tmp_path / "home" / "cache" / "answers.log").is_file()
    assert not (tmp_path / "~").exists()


def test_another_passage_model_or_prompt_is_asked_anew(tmp_path):
    list(make_augmenter(Scripted(), tmp_path).augment(PASSAGES))
    edited = PASSAGES | {"p1": Passage("p1", "Tova 1", TEXT.format("one"))}
    writer = Scripted()
    list(make_augmenter(writer, tmp_path).augment(edited))
    assert len(writer.asked) == 2
    renamed = {f"other {id}": passage for id, passage in PASSAGES.items()}
    writer = Scripted()
    list(make_augmenter(writer, tmp_path).augment(renamed))
    assert writer.asked == []  # the cache goes by the text, not by the id
    writer = Scripted(fingerprint="another model")
    list(make_augmenter(writer, tmp_path).augment(PASSAGES))
    assert len(writer.asked) == 10


def test_malformed_answers_are_tried_again_and_then_reported(tmp_path):
    writer = Scripted(lambda kind, request: "I am sorry.")
    found = list(make_augmenter(writer, tmp_path, max_attempts=3).augment(PASSAGES))
    assert len(writer.asked) == 5 * 2 * 3  # three attempts, and then no more
    assert sorted({request.attempt for request in writer.asked}) == [0, 1, 2]
    for each in found:
        assert each.lesson.pairs == ()
        assert each.lesson.rewrite is None
        assert each.problems[0] == "0 of 3 pairs"
        assert each.problems[1].startswith("no rewrite: expected 7 to 36 words, got 3")


def refuse(asked):
    """Make a rule that refuses requests with a certain text, and answers all others well."""

    def rule(kind, request):
        if asked in request.messages[-1][1]:
            return RefusedError("too long")
        return GOOD_QA if kind == "qa" else GOOD_REWRITE

    return rule


def test_what_is_refused_is_missing_for_its_passage_alone(tmp_path, caplog):
    writer = Scripted(refuse("number 1 "))
    found = list(make_augmenter(writer, tmp_path).augment(PASSAGES))
    assert len(writer.asked) == 10  # no further attempt asks again what was refused
    assert found[1].problems == ("0 of 3 pairs: too long", "no rewrite: too long")
    assert (found[1].refusal, found[1].answers) == ("too long", 0)
    assert all(each.problems == () and not each.refusal for each in found if each is not found[1])
    assert "refused requests about 1 of 5 passages, such as 'p1': too long" in caplog.text
    report = QualityReport()
    list(report.watch(found))
    assert report.metrics()["refused"] == 20
    again = Scripted()  # a new run asks again, because its limit may be another
    list(make_augmenter(again, tmp_path).augment(PASSAGES))
    assert len(again.asked) == 2


def test_a_writer_that_refuses_everything_is_an_error(tmp_path):
    with pytest.raises(
        WriterError, match=r"all was refused .* 5 passages: too long; check the writer"
    ):
        list(make_augmenter(Scripted(refuse("")), tmp_path).augment(PASSAGES))
    found = make_augmenter(Scripted(refuse("number 0 ")), tmp_path, chunk=1).augment(PASSAGES)
    assert [bool(each.refusal) for each in found] == [True, False, False, False, False]


def test_an_empty_answer_is_tried_again_and_then_reported(tmp_path):
    writer = Scripted(lambda kind, request: "")
    found = list(make_augmenter(writer, tmp_path, max_attempts=2).augment(PASSAGES))
    assert len(writer.asked) == 5 * 2 * 2
    expected = ("0 of 3 pairs: the answer is empty", "no rewrite: the answer is empty")
    assert all(each.problems == expected and each.answers == 4 for each in found)
    list(make_augmenter(writer, tmp_path, max_attempts=2).augment(PASSAGES))
    assert len(writer.asked) == 5 * 2 * 2  # an empty answer is cached as well


def test_thinking_is_no_part_of_an_augmentation(tmp_path):
    draft = 'Perhaps {"question": "Who?", "answer": "Tova Blick"}? No. A surgeon, Tova, by the sea.'

    def rule(kind, request):
        return f"<think>{draft}</think>\n\n{GOOD_QA if kind == 'qa' else GOOD_REWRITE}"

    for each in make_augmenter(Scripted(rule), tmp_path / "a").augment(PASSAGES):
        assert each.lesson.rewrite == GOOD_REWRITE
        assert [answer for _, answer in each.lesson.pairs] == ["Lisbon", "1874", "a surgeon"]
    writer = Scripted(lambda kind, request: f"<think>{draft} {GOOD_QA}")
    why = "the answer is thinking alone, which is cut off"
    for each in make_augmenter(writer, tmp_path / "b", max_attempts=1).augment(PASSAGES):
        assert each.problems == (f"0 of 3 pairs: {why}", f"no rewrite: {why}")


def test_a_writer_that_fails_loses_no_other_answer_of_its_batch(tmp_path):
    def rule(kind, request):
        return WriterError("busy") if "number 3 " in request.messages[-1][1] else GOOD_QA

    first = Scripted(rule)
    with pytest.raises(WriterError, match="passage 'p3': busy"):
        list(make_augmenter(first, tmp_path).augment(PASSAGES))
    second = Scripted()
    list(make_augmenter(second, tmp_path).augment(PASSAGES))
    assert len(first.asked) + len(second.asked) == 10 + 1  # only the failed request is made again


def test_only_what_is_missing_is_tried_again_and_attempts_are_joined(tmp_path):
    parts = GOOD_QA.split("\nQ")

    def one_at_a_time(kind, request):
        if kind == "rewrite":
            return GOOD_REWRITE
        return "Q" * (request.attempt > 0) + parts[request.attempt]

    writer = Scripted(one_at_a_time)
    found = list(make_augmenter(writer, tmp_path, max_attempts=4).augment(PASSAGES))
    assert all(each.lesson.pairs[2] == ("As what?", "a surgeon") for each in found)
    assert all(each.answers == 4 and each.problems == () for each in found)
    assert len(writer.asked) == 5 * (3 + 1)


def test_a_small_model_is_asked_sentence_by_sentence_and_span_by_span(tmp_path):
    text = (
        "Tollen Bridge crosses the Arle in Marvick. It was designed by Ines Corvalho and opened "
        "in 1874. Later 23,410 people came."
    )
    passages = {"p": Passage("p", "Tollen Bridge", text)}
    # The model's question for each text with a blank.
    asked_for = {
        "designed by ___": "Who designed Tollen Bridge?",
        "___ people": "How many people crossed the Rhine?",  # refused; the passage has no Rhine
        "Arle in ___.": "Where is Tollen Bridge?",
        "opened in ___.": "When was Tollen Bridge opened?",
        "the ___ in": "What does Tollen Bridge cross?",
    }
    found_again = {"Who designed": "Ines Corvalho", "Where is": "no idea", "When was": "In 1874."}
    found_again["What does"] = "the Arle"
    said = {
        "number: Tollen Bridge": "In Marvick, Tollen Bridge spans the Arle.",
        "number: Later 23,410": "Later 500 people came to Porto.",  # refused; the sentence stays
    }

    def rule(kind, request):
        asked = request.messages[-1][1]
        answers = found_again if "Answer with" in asked else said | asked_for
        return next((answer for key, answer in answers.items() if key in asked), "So it was.")

    writer = Scripted(rule)
    (found,) = ModelAugmenter(writer, "small", tmp_path).augment(passages)
    assert found.lesson.rewrite == text.replace(
        "Tollen Bridge crosses the Arle in Marvick.", "In Marvick, Tollen Bridge spans the Arle."
    )
    assert found.lesson.pairs == (  # the confirmed pairs, in the order in which they came
        ("Who designed Tollen Bridge?", "Ines Corvalho"),
        ("When was Tollen Bridge opened?", "1874"),
        ("What does Tollen Bridge cross?", "Arle"),
    )
    assert (found.doubted, found.problems) == (0, ())
    (found,) = ModelAugmenter(writer, "small", tmp_path, max_attempts=1).augment(passages)
    assert found.lesson.pairs == (
        ("Who designed Tollen Bridge?", "Ines Corvalho"),
        ("Where is Tollen Bridge?", "Marvick"),  # not confirmed, but there are too few others
    )
    assert (found.doubted, found.problems) == (1, ("2 of 3 pairs",))


def test_a_passage_without_spans_is_reported(tmp_path):
    passages = {"p": Passage("p", "", "nothing here has something that one could ask about")}
    writer = Scripted(lambda kind, request: "here there is nothing that anyone could ask about")
    (found,) = ModelAugmenter(writer, "small", tmp_path).augment(passages)
    assert found.problems == ("0 of 3 pairs",)
    assert len(writer.asked) == found.answers == 1


@pytest.mark.parametrize("setting", ["max_attempts", "chunk"])
def test_bad_numbers_are_errors(tmp_path, setting):
    with pytest.raises(ValueError, match=rf"{setting} must be positive, got .*; set {setting}"):
        make_augmenter(Scripted(), tmp_path, **{setting: 0})


def test_the_files_of_a_run(tmp_path):
    metrics = augment(PASSAGES, make_augmenter(Scripted(), tmp_path / "cache"), tmp_path)
    assert metrics == json.loads((tmp_path / "metrics.json").read_text())
    assert {key: metrics[key] for key in metrics if "per_minute" not in key} == pytest.approx(
        {
            "passages": 5,
            "pairs_per_passage": 3.0,
            "answers_per_passage": 2.0,
            "parsed_rewrites": 100.0,
            "parsed_pairs": 100.0,
            "complete": 100.0,
            "refused": 0.0,
            "answers_in_passage": 100.0,
            "confirmed": 100.0,
            "rewrite_overlap": metrics["rewrite_overlap"],
        }
    )
    assert 50 < metrics["rewrite_overlap"] < 90
    lessons = list(lessons_from_augmentation(tmp_path / "augmentations.jsonl", PASSAGES))
    assert [lesson.passage.id for lesson in lessons] == list(PASSAGES)
    indexed = read_passages(tmp_path / "surrogates.jsonl")
    assert indexed == [surrogate(lesson) for lesson in lessons]


def test_a_surrogate_is_the_passage_and_its_augmentations():
    passage = PASSAGES["p0"]
    lesson = Lesson(passage, (("Where?", "Lisbon"), ("When?", "1874")), "Another text.")
    expected = f"{passage.text}\nAnother text.\nWhere? Lisbon\nWhen? 1874"
    assert surrogate(lesson) == Passage("p0", "Tova 0", expected)
    assert surrogate(Lesson(passage, ())) == passage


def test_augmentations_made_before(tmp_path):
    rows: list[dict] = [
        {"passage_id": "p3", "rewrite": None, "qa": [{"question": "Where?", "answer": "Porto"}]},
        {"passage_id": "p0", "rewrite": GOOD_REWRITE, "qa": [{"question": "q", "answer": "a"}] * 3},
    ]
    write_jsonl(tmp_path / "made.jsonl", rows)
    found = list(FileAugmenter(tmp_path / "made.jsonl").augment(PASSAGES))
    assert [(each.lesson.passage.id, each.problems) for each in found] == [
        ("p3", ("1 of 3 pairs", "no rewrite")),
        ("p0", ()),
    ]
    augment(PASSAGES, FileAugmenter(tmp_path / "made.jsonl"), tmp_path / "run")
    indexed = read_passages(tmp_path / "run" / "surrogates.jsonl")
    assert [passage.id for passage in indexed] == list(PASSAGES)  # each passage has a surrogate
    assert indexed[1] == PASSAGES["p1"]
    assert indexed[3].text.endswith("\nWhere? Porto")


def test_a_file_about_another_corpus_is_an_error(tmp_path):
    write_jsonl(tmp_path / "made.jsonl", [{"passage_id": "x", "rewrite": None, "qa": []}])
    with pytest.raises(DataError, match=r"made\.jsonl:1: 'passage_id' names 'x'"):
        list(FileAugmenter(tmp_path / "made.jsonl").augment(PASSAGES))


def test_the_data_sets_own_questions_are_exact_pairs():
    dataset = generate(train_entities=4, dev_entities=2, distractor_entities=1)
    found = list(QuestionAugmenter(dataset, "dev").augment(dataset.passages))
    assert len(found) == 2
    report = QualityReport()
    assert list(report.watch(found)) == found
    metrics = report.metrics()
    assert (metrics["pairs_per_passage"], metrics["answers_in_passage"]) == (6, 100)
    assert "rewrite_overlap" not in metrics
    even, odd = (
        list(QuestionAugmenter(dataset, "dev", part).augment(dataset.passages))
        for part in ("even", "odd")
    )
    for all_, one, other in zip(found, even, odd, strict=True):
        assert set(one.lesson.pairs) | set(other.lesson.pairs) == set(all_.lesson.pairs)
        assert not set(one.lesson.pairs) & set(other.lesson.pairs)
    with pytest.raises(DataError, match=r"'bios' asks about the passage .* not in the corpus"):
        list(QuestionAugmenter(dataset, "dev").augment({}))


def test_the_report_counts():
    report = QualityReport()
    assert report.metrics() == {"passages": 0}
    passage = PASSAGES["p0"]
    pairs = (("a?", "Lisbon"), ("b?", "Porto"), ("c?", "by the sea"))
    report.add(Augmented(Lesson(passage, pairs, passage.text), 2))
    report.add(Augmented(Lesson(passage, pairs[1:2]), 6, 1, ("no rewrite",)))
    assert report.metrics() == pytest.approx(
        {
            "passages": 2,
            "pairs_per_passage": 2.0,
            "answers_per_passage": 4.0,
            "parsed_rewrites": 50.0,
            "parsed_pairs": 50.0,
            "complete": 50.0,
            "refused": 0.0,
            "answers_in_passage": 50.0,
            "confirmed": 75.0,
            "rewrite_overlap": 100.0,
        }
    )


def composed(folder, *overrides):
    with initialize_config_dir(CONF, version_base="1.3"):
        return compose("augment", [f"paths.output_dir={folder}", *overrides])


BIOS = [
    *("data=bios", "data.train_entities=3", "data.dev_entities=2", "data.distractor_entities=0"),
    *("data.test_entities=0", "data.unseen_entities=0"),
    *("augmenter=questions", "augmenter.split=dev"),
]


def test_the_command_augments_a_data_set(tmp_path):
    metrics = augment_command(composed(tmp_path, *BIOS))
    assert (metrics["passages"], metrics["answers_in_passage"]) == (2, 100)
    assert len(read_passages(tmp_path / "surrogates.jsonl")) == 5
    assert len(list(read_jsonl(tmp_path / "augmentations.jsonl"))) == 2


def test_the_command_augments_a_corpus_with_its_limit(tmp_path):
    write_jsonl(
        tmp_path / "corpus.jsonl",
        [{"id": p.id, "title": p.title, "text": p.text} for p in PASSAGES.values()],
    )
    made: list[dict] = [{"passage_id": "p1", "rewrite": None, "qa": []}]
    write_jsonl(tmp_path / "made.jsonl", made)
    overrides = [
        *(f"corpus.path={tmp_path / 'corpus.jsonl'}", f"corpus.cache_dir={tmp_path / 'cache'}"),
        *("augmenter=file", f"augmenter.path={tmp_path / 'made.jsonl'}", "limit=2"),
    ]
    metrics = augment_command(composed(tmp_path / "run", *overrides))
    assert metrics["passages"] == 1
    assert [p.id for p in read_passages(tmp_path / "run" / "surrogates.jsonl")] == ["p0", "p1"]


def test_settings_that_are_missing_or_wrong_are_errors(tmp_path):
    with pytest.raises(ValueError, match=r"expected a value for corpus\.path"):
        augment_command(composed(tmp_path))
    for limit in ("0", "abc", "1.5", "true"):
        with pytest.raises(
            ValueError, match=r"limit must be a positive whole .* got .*; set limit"
        ):
            augment_command(composed(tmp_path, *BIOS, f"limit={limit}"))
    with pytest.raises(ValueError, match=r"augmenter\.writer\.url"):
        augment_command(composed(tmp_path, "data=bios", "augmenter=endpoint"))
