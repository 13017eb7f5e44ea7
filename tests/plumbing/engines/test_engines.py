"""All engines give the same bytes if they use the same number of threads."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch

from plumbing.engines import engines
from plumbing.engines.engines import LightningEngine, PlainEngine, RayEngine, make_engine
from plumbing.engines.job import check_rounding
from plumbing.signals import signals_kept
from retrieval.bm25.java import start_java
from retrieval.dense.encoding import EncodingJob, ShardEncoder, StoredJob, encode_corpus
from retrieval.dense.shard import find_shards
from retrieval.encoders.settings import encoder_settings
from tests.helpers.faults import handlers
from tests.helpers.tiny_encoders import (
    WordEncoder,
    WordEncoderSettings,
    make_corpus,
    make_dpr_folder,
    make_passages,
    make_sentence_folder,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore:The 'predict_dataloader' does not have many workers"),
    # Ray's warnings, about its own settings, and about sockets and files that it does not close.
    pytest.mark.filterwarnings("ignore:.*:FutureWarning:ray"),
    pytest.mark.filterwarnings("ignore:.*:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:.*:pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """One thread, as in Ray's workers; with more, some processors add in another order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")  # for spawned processes
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("engines")


@pytest.fixture(scope="module")
def corpus(folder):
    return make_corpus(folder, make_passages(70))


@pytest.fixture(scope="module")
def job(folder, corpus):
    model = str(make_sentence_folder(folder / "sentence"))
    encoder = encoder_settings(
        passage_model=model, max_passage_tokens=48, max_question_tokens=16, device="cpu"
    )
    return EncodingJob(corpus, encoder, "float32", 16)


@pytest.fixture(scope="module")
def dpr_job(folder, corpus):
    models = [make_dpr_folder(folder / kind, kind) for kind in ("question", "context")]
    encoder = encoder_settings(
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


class Rounded(WordEncoder):
    """An encoder that rounds differently in another process, or on another device."""

    rounding = "bfloat16"


@dataclass(frozen=True)
class Elsewhere(WordEncoderSettings):
    def load(self, device=None):
        return WordEncoder(self) if device is None else Rounded(self)


def test_workers_that_round_otherwise_are_refused(corpus, tmp_path):
    job = EncodingJob(corpus, Elsewhere(), "float32", 16)
    with pytest.raises(ValueError, match=r"as this process \(none: .*got one of bfloat16; start"):
        encode_corpus(job, LightningEngine(1, "cpu"), tmp_path / "lightning")
    assert not find_shards(tmp_path / "lightning")
    with pytest.raises(ValueError, match="expected workers that encode as this process"):
        check_rounding("torch.float16 cuda 64", "torch.float32 cpu 64")


class Workers:
    """A stand-in for Ray. Its workers run in this process, when they are called."""

    def __init__(self, worker):
        self.worker = worker

    def cluster_resources(self):
        return {"CPU": 2.0}

    def remote(self, **options):
        return lambda kind: SimpleNamespace(remote=lambda *given: self.actor(self.worker(*given)))

    def actor(self, worker):
        return SimpleNamespace(
            start=SimpleNamespace(remote=lambda: _Done(worker.start())),
            work=SimpleNamespace(remote=lambda *given: _Done(worker.work(*given))),
        )

    def wait(self, pending, num_returns):
        return pending[:1], pending[1:]

    def get(self, done):
        return done.value

    def kill(self, worker):
        pass


class _Done:
    def __init__(self, value):
        self.value = value


def test_rays_workers_say_how_they_round(job, expected, tmp_path):
    def other(_):
        return engines._Actor(lambda: ShardEncoder(Elsewhere(), "float32"))

    folder = tmp_path / "ray"
    encode_corpus(job, OnStandIn(Workers(engines._Actor)), folder)
    assert files(folder) == expected
    with pytest.raises(ValueError, match="got one of none; start from a machine with the workers'"):
        encode_corpus(job, OnStandIn(Workers(other)), tmp_path / "other")


class OnStandIn(RayEngine):
    """Ray's engine, running on the stand-in for Ray."""

    def __init__(self, ray):
        super().__init__(2, "cpu")
        self._ray = ray

    def run(self, job, numbers):
        self._run(self._ray, job, numbers)


@pytest.mark.parametrize(
    ("device", "there", "accelerator", "devices"),
    [
        ("cuda:1", True, "gpu", [1]),
        ("cuda", True, "gpu", 1),
        ("auto", True, "gpu", 1),
        ("auto", False, "cpu", 1),
        ("cpu", True, "cpu", 1),
    ],
)
def test_a_device_keeps_its_number(job, tmp_path, monkeypatch, device, there, accelerator, devices):
    seen = {}

    class Trainer:
        def __init__(self, **given):
            seen.update(given)

        def predict(self, module, return_predictions):
            pass

    monkeypatch.setattr("torch.cuda.is_available", lambda: there)
    monkeypatch.setattr("lightning.Trainer", Trainer)
    LightningEngine(1, device).run(StoredJob(job, tmp_path), [0])
    assert (seen["accelerator"], seen["devices"]) == (accelerator, devices)


def test_engines_by_name():
    assert isinstance(make_engine("plain"), PlainEngine)
    assert isinstance(make_engine("lightning", 2), LightningEngine)
    assert isinstance(make_engine("ray", 2, ray_address="auto"), RayEngine)


@pytest.mark.parametrize(
    ("name", "workers", "message"),
    [
        ("dask", 1, "engine must be one of plain, lightning, ray, got 'dask'; set engine"),
        ("ray", 0, "workers must be positive, got 0; set workers"),
        ("lightning", 2, "engine=lightning with workers=2 chooses the devices, got 'cuda:1'; set"),
        ("ray", 1, r"got 'cuda:1'; set encoder\.device=cuda"),
        ("plain", 2, "the plain engine is one process, got workers=2; set engine=lightning or"),
    ],
)
def test_impossible_engines(name, workers, message):
    with pytest.raises(ValueError, match=message):
        make_engine(name, workers, "cuda:1")
