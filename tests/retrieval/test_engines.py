"""Whichever engine encodes, the bytes are the same."""

from __future__ import annotations

import sys

import pytest

from retrieval.encoders import EncoderSettings
from retrieval.encoding import EncodingJob, encode_corpus
from retrieval.engines import LightningEngine, PlainEngine, RayEngine, make_engine
from retrieval.java import start_java
from retrieval.signals import signals_kept
from tests.retrieval.faults import handlers
from tests.tiny_encoders import make_corpus, make_dpr_folder, make_passages, make_sentence_folder

pytestmark = [
    pytest.mark.filterwarnings("ignore:The 'predict_dataloader' does not have many workers"),
    # Ray's, of its own settings and of sockets and files that it leaves to the collector.
    pytest.mark.filterwarnings("ignore:.*:FutureWarning:ray"),
    pytest.mark.filterwarnings("ignore:.*:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:.*:pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("engines")


@pytest.fixture(scope="module")
def corpus(folder):
    return make_corpus(folder, make_passages(70))


@pytest.fixture(scope="module")
def job(folder, corpus):
    model = str(make_sentence_folder(folder / "sentence"))
    encoder = EncoderSettings(
        passage_model=model, max_passage_tokens=48, max_question_tokens=16, device="cpu"
    )
    return EncodingJob(corpus, encoder, "float32", 16)


@pytest.fixture(scope="module")
def dpr_job(folder, corpus):
    models = [make_dpr_folder(folder / kind, kind) for kind in ("question", "context")]
    encoder = EncoderSettings(
        kind="dpr",
        question_model=str(models[0]),
        passage_model=str(models[1]),
        max_passage_tokens=48,
        device="cpu",
    )
    return EncodingJob(corpus, encoder, "float16", 16)


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def expected(job, folder):
    names = encode_corpus(job, PlainEngine(), folder / "plain")
    assert len(names) == 5
    return files(folder / "plain")


def test_lightning_on_one_device(job, expected, tmp_path):
    encode_corpus(job, LightningEngine(1, "cpu"), tmp_path / "lightning")
    assert files(tmp_path / "lightning") == expected


@pytest.mark.slow
def test_lightning_on_two_processes(job, expected, tmp_path):
    encode_corpus(job, LightningEngine(2, "cpu"), tmp_path / "lightning")
    assert files(tmp_path / "lightning") == expected


@pytest.mark.slow
def test_ray_with_two_workers(job, expected, tmp_path):
    ray = pytest.importorskip("ray")
    start_java()
    before = handlers()
    encode_corpus(job, RayEngine(2, "cpu"), tmp_path / "ray")
    assert handlers() == before != {}
    assert files(tmp_path / "ray") == expected
    assert not ray.is_initialized()


@pytest.mark.slow
def test_a_ray_that_runs_already_is_used_and_left_running(dpr_job, tmp_path):
    ray = pytest.importorskip("ray")
    encode_corpus(dpr_job, PlainEngine(), tmp_path / "plain")
    with signals_kept():
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        encode_corpus(dpr_job, RayEngine(3, "cpu"), tmp_path / "ray")
        assert ray.is_initialized()
    finally:
        with signals_kept():
            ray.shutdown()
    assert files(tmp_path / "ray") == files(tmp_path / "plain")


def test_without_ray_the_message_says_what_to_do(job, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match="engine=ray needs the package ray; install it with"):
        encode_corpus(job, RayEngine(2), tmp_path / "ray")


def test_engines_by_name():
    assert isinstance(make_engine("plain"), PlainEngine)
    assert isinstance(make_engine("lightning", 2), LightningEngine)
    assert isinstance(make_engine("ray", 2, ray_address="auto"), RayEngine)


@pytest.mark.parametrize(
    ("name", "workers", "message"),
    [
        ("dask", 1, "engine must be one of plain, lightning, ray, got 'dask'; set engine="),
        ("ray", 0, "workers must be positive, got 0; set retriever.workers"),
        ("plain", 2, "the plain engine is one process, got workers=2; set engine=lightning or"),
    ],
)
def test_impossible_engines(name, workers, message):
    with pytest.raises(ValueError, match=message):
        make_engine(name, workers)
