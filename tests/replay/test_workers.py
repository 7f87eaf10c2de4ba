"""Shares of partitions among processes, without Kafka: a source in memory."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from replay import workers
from replay.fold.lane import Folded, Place, rejection
from replay.results.writers import FolderWriter, NoWriter, Writer
from replay.sources.records import Batches, RawRecord
from replay.sources.topic import SourceError
from replay.workers import Counts, Piece, Plan, ReplayError, Task, Told
from runtime.partitions import home_partition
from tests.kernels.frame_strategies import Reading
from tests.replay.test_chain import STEPS, frames, record

PARTITIONS = 4
ASSETS = tuple(f"R{n}" for n in range(12))
SECONDS = 200


class Memory:
    """Records of every partition, dated a second apart."""

    def __init__(self, trouble: Callable[[int], None] = lambda _: None) -> None:
        self.trouble = trouble
        self.records: dict[int, list[RawRecord]] = {p: [] for p in range(PARTITIONS)}
        for asset in ASSETS:
            sent = frames(
                [Reading(source_ns=10**18 + i * 10**9, value=80 + i % 7) for i in range(SECONDS)], [True] * SECONDS
            )
            for i, frame in enumerate(sent):
                made = record(_of(frame, asset))
                of = self.records[home_partition(asset.encode(), PARTITIONS)]
                of.append(made._replace(offset=len(of), time_ms=i * 1000))

    def read(self, partition: int, start: int, end: int) -> Batches:
        """In batches of 100."""
        for begin in range(start, end, 100):
            self.trouble(partition)
            yield self.records[partition][begin : min(end, begin + 100)]

    def close(self) -> None:
        """Nothing to close."""


def _of(frame: Any, asset: str) -> Any:
    from dataclasses import replace

    return replace(frame, asset=asset)


def plan(memory: Memory, writer: Callable[[], Writer] = NoWriter, wide: int = 100, warm: int = 0) -> Plan:
    """All records; of each partition, `warm` of them to warm up."""
    pieces = {p: Piece(begin=0, start=warm, end=len(found)) for p, found in memory.records.items() if found}
    tasks = [Task(partition=p, pieces=(piece,)) for p, piece in pieces.items()]
    return Plan(
        tasks=tasks, steps=STEPS, topic="twin.raw", partitions=PARTITIONS, wide=wide, states={},
        source=lambda: memory, writer=writer,
    )  # fmt: skip


def done(asked: Plan, count: int) -> tuple[Counts, dict[int, Any]]:
    """What was done by so many workers."""
    counts, digests = Counts(), {}

    def tell(told: Told) -> None:
        counts.add(told.counts)
        digests.update(told.digests)

    workers.run(asked, count, tell)
    return counts, digests


def test_any_number_of_workers_does_the_same() -> None:
    """One, two or more workers than partitions fold every record once, with equal counts and digests."""
    memory = Memory()
    found = [done(plan(memory), count) for count in (1, 2, 9)]
    assert found[0] == found[1] == found[2]
    counts, digests = found[0]
    assert counts.records == counts.frames == counts.readings == len(ASSETS) * SECONDS
    assert (counts.first_ms, counts.last_ms) == (0, (SECONDS - 1) * 1000)
    assert {asset for of in digests.values() for asset in of} == set(ASSETS)


def test_digests_of_wide_do_not_depend_on_how_much_is_joined() -> None:
    """Joined by 2 or by 4,096 readings, the digests are the same."""
    memory = Memory()
    assert done(plan(memory, wide=2), 1)[1] == done(plan(memory, wide=4096), 2)[1]


def test_what_warms_up_does_not_count() -> None:
    """Records before the start are folded, but neither counted nor written."""
    memory = Memory()
    counts, _ = done(plan(memory, warm=50), 2)
    assert counts.readings == len(ASSETS) * SECONDS - 50 * sum(map(bool, memory.records.values()))


def test_a_folder_has_every_reading_with_its_frame(tmp_path: Path) -> None:
    """Wide results in Parquet name the frame that each reading came in."""
    memory = Memory()
    done(plan(memory, lambda: FolderWriter(tmp_path)), 2)
    rows = [row for part in (tmp_path / "readings").iterdir() for row in pq.read_table(part).to_pylist()]
    assert sorted((r["asset"], r["seq"]) for r in rows) == [(a, s) for a in sorted(ASSETS) for s in range(SECONDS)]
    states = [row for part in (tmp_path / "states").iterdir() for row in pq.read_table(part).to_pylist()]
    assert len(states) < len(rows) / 10


class Refusing(NoWriter):
    """Cannot write anything of one asset."""

    def take(self, found: Folded) -> None:
        """As a topic does with what is too large for it."""
        if found.key == b"R3":
            place = Place("twin.raw", 0, 0)
            found.rejected.append(rejection(place, stage="estimation", asset="R3", reason="too large", payload=b""))


def test_what_a_writer_rejects_is_counted() -> None:
    """A run never claims to have no rejected records where a writer could not take some."""
    counts, _ = done(plan(Memory(), Refusing, wide=0), 2)
    assert counts.rejected == SECONDS


def test_a_worker_that_fails_fails_the_run_with_its_reason() -> None:
    """What a worker could not read is the run's error; the other workers are stopped."""

    def trouble(partition: int) -> None:
        if partition == 2:
            raise SourceError("twin.raw/2: nothing came for 60 s at offset 0")

    with pytest.raises(ReplayError, match=r"twin\.raw/2: nothing came for 60 s at offset 0"):
        done(plan(Memory(trouble)), 3)


def test_a_worker_that_is_killed_fails_the_run() -> None:
    """A worker that ends without a word is noticed."""

    def trouble(partition: int) -> None:
        if partition == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(ReplayError, match="ended with exit code -9"):
        done(plan(Memory(trouble)), 2)
