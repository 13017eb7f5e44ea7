"""Faults made on purpose: flipped bits and killed processes."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

ROOT = Path(__file__).parents[2]


@contextmanager
def flipped(path: Path, random: Random) -> Iterator[str]:
    """One bit of a file is the other way round while the block runs; yields which."""
    good = path.read_bytes()
    place, bit = random.randrange(len(good)), random.randrange(8)
    bad = bytearray(good)
    bad[place] ^= 1 << bit
    _replace(path, bytes(bad))
    try:
        yield f"{path.name} byte {place} bit {bit}"
    finally:
        _replace(path, good)


def _replace(path: Path, content: bytes) -> None:
    """By another file under its name: whoever has mapped it keeps what was mapped."""
    other = path.with_name(f"{path.name}.other")
    other.write_bytes(content)
    other.replace(path)


def killed(program: str, arguments: list[str], after: float, lines: int = 1) -> list[str]:
    """Run a Python program, and kill it with SIGKILL some time after it has begun its work.

    Args:
        program: Its source. It writes a line, flushed, when it begins and after what it has done.
        arguments: Its arguments.
        after: Seconds from its first ``lines`` lines to the kill.
        lines: How many lines to wait for.

    Returns:
        The lines that it wrote.
    """
    command = [sys.executable, "-c", program, *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        try:
            said = [process.stdout.readline() for _ in range(lines)]
            time.sleep(after)
        finally:
            process.kill()
        return [line.strip() for line in said + process.stdout.readlines()]


def handlers() -> dict[signal.Signals, int]:
    """Addresses of the handlers that the process really has, which Python does not know."""
    found = {}
    for number in (signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL):
        action = (ctypes.c_ulong * 32)()  # struct sigaction begins with the handler
        assert ctypes.CDLL(None).sigaction(int(number), None, action) == 0
        found[number] = action[0]
    return found
