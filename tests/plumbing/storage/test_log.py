"""The cache's file: what is written is read, and what is damaged is absent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plumbing.storage.log import EntryLog, cache_key

ROOT = Path(__file__).parents[3]
KEYS = [cache_key("key", i) for i in range(4)]

values = st.one_of(
    st.integers(),
    st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=2),
    st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=2),
)
entries = st.lists(st.tuples(st.sampled_from(KEYS), values), max_size=4)


def expected(written):
    return {key: [v for k, v in written if k == key] for key in KEYS if key in dict(written)}


@settings(deadline=None)  # processors may be shared
@given(st.lists(entries, max_size=3))
def test_what_is_written_is_read_by_old_and_new_readers(parts):
    with tempfile.TemporaryDirectory() as folder:
        log, reader = (EntryLog(Path(folder) / "new" / "x.log") for _ in range(2))
        written = []
        for part in parts:
            log.append(part)
            written += part
            assert log.read(KEYS) == reader.read(KEYS) == expected(written)
        assert EntryLog(log.path).read(KEYS[:2]) == {
            key: found for key, found in expected(written).items() if key in KEYS[:2]
        }


@settings(deadline=None)  # processors may be shared
@given(entries.filter(bool), st.data())
def test_a_flipped_byte_loses_entries_and_changes_none(written, data):
    with tempfile.TemporaryDirectory() as folder:
        log = EntryLog(Path(folder) / "x.log")
        log.append(written)
        content = bytearray(log.path.read_bytes())
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] ^= data.draw(st.integers(1, 255))
        log.path.write_bytes(content)
        for reader in (log, EntryLog(log.path)):  # one that knew the file before, and a new one
            found = reader.read(KEYS)
            assert all(is_subsequence(found[key], expected(written)[key]) for key in found)
            lost = len(written) - sum(map(len, found.values()))
            assert lost <= 2  # a lost line break costs both its neighbours


@settings(deadline=None)  # processors may be shared
@given(entries.filter(bool), st.data())
def test_a_cut_file_is_read_up_to_the_cut_and_goes_on(written, data):
    with tempfile.TemporaryDirectory() as folder:
        log = EntryLog(Path(folder) / "x.log")
        log.append(written)
        content = log.path.read_bytes()
        log.path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
        whole = log.path.read_bytes().count(b"\n")
        fresh = EntryLog(log.path)
        assert fresh.read(KEYS) == expected(written[:whole])
        fresh.append([(KEYS[0], "after")])
        after = {KEYS[0]: ["after"]}
        for reader in (fresh, EntryLog(log.path)):
            found = reader.read(KEYS)
            kept = expected(written[:whole])
            # The cut line is whole again where only its line break was lost.
            extra = expected(written[: whole + 1])
            assert found in (join(kept, after), join(extra, after))


def join(a, b):
    return {key: [*a.get(key, []), *b.get(key, [])] for key in KEYS if key in a or key in b}


def is_subsequence(part, whole):
    rest = iter(whole)
    return all(any(item == other for other in rest) for item in part)


def test_damage_is_logged(tmp_path, caplog):
    log = EntryLog(tmp_path / "x.log")
    log.append([(KEYS[0], "intact"), (KEYS[1], "damaged")])
    log.path.write_bytes(log.path.read_bytes().replace(b"damaged", b"demaged"))
    assert log.read(KEYS) == {KEYS[0]: ["intact"]}
    assert caplog.messages == [f"{log.path}: 1 entries are damaged and will be made again"]
    log.append([(KEYS[1], "again")])
    caplog.clear()
    assert log.read(KEYS) == {KEYS[0]: ["intact"], KEYS[1]: ["again"]}
    assert caplog.messages == []


def test_a_file_that_was_removed_or_replaced_is_read_anew(tmp_path):
    log = EntryLog(tmp_path / "x.log")
    log.append([(KEYS[0], "a"), (KEYS[1], "b")])
    assert set(log.read(KEYS)) == {KEYS[0], KEYS[1]}
    log.path.unlink()
    assert log.read(KEYS) == {}
    EntryLog(log.path).append([(KEYS[1], "c")])
    assert log.read(KEYS) == {KEYS[1]: ["c"]}


def test_numbers_that_are_not_finite_are_refused(tmp_path):
    log = EntryLog(tmp_path / "x.log")
    with pytest.raises(ValueError, match="not JSON compliant"):
        log.append([(KEYS[0], 1.0), (KEYS[1], float("nan"))])
    assert not log.path.exists()


def test_keys_depend_on_every_part_and_their_borders():
    parts = [("a", "b"), ("ab",), ("a", "b", None), ("a", ["b"]), (1, "b"), ("1", "b"), ("b", "a")]
    assert len({cache_key(*p) for p in parts}) == len(parts)
    assert len(cache_key()) == 64


WRITER = """
    import sys
    from plumbing.storage.log import EntryLog, cache_key
    log, name = EntryLog(sys.argv[1]), sys.argv[2]
    for i in range(int(sys.argv[3])):
        log.append([(cache_key(name, i), [name, i] * 500)])
        print(i, flush=True)
"""


def start_writer(path, name, count):
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(WRITER), str(path), name, str(count)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_processes_write_at_once_and_one_is_killed(tmp_path):
    """Whatever a writer acknowledged is there, whenever it dies and whoever writes beside it."""
    path = tmp_path / "x.log"
    doomed = start_writer(path, "doomed", 10**6)
    steady = start_writer(path, "steady", 200)
    delay = float(np.random.default_rng(0).uniform(0.1, 0.4))
    steady_lines, _ = steady.communicate(timeout=60)
    try:
        doomed.wait(delay)
    except subprocess.TimeoutExpired:
        doomed.send_signal(signal.SIGKILL)
    doomed_lines, _ = doomed.communicate(timeout=60)
    last = {"steady": len(steady_lines.splitlines()), "doomed": len(doomed_lines.splitlines())}
    assert last["steady"] == 200
    assert last["doomed"] > 1
    keys = {(name, i): cache_key(name, i) for name, count in last.items() for i in range(count)}
    found = EntryLog(path).read(keys.values())
    assert all(found[key] == [[name, i] * 500] for (name, i), key in keys.items())
