"""``scripts/report.py``: runs read back and compared question by question, or refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from plumbing.storage.files import write_json
from plumbing.storage.jsonl import DataError, write_jsonl
from qa.commands.report import report_command
from qa.evaluation.evaluate import summarize
from qa.evaluation.pairing import differences
from qa.evaluation.run_folder import read_run
from qa.statistics import difference, estimate, over_runs

CONF = Path(__file__).parents[3] / "conf"

Write = Callable[..., Path]
EMS = {"base": [0, 0, 1, 0, 1, 0], "ours": [1, 0, 1, 1, 1, 0]}


def line(id: str, em: float, **more: Any) -> dict[str, Any]:
    return {"id": id, "answers": ["Lisbon"], "em": float(em), "f1": em / 2, "nll": 3.0 - em, **more}


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a run folder as `qa.evaluation.evaluate.evaluate` does."""

    def run(name: str, rows: Sequence[dict[str, Any]], **more: float) -> Path:
        rows = list(rows)
        seconds = {"seconds_per_question": 0.25, "peak_memory": 3 * 2.0**30}
        write_json(
            tmp_path / name / "metrics.json", {**summarize(rows), "n": len(rows), **seconds, **more}
        )
        write_jsonl(tmp_path / name / "predictions.jsonl", rows)
        return tmp_path / name

    return run


@pytest.fixture
def runs(write: Write) -> list[Path]:
    return [
        write(name, [line(f"q{i}", em) for i, em in enumerate(ems)]) for name, ems in EMS.items()
    ]


def report(tmp_path: Path, runs: Sequence[Path], *overrides: str) -> dict[str, float]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        named = f"runs=[{','.join(map(str, runs))}]"
        config = compose("report", [named, f"paths.output_dir={tmp_path / 'out'}", *overrides])
    return report_command(config)


def test_a_report(runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metrics = report(tmp_path, runs)
    assert metrics == json.loads((tmp_path / "out/metrics.json").read_text())
    assert metrics["ours/em"] == pytest.approx(100 * 4 / 6)
    assert metrics["base/peak_memory"] == 3 * 2.0**30
    ours, base = ([100.0 * em for em in EMS[name]] for name in ("ours", "base"))
    expected = difference(ours, base, largest=100)
    ends = ("", "_low", "_high")
    assert tuple(metrics[f"ours/minus/base/em{end}"] for end in ends) == expected
    assert metrics["ours/minus/base/nll"] == pytest.approx(-2 / 6)
    assert metrics["ours/minus/base/n"] == 6
    assert not any("acc" in name or name.startswith("base/minus") for name in metrics)
    page, second = ((tmp_path / "out" / f"{n}.md").read_text() for n in ("table", "differences"))
    assert page.splitlines()[0] == "| Run | EM | F1 | nll | s/question | GiB | n | clusters |"
    assert page.splitlines()[3].endswith(" | 0.250 | 3.00 | 6 | 6 |")
    assert "| ours | 33.3 (" in second
    assert page + "\n" + second in capsys.readouterr().out
    assert (tmp_path / "out/figure.png").stat().st_size > 0


def test_labels_and_the_baseline_are_chosen(runs: list[Path], tmp_path: Path) -> None:
    metrics = report(tmp_path, runs, "labels=[1,a b]", "baseline=a b")
    assert metrics["1/minus/a b/em"] == pytest.approx(-100 * 2 / 6)


def test_one_run_has_a_table_and_no_differences(runs: list[Path], tmp_path: Path) -> None:
    assert report(tmp_path, runs[:1])["base/n"] == 6
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("metrics.json", "table.md", "figure.png")
    }


def test_questions_are_paired_by_id(write: Write) -> None:
    one = read_run(write("one", [line("a", 1, acc=1.0), line("b", 0, acc=0.0), line("c", 0)]))
    other = read_run(write("other", [line("d", 1), line("b", 1, acc=1.0), line("a", 1, acc=0.0)]))
    found = differences(one, other, common=True)
    assert found["n"] == 2
    assert (found["em"], found["nll"], found["acc"]) == (-50.0, 0.5, 0.0)
    assert differences(one, one)["em_low"] < differences(one, one)["em"] == 0
    assert "acc" not in differences(one, one)  # c has none


def test_the_order_of_the_lines_does_not_matter(write: Write) -> None:
    rows = [line(f"q{i}", i % 2, gold_ids=[f"p{i // 2}"]) for i in range(8)]
    other = read_run(write("other", [line(f"q{i}", i % 3 == 0) for i in range(8)]))
    forth = differences(read_run(write("forth", rows)), other)
    back = differences(read_run(write("back", rows[::-1])), other)
    assert forth == pytest.approx({**back, "nll_low": forth["nll_low"]}, abs=0.1)
    assert forth["em"] == pytest.approx(100 * (4 - 3) / 8)


@pytest.mark.parametrize("left", [["q0", "q1"], [f"q{i}" for i in range(5)]])
def test_a_method_that_skipped_questions_is_refused(
    runs: list[Path], write: Write, tmp_path: Path, left: list[str]
) -> None:
    skipped = write("ours", [line(id, 1) for id in left])
    missing = f"{6 - len(left)} of them are missing, such as 'q{len(left)}'; evaluate both"
    for order in (runs, runs[::-1]):  # whichever is the baseline
        with pytest.raises(DataError, match=rf"ours/pred.*: expected the 6 questions.*{missing}"):
            report(tmp_path, order)
    metrics = report(tmp_path, [runs[0], skipped], "questions=common")
    assert metrics["ours/minus/base/n"] == len(left)
    page = (tmp_path / "out/differences.md").read_text()
    assert "n questions that both\nhave; questions that only one has are left out" in page


def test_equal_questions_of_another_sample_are_refused(write: Write, tmp_path: Path) -> None:
    samples = [write(str(seed), [line(f"q{i + seed}", 0) for i in range(3)]) for seed in (0, 1)]
    with pytest.raises(DataError, match="1 of them are missing, such as 'q0'"):
        report(tmp_path, samples)


def test_questions_of_one_passage_are_one_cluster(write: Write, tmp_path: Path) -> None:
    gold = [line(f"q{i}", 0, gold_ids=[f"p{i // 4}"]) for i in range(8)]
    old = [line(f"q{i}", i % 2) for i in range(8)]  # of before gold_ids was written
    metrics = report(tmp_path, [write("gold", gold), write("old", old)])
    assert (metrics["gold/clusters"], metrics["old/clusters"]) == (2, 8)
    assert metrics["old/minus/gold/clusters"] == 2
    assert metrics["gold/em_high"] == pytest.approx(estimate([0.0] * 2, largest=100).high)
    page = (tmp_path / "out/table.md").read_text()
    assert page.endswith("cluster of its own: old. Evaluate again for wider and truer intervals.\n")


def test_intervals_of_old_runs_are_computed_anew(write: Write, tmp_path: Path) -> None:
    rows = [line(f"q{i}", 0, gold_ids=[f"p{i}"]) for i in range(40)]
    run = write("old", rows, em_low=0.0, em_high=0.0)
    assert report(tmp_path, [run])["old/em_high"] == pytest.approx(8.76, abs=0.01)
    assert "gold passages" not in (tmp_path / "out/table.md").read_text()


@pytest.fixture
def swept(write: Write) -> list[Path]:
    """Three runs that differ in their seed."""
    ems = ([1, 0, 1, 0, 1, 0], [1, 0, 0, 0, 1, 0], [1, 1, 1, 1, 1, 0])
    return [
        write(f"seed{seed}", [line(f"q{i}", em) for i, em in enumerate(each)])
        for seed, each in enumerate(ems)
    ]


def test_runs_over_seeds_are_one_row(runs: list[Path], swept: list[Path], tmp_path: Path) -> None:
    group = f"runs=[{runs[0]},[{','.join(map(str, swept))}]]"
    metrics = report(tmp_path, runs, group, "labels=[base,ours]")
    assert metrics["ours/em"] == pytest.approx(500 / 9)
    expected = over_runs([50.0, 100 / 3, 500 / 6], largest=100)
    ends = ("", "_low", "_high")
    assert [metrics[f"ours/seeds/em{end}"] for end in ends] == pytest.approx(expected)
    least, most = (metrics[f"ours/seeds/em_{end}"] for end in ("least", "most"))
    assert (least, most, metrics["ours/seeds/n"]) == pytest.approx((100 / 3, 500 / 6, 3))
    each = estimate([100, 100 / 3, 200 / 3, 100 / 3, 100, 0], largest=100)
    assert [metrics[f"ours/em{end}"] for end in ends] == pytest.approx(each)
    assert metrics["ours/minus/base/em"] == pytest.approx(500 / 9 - 100 / 3)
    page = (tmp_path / "out/seeds.md").read_text().splitlines()
    assert page[3] == "| Run | Score | Seeds | Mean | Lowest | Highest |"
    assert page[5].startswith("| ours | EM | 3 | 55.6 (0.0–100.0)")
    assert page[5].endswith(" | 33.3 | 83.3 |")


def test_runs_over_seeds_must_have_answered_the_same(
    swept: list[Path], write: Write, tmp_path: Path
) -> None:
    other = write("other", [line("q0", 1)])
    with pytest.raises(DataError, match=r"other/pred.*: expected the 6 questions"):
        report(tmp_path, swept, f"runs=[[{swept[0]},{other}]]")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([line("other", 1)], r"ours/pred.* and .*base/pred.* have no question in common; compare"),
        (
            [line("q0", 1), line("q1", 1, answers=["Rome"])],
            r"ours/predictions\.jsonl:2: .*base/predictions\.jsonl:2, .*Lisbon.*, got .*Rome",
        ),
        (
            [line("q0", 1, gold_ids=["p1"])],
            r"jsonl:1: expected the gold passages that .*\(\['p0'\]\), got .*\(\['p1'\]\)",
        ),
        (
            [line("q0", 1, question="Where?")],
            r"jsonl:1: expected the text that .*\('Who\?'\), got a string \('Where\?'\)",
        ),
    ],
)
def test_what_is_not_the_same_is_not_compared(
    runs: list[Path], write: Write, tmp_path: Path, rows: list[dict[str, Any]], message: str
) -> None:
    base = [line(f"q{i}", em, gold_ids=[f"p{i}"], question="Who?") for i, em in enumerate([1, 0])]
    write("base", base)
    write("ours", rows)
    for questions in ("same", "common"):
        with pytest.raises(DataError, match=message):
            report(tmp_path, runs, f"questions={questions}")


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("metrics.json", None, r"base/metrics\.json: expected the metrics of an eval.*found none"),
        ("metrics.json", '{\n"em": 1,\n}', r"base/metrics\.json:3: not JSON"),
        ("metrics.json", "[1]", r"metrics\.json: expected a JSON object, got a list"),
        ("metrics.json", '{"em": 1, "nll": 1}', r"metrics\.json: expected the key 'n'"),
        ("metrics.json", '{"em": "1", "nll": 1, "n": 6}', "metrics.json: 'em' must be a number"),
        ("metrics.json", '{"em": 1, "nll": 1, "n": 7}', r"predictions\.jsonl: expected the 7 q"),
        ("predictions.jsonl", None, r"base/predictions\.jsonl: expected a JSON-lines file"),
        ("predictions.jsonl", '{"id": "a", "answers": []}\n{', r"predictions\.jsonl:2: expected"),
        ("predictions.jsonl", '{"answers": []}', r"predictions\.jsonl:1: expected the key 'id'"),
        ("predictions.jsonl", '{"id": "a", "answers": "x"}', "jsonl:1: 'answers' must be a list"),
        ("predictions.jsonl", '{"id": "a", "answers": [], "nll": null}', "1: 'nll' must be a num"),
        ("predictions.jsonl", "", r"predictions\.jsonl: expected a line for each question"),
        ("predictions.jsonl", '{"id": "a", "answers": [], "em": NaN}', "'em' must be a finite num"),
        ("predictions.jsonl", '{"id": "a", "answers": [], "gold_ids": "p"}', "'gold_ids' must be"),
        (
            "predictions.jsonl",
            '{"id": "a", "answers": [], "em": 1}\n{"id": "b", "answers": []}',
            r"predictions\.jsonl:2: expected the key 'em', which 1 of the 2 lines have",
        ),
        ("predictions.jsonl", '{"id": "a", "answers": []}\n' * 2, r":2: question id 'a' stands"),
    ],
)
def test_a_malformed_run_is_named(
    runs: list[Path], tmp_path: Path, file: str, text: str | None, message: str
) -> None:
    path = runs[0] / file
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(DataError, match=message):
        report(tmp_path, runs)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("runs=[]", "at least one run.* got 0 runs"),
        ("runs=x", r"runs must be a list, each entry a text or a list, .*, got 'x'; set runs"),
        ("runs=[[]]", r"must name each run once, got \[\]; set runs=\[RUN,\[RUN,RUN\]\]"),
        ("runs=[[a,./a]]", r"must name each run once, got \[a, ./a\]"),
        ("questions=all", "questions must be one of same, common, got 'all'"),
        ("runs=[x/a,y/a]", r"labels must differ, got 'a' twice; set labels=\[…\]"),
        ("labels=[a]", "one label for each run.* got 2 runs and 1 labels"),
        ("labels=[a,a]", "labels must differ"),
        ("baseline=other", "one of the labels base, ours, got 'other'; set baseline=LABEL"),
        ("seed=-1", "seed must be"),
        ("runs=[nowhere]", "nowhere: expected the run folder of .*found nothing; check runs"),
    ],
)
def test_settings_are_checked(
    runs: list[Path], tmp_path: Path, override: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        report(tmp_path, runs, override)


# id → the entropies of its tokens, and at which of them the experts came
TOKENS: dict[str, tuple[list[float], list[int]]] = {
    "q0": ([0.1, 0.3], []),  # mean 0.2, largest 0.3
    "q1": ([0.5, 2.5, 0.0], [1]),  # mean 1.5 of the first two, largest 2.5
    "q2": ([0.4, 0.4], []),  # mean and largest 0.4
    "q3": ([3.0, 0.2, 0.1], [0]),  # 3.0 of the first alone
    "q4": ([1.0, 1.0, 1.3], []),  # mean 1.1, largest 1.3
    "q5": ([2.1, 0.1, 4.0], [0, 2]),  # 2.1 of the first alone
}


def decoded(i: int, em: float) -> dict[str, Any]:
    values, positions = TOKENS[f"q{i}"]
    routed = [{"position": at, "passage_ids": ["p"]} for at in positions]
    more = {"uncertainty": values, "routed": routed, "tokens": len(values)}
    return line(f"q{i}", em, gold_ids=[f"p{i}"], triggers=len(positions), **more)


def test_bins_against_a_table_made_by_hand(write: Write, tmp_path: Path) -> None:
    runs = [write(name, [decoded(i, em) for i, em in enumerate(ems)]) for name, ems in EMS.items()]
    metrics = report(tmp_path, runs, "bins=3")
    # By the mean: q0 0.2, q2 0.4 | q4 1.1, q1 1.5 | q5 2.1, q3 3.0.
    ranges = {"1": (0.2, 0.4), "2": (1.1, 1.5), "3": (2.1, 3.0)}
    ems = {"base": {"1": 50, "2": 50, "3": 0}, "ours": {"1": 100, "2": 50, "3": 50}}
    triggers = {"1": (0, 0), "2": (100 / 6, 50), "3": (50, 100)}
    for label, scores in ems.items():
        for number, em in scores.items():
            found = {
                name.rpartition("/")[2]: value
                for name, value in metrics.items()
                if name.startswith(f"{label}/bins/{number}/")
            }
            assert found["em"] == pytest.approx(em)
            assert found["em_low"] < em + 1e-9
            assert em - 1e-9 < found["em_high"]
            between = found["uncertainty_low"], found["uncertainty_high"]
            assert between == pytest.approx(ranges[number])
            assert (found["trigger_rate"], found["triggered_questions"]) == pytest.approx(
                triggers[number]
            )
            assert found["n"] == 2
            assert ("em_gain" in found) == (label == "ours")
            if label == "ours":
                assert found["em_gain"] == pytest.approx(em - ems["base"][number])
                assert found["f1_gain_low"] <= found["f1_gain"] <= found["f1_gain_high"]
    page = (tmp_path / "out/bins.md").read_text()
    assert "| 3 | ours | 2.10–3.00 | 2 | 50.0 (" in page
    assert (tmp_path / "out/bins.png").read_bytes().startswith(b"\x89PNG")
    # The ranks of the base's EM are 2.5, 2.5, 5.5, 2.5, 5.5, 2.5; of TU 1, 4, 2, 6, 3, 5.
    # Centred, their product is -6, and their squares add up to 12 and 17.5.
    assert metrics["base/bins/em_certainty"] == pytest.approx(6 / (12 * 17.5) ** 0.5)

    # By the largest: q0 0.3, q2 0.4 | q4 1.3, q5 2.1 | q1 2.5, q3 3.0.
    metrics = report(tmp_path, runs, "bins=3", "uncertainty=max")
    assert metrics["ours/bins/2/em"] == pytest.approx(50)
    assert metrics["ours/bins/3/uncertainty_low"] == 2.5
    # By the first: q0 0.1, q2 0.4, q1 0.5 | q4 1.0, q5 2.1, q3 3.0.
    metrics = report(tmp_path, runs, "bins=2", "uncertainty=first")
    assert metrics["ours/bins/1/em"] == pytest.approx(200 / 3)
    assert metrics["ours/bins/2/uncertainty_low"] == 1.0


def test_groups_that_cannot_be_made(write: Write, runs: list[Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"predictions\.jsonl:1: expected the uncertainty of each"):
        report(tmp_path, runs, "bins=2")
    ours = write("decoded", [decoded(i, 1) for i in range(6)])
    metrics = report(tmp_path, [ours, runs[0]], "bins=2")  # the baseline alone must say it
    assert "base/bins/1/em" in metrics
    assert "base/bins/1/trigger_rate" not in metrics
    assert "decoded/bins/em_certainty" not in metrics  # all are right
    for count in (1, 7):
        with pytest.raises(ValueError, match=f"bins must be between 2 and .* 6, got {count}"):
            report(tmp_path, [ours], f"bins={count}")
    with pytest.raises(ValueError, match="uncertainty must be one of mean, max, first, got 'last'"):
        report(tmp_path, [ours], "bins=2", "uncertainty=last")
    broken = write("broken", [decoded(i, 1) | {"routed": [{}]} for i in range(6)])
    with pytest.raises(DataError, match="expected the numbers that method=dmoe writes about its"):
        report(tmp_path, [broken], "bins=2")


def test_groups_of_questions_are_shown_apart(tmp_path: Path, runs: Sequence[Path]) -> None:
    groups = tmp_path / "coverage.jsonl"
    names = ["covered", "not covered"]
    write_jsonl(groups, ({"id": f"q{i}", "group": names[i % 2]} for i in range(6)))
    metrics = report(tmp_path, runs, f"groups={groups}")
    assert metrics["ours/groups/covered/n"] == 3
    assert metrics["ours/groups/covered/em"] == pytest.approx(100)
    assert metrics["ours/groups/not covered/minus/base/em"] == pytest.approx(100 / 3)
    assert "| covered | ours |" in (tmp_path / "out" / "groups.md").read_text()
