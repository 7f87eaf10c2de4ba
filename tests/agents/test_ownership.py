"""Which records are accepted, whatever Faust delivers."""

import asyncio
from typing import Any, cast

import pytest

from agents import ownership
from agents.ownership import Ownership, Partition, Positions
from agents.reader import Reader

TP = Partition("raw", 3)


class _FakeConsumer:
    """Stands in for Faust's consumer: assigned one partition, answers at once in the same loop."""

    def __init__(self, committed: int | None, start: int, end: int) -> None:
        self.commits: list[dict[Partition, int]] = []
        self.fail: list[Exception] = []
        self._committed, self._start, self._end = committed, start, end
        self._thread = self
        self.thread_loop = asyncio.get_running_loop()

    def _ensure_consumer(self) -> "_FakeConsumer":
        return self

    def assignment(self) -> set[Partition]:
        return {TP, Partition("changelog", 3)}

    async def beginning_offsets(self, tps: list[Any]) -> dict[Any, int]:
        return dict.fromkeys(tps, self._start)

    async def end_offsets(self, tps: list[Any]) -> dict[Any, int]:
        return dict.fromkeys(tps, self._end)

    async def committed(self, tp: Any) -> int | None:
        return self._committed

    async def commit(self, offsets: dict[Any, Any]) -> None:
        if self.fail:
            raise self.fail.pop(0)
        self.commits.append({Partition(*tp): meta.offset for tp, meta in offsets.items()})


class _FakeReader:
    """Stands in for the reader: writes down from where it was told to read."""

    def __init__(self, end: int) -> None:
        self.orders: list[dict[Partition, int]] = []
        self._end = end

    def read(self, offsets: dict[Partition, int]) -> None:
        self.orders.append(dict(offsets))

    def log_end(self, tp: Partition) -> int:
        return self._end


async def owned(
    committed: int | None = 5, start: int = 0, end: int = 9, lost: frozenset[Partition] = frozenset()
) -> tuple[Ownership, _FakeConsumer, _FakeReader]:
    """An ownership of raw/3 after its recovery; `lost`: partitions whose state was not there."""

    async def assigned(positions: Any) -> frozenset[Partition]:
        return lost

    async def revoked() -> None:
        return

    reader = _FakeReader(end)
    made = Ownership(frozenset({"raw"}), assigned, revoked, cast(Reader, reader))
    consumer = _FakeConsumer(committed, start, end)
    made.attach(consumer)
    await made.begin()
    made.read()
    return made, consumer, reader


async def test_exactly_the_next_offset_is_accepted() -> None:
    """From the committed offset on every record is accepted once, and nothing before, twice, or of other partitions."""
    ours, _, reader = await owned(committed=5)
    assert reader.orders == [{TP: 5}]
    delivered = [4, 5, 5, 6, 5, 7]
    assert [n for n in delivered if ours.accepts("raw", 3, n)] == [5, 6, 7]
    assert not ours.accepts("raw", 2, 0)
    assert ours.expected == {TP: 8}


async def test_where_nothing_is_committed_reading_starts_at_the_log_start() -> None:
    """Without a commit the first offset is the log's start, sought explicitly; Faust would not seek at all."""
    ours, _, reader = await owned(committed=None, start=2)
    assert reader.orders == [{TP: 2}]
    assert not ours.accepts("raw", 3, 1)
    assert ours.accepts("raw", 3, 2)


async def test_where_the_state_is_lost_all_is_read_again() -> None:
    """Reading starts at the log's start, committed before anything is read, for the next owner."""
    ours, consumer, reader = await owned(committed=5, start=2, lost=frozenset({TP}))
    assert consumer.commits == [{TP: 2}]
    assert reader.orders == [{TP: 2}]
    assert ours.accepts("raw", 3, 2)


async def test_a_skipped_record_is_asked_for_again() -> None:
    """A record beyond the next one is not accepted; the partition is sought once, and reading goes on there."""
    ours, _, reader = await owned(committed=5)
    assert not ours.accepts("raw", 3, 6)
    assert not ours.accepts("raw", 3, 7)
    assert reader.orders == [{TP: 5}, {TP: 5}]
    assert ours.accepts("raw", 3, 5)
    assert ours.accepts("raw", 3, 6)


async def test_seeking_in_vain_leaves_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """A record that never comes ends the process instead of being skipped."""
    left: list[str] = []
    monkeypatch.setattr(ownership, "leave", left.append)
    monkeypatch.setattr(ownership, "SEEK_PATIENCE_S", 0.0)
    ours, _, _ = await owned(committed=5)
    for _ in range(ownership.SEEKS_MAX + 1):
        assert not ours.accepts("raw", 3, 6)
    assert left == ["raw/3: offset 5 does not come"]


async def test_nothing_is_accepted_or_committed_after_a_revocation() -> None:
    """Events of an old assignment are still queued when it ends; they are ignored, and their commit is refused."""
    ours, _, reader = await owned(committed=5)
    assert ours.accepts("raw", 3, 5)
    await ours.end()
    assert not ours.accepts("raw", 3, 6)
    assert reader.orders == [{TP: 5}, {}]
    assert not ours.assigned


async def test_a_commit_that_the_group_refuses_is_not_repeated() -> None:
    """After a rebalance the commit is dropped; a broker that does not answer is asked again."""
    from aiokafka.errors import CommitFailedError, NotCoordinatorForGroupError

    ours, consumer, _ = await owned(committed=5)
    consumer.fail = [NotCoordinatorForGroupError()]
    assert await ours.commit({TP: 7})
    assert consumer.commits == [{TP: 7}] and ours.committed == {TP: 7}
    consumer.fail = [CommitFailedError("already rebalanced")]
    assert not await ours.commit({TP: 8})
    assert consumer.commits == [{TP: 7}]


def test_records_deleted_before_they_were_read_are_counted() -> None:
    """A committed offset below the log's start means that retention was too short."""
    short = Positions(committed=5, log_start=12, log_end=20)
    assert (short.first, short.expired) == (12, 7)
    fine = Positions(committed=15, log_start=12, log_end=20)
    assert (fine.first, fine.expired) == (15, 0)
    new = Positions(committed=None, log_start=12, log_end=20)
    assert (new.first, new.expired) == (12, 0)
