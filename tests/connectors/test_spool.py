"""The disk spool alone: order, bounds, kill -9, damage, a disk that takes nothing."""

import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from connectors.spool import PIECE_ROWS, ROW_BYTES, Row, Spool, SpoolDamaged, SpoolTrouble

ROOT = Path(__file__).parents[2]
EVERYTHING = 1 << 60
Written = tuple[str, str, bytes]

steps = st.one_of(
    st.tuples(
        st.just("append"), st.lists(st.tuples(st.sampled_from("ab"), st.text(max_size=3), st.binary(max_size=9)))
    ),
    st.tuples(st.just("delete"), st.integers(0, 20)),
    st.tuples(
        st.just("replace"), st.tuples(st.integers(0, 20), st.integers(1, 6), st.integers(0, 6), st.binary(max_size=30))
    ),
    st.tuples(st.just("reopen"), st.none()),
)
LAST_ROW_GOES: list[tuple[str, object]] = [("append", [("a", "k", b"")] * 5), ("replace", (4, 1, 1, b""))]


def content(spool: Spool) -> list[Row]:
    """All rows."""
    return spool.read(0, EVERYTHING, EVERYTHING)


@example([("append", [("a", "\0", b"")]), ("delete", 1)])
@example([("append", [("a", "\u00e4", b"")]), ("delete", 1)])
@example([*LAST_ROW_GOES, ("reopen", None)])
@example([*LAST_ROW_GOES, ("reopen", None), ("delete", 2), ("reopen", None)])
@settings(max_examples=60, deadline=None)
@given(st.lists(steps, max_size=12))
def test_it_is_a_queue_that_survives(ops: list[tuple[str, object]]) -> None:
    """Whatever is appended, deleted, replaced and reopened: the spool holds what a list would, in order, and knows its
    size."""
    with tempfile.TemporaryDirectory() as directory:
        spool = Spool(Path(directory), "c")
        spool.open(7)
        model: dict[int, Written] = {}
        last = 0
        for name, argument in ops:
            if name == "append":
                assert isinstance(argument, list)
                if argument:
                    assert spool.append(argument, 1) == last + 1
                model |= {last + 1 + i: record for i, record in enumerate(argument)}
                last += len(argument)
            elif name == "delete":
                assert isinstance(argument, int)
                up_to = min(argument, last)
                spool.delete(up_to)
                model = {n: r for n, r in model.items() if n > up_to}
            elif name == "replace":
                assert isinstance(argument, tuple)
                after, number, stays, value = argument
                rows = spool.read(after, number, EVERYTHING)
                kept = {row.id: value for row in rows[stays : stays + 1]}
                spool.replace(rows, kept)
                for row in rows:
                    if row.id in kept:
                        model[row.id] = (row.topic, row.key, value)
                    else:
                        del model[row.id]
            else:
                spool.close()
                spool = Spool(Path(directory), "c")
                spool.open(9)
            assert [(r.id, (r.topic, r.key, r.value)) for r in content(spool)] == list(model.items())
            assert spool.rows == len(model)
            assert spool.bytes == sum(len(t) + len(k.encode()) + len(v) + ROW_BYTES for t, k, v in model.values())
        assert spool.since_ns == 7
        spool.remove()
        assert not list(Path(directory).iterdir())


WRITER = """
import random, sys
from pathlib import Path
from connectors.spool import Spool
spool = Spool(Path(sys.argv[1]), "c")
spool.open(0)
rng = random.Random(sys.argv[2])
print("ready", spool.last_id, flush=True)
while True:
    first = spool.last_id + 1
    spool.append([("t", str(first + i), b"%d" % (first + i) * rng.randrange(1, 400)) for i in range(5)], 1)
    if rng.random() < 0.1:
        spool.delete(spool.last_id - 40)
    print(spool.last_id, flush=True)
"""


@pytest.mark.kill
def test_kill_9_in_the_middle_of_a_write(tmp_path: Path) -> None:
    """Killed at 12 random moments, it has all that it said was on the disk, and no append is there by half."""
    rng = random.Random(12)
    told = 0
    for life in range(12):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), str(life)], stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        assert process.stdout is not None
        first = process.stdout.readline().split()
        assert first[0] == "ready" and int(first[1]) >= told
        for _ in range(rng.randrange(1, 30)):
            told = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        said = [line for line in process.stdout.read().splitlines() if line.isdigit()]
        told = int(said[-1]) if said else told
        process.wait()
        spool = Spool(tmp_path, "c")
        spool.open(0)
        rows = content(spool)
        assert rows[-1].id >= told and rows[-1].id % 5 == 0
        assert [r.id for r in rows] == list(range(rows[0].id, rows[-1].id + 1))
        assert all(r.key == str(r.id) and r.value.startswith(r.key.encode()) for r in rows)
        spool.close()
    assert told > 12 * 5


@pytest.mark.parametrize("seed", range(40))
def test_damage_is_seen_and_the_rest_is_rescued(tmp_path: Path, seed: int) -> None:
    """Bits flipped anywhere in any of its files, or files cut short: no row is ever given altered or out of order, what
    is lost is told, and the spool goes on."""
    rng = random.Random(seed)
    spool = Spool(tmp_path, "c")
    spool.open(5)
    for _ in range(20):
        spool.append([("t", "k", rng.randbytes(rng.randrange(500))) for _ in range(10)], 1)
    written = content(spool)
    kept_open = {p.name: p.read_bytes() for p in tmp_path.iterdir() if not p.name.endswith("-shm")}
    spool.close()
    for path in tmp_path.iterdir():
        path.unlink()
    for name, data in kept_open.items():  # as a kill -9 leaves them, with the write-ahead log
        (tmp_path / name).write_bytes(data)
    victim = tmp_path / rng.choice([name for name, data in kept_open.items() if data])
    damaged = bytearray(victim.read_bytes())
    if rng.random() < 0.3:
        del damaged[rng.randrange(len(damaged)) :]
    else:
        for _ in range(rng.choice([1, 1, 5, 500])):
            damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
    victim.write_bytes(damaged)

    spool = Spool(tmp_path, "c")
    told = 0
    try:
        spool.open(9)
        found = content(spool)
    except SpoolDamaged:
        told, aside = spool.rescue(lambda: None)
        assert aside.exists()
        found = content(spool)
    rest = iter(written)
    assert all(row in rest for row in found)
    assert len(written) - len(found) <= told
    first = spool.append([("t", "k", b"new")], 2)
    assert first > (found[-1].id if found else 0)
    assert content(spool)[-1].value == b"new"
    assert spool.rows == len(found) + 1
    spool.close()


def damaged_spool(directory: Path, rows: int, at: int, number: int) -> Spool:
    """A spool of so many rows, of whose file so many bytes from there on are zeros; opened again."""
    spool = Spool(directory, "c")
    spool.open(0)
    spool.append([("t", "k", b"x" * 100)] * rows, 1)
    spool.close()
    (path,) = directory.glob("*.sqlite")
    with path.open("r+b") as file:
        file.seek(at)
        file.write(bytes(number))
    spool = Spool(directory, "c")
    with pytest.raises(SpoolDamaged):
        spool.open(0)
        content(spool)
    return spool


def test_a_long_rescue_shows_that_it_goes_on(tmp_path: Path) -> None:
    """A rescue beats for every piece that it reads, so nobody takes a large file for a thread that is stuck."""
    beats: list[None] = []
    spool = damaged_spool(tmp_path, 20 * PIECE_ROWS, 100_000, 4)
    missing, _ = spool.rescue(lambda: beats.append(None))
    assert 0 < missing < PIECE_ROWS
    assert len(beats) >= 20
    spool.close()


def test_what_is_no_database_is_not_searched_row_by_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the beginning of the file is gone, nothing can be read, and that is found out piece by piece."""
    spool = damaged_spool(tmp_path, 20 * PIECE_ROWS, 0, 100)
    asked: list[None] = []
    read = Spool._read
    monkeypatch.setattr(Spool, "_read", lambda *given: (asked.append(None), read(*given))[1])
    missing, _ = spool.rescue(lambda: None)
    assert missing == 20 * PIECE_ROWS
    assert len(asked) <= 20
    assert content(spool) == []
    spool.close()


def test_a_full_disk_changes_nothing(tmp_path: Path) -> None:
    """An append that the disk refuses is told, leaves no trace, and the next one works when there is room again."""
    spool = Spool(tmp_path, "c")
    spool.open(0)
    spool.append([("t", "k", b"x" * 1000)] * 100, 1)
    before = content(spool)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    largest = max(p.stat().st_size for p in tmp_path.iterdir())
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, limits[1]))
    try:
        with pytest.raises(SpoolTrouble):
            for _ in range(100):
                spool.append([("t", "k", os.urandom(100_000))], 1)
        assert content(spool)[:100] == before
        rows = spool.rows
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert spool.append([("t", "k", b"y")], 1) == rows + 1
    assert [r.value for r in content(spool)[-1:]] == [b"y"]
    assert len(content(spool)) == spool.rows == rows + 1
