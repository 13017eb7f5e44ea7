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
from qa.evaluation.run_folder import differences, read_run
from qa.metrics import paired_difference

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
    expected = paired_difference(ours, base)
    ends = ("", "_low", "_high")
    assert tuple(metrics[f"ours/minus/base/em{end}"] for end in ends) == expected
    assert metrics["ours/minus/base/nll"] == pytest.approx(-2 / 6)
    assert metrics["ours/minus/base/n"] == 6
    assert not any("acc" in name or name.startswith("base/minus") for name in metrics)
    page, second = ((tmp_path / "out" / f"{n}.md").read_text() for n in ("table", "differences"))
    assert page.splitlines()[0] == "| Run | EM | F1 | nll | s/question | GiB | n |"
    assert page.splitlines()[3].endswith(" | 0.250 | 3.00 | 6 |")
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
    found = differences(one, other)
    assert found["n"] == 2
    assert (found["em"], found["nll"], found["acc"]) == (-50.0, 0.5, 0.0)
    assert differences(one, one)["em_low"] == differences(one, one)["em_high"] == 0
    assert "acc" not in differences(one, one)  # c has none


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([line("other", 1)], r"ours/pred.* and .*base/pred.* have no question in common; compare"),
        (
            [line("q0", 1), line("q1", 1, answers=["Rome"])],
            r"ours/predictions\.jsonl:2: .*base/predictions\.jsonl:2, .*Lisbon.*, got .*Rome",
        ),
    ],
)
def test_what_is_not_the_same_is_not_compared(
    runs: list[Path], write: Write, tmp_path: Path, rows: list[dict[str, Any]], message: str
) -> None:
    write("ours", rows)
    with pytest.raises(DataError, match=message):
        report(tmp_path, runs)


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
        ("runs=x", r"runs must be a list, each entry a text, got 'x'; set runs"),
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
