from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import InstantiationException
from hydra.utils import instantiate

from plumbing.storage.jsonl import write_jsonl
from retrieval.commands.build_index import build_index_command

ROOT = Path(__file__).parents[3]


def overrides(tmp_path):
    rows = [{"id": f"p{i}", "title": "Seas", "text": f"number {i}"} for i in range(5)]
    write_jsonl(tmp_path / "corpus.jsonl", rows)
    return [
        "retriever=bm25",
        f"retriever.index_dir={tmp_path / 'index'}",
        f"corpus.path={tmp_path / 'corpus.jsonl'}",
        f"corpus.cache_dir={tmp_path / 'cache'}",
    ]


def composed(tmp_path, *more):
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        output = f"paths.output_dir={tmp_path / 'run'}"
        return compose("build_index", [*overrides(tmp_path), output, *more])


def test_it_builds_and_reports(tmp_path, caplog):
    config = composed(tmp_path, "retriever.threads=1")
    with caplog.at_level(logging.INFO):
        metrics = build_index_command(config)
    assert json.loads((tmp_path / "run" / "metrics.json").read_text()) == metrics
    assert metrics["passages"] == 5
    files = [path for path in (tmp_path / "index").rglob("*") if path.is_file()]
    assert metrics["bytes"] == sum(path.stat().st_size for path in files)
    assert metrics["seconds"] > 0
    assert metrics["peak_rss"] > 1e7
    assert "5 passages in" in caplog.text
    retriever = instantiate(config.retriever).open(instantiate(config.corpus))
    (hits,) = retriever.search(["3"], 2)
    assert [hit.passage_id for hit in hits] == ["p3"]


def test_the_defaults_are_pyserinis(tmp_path):
    settings = instantiate(composed(tmp_path).retriever)
    assert (settings.k1, settings.b, settings.max_query_tokens) == (0.9, 0.4, None)


def test_a_setting_out_of_range_is_named(tmp_path):
    with pytest.raises(InstantiationException, match=r"b must lie between 0 and 1, got 2\.0"):
        build_index_command(composed(tmp_path, "retriever.b=2.0"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ([], ""),
        (["corpus.path=nowhere.jsonl"], "error: nowhere.jsonl: expected a corpus file, got"),
        (["retriever.index_dir=???"], "error: expected a value for retriever.index_dir; give"),
    ],
)
def test_the_script(tmp_path, change, message):
    command = [sys.executable, str(ROOT / "scripts" / "build_index.py"), *overrides(tmp_path)]
    run = [*command, f"hydra.run.dir={tmp_path / 'run'}", *change]
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == (1 if message else 0)
    assert done.returncode == (2 if message else 0)
    assert (tmp_path / "run" / "metrics.json").exists() == (not message)
