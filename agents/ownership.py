"""Which partitions this process owns, and which record of each is the next: the part that distrusts Faust most.

Faust 0.15.3 loses records around rebalances: it resumes partitions before it seeks them, does not seek at all where
nothing is committed, and drops records below a read position that a stale task may have written after the seek. So
nothing here relies on what Faust delivers or skips. When a recovery is complete, the positions are asked from Kafka and
named to our reader; from then on exactly the next offset of each partition is accepted (our topics have no compaction
and no transactions, so offsets have no holes). Anything below was seen before; anything above means that a record was
skipped, and all is read again from the next offsets. Commits go past Faust's bookkeeping, too, straight to the group.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError
from aiokafka.structs import OffsetAndMetadata, TopicPartition

from agents.reader import Reader
from runtime.metrics import ASSIGNED_PARTITIONS, LAG_FRAMES, LAST_COMMIT_TIME, RETRIES
from runtime.watchdog import leave

log = logging.getLogger(__name__)

SEEK_PATIENCE_S = 2.0
SEEKS_MAX = 8  # per assignment; more means that seeking does not help
RETRY_S = 0.5


class Partition(NamedTuple):
    """A partition of a source topic, hashable and equal to Faust's and aiokafka's own."""

    topic: str
    partition: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Positions:
    """Offsets of one partition: what was committed (None: nothing), where the log starts and ends."""

    committed: int | None
    log_start: int
    log_end: int

    @property
    def first(self) -> int:
        """The first offset to read."""
        return self.log_start if self.committed is None else max(self.committed, self.log_start)

    @property
    def expired(self) -> int:
        """How many records were deleted before they were read."""
        return 0 if self.committed is None else max(0, self.log_start - self.committed)


#: Restores the state of an assignment; gives the partitions that must be read from the log's start to restore theirs.
OnAssigned = Callable[[Mapping[Partition, Positions]], Awaitable[frozenset[Partition]]]
OnRevoked = Callable[[], Awaitable[None]]


class Ownership:
    """The partitions of `sources` that are ours, from the end of a recovery to the next revocation."""

    def __init__(self, sources: frozenset[str], on_assigned: OnAssigned, on_revoked: OnRevoked, reader: Reader) -> None:
        self._sources, self.reader = sources, reader
        self._on_assigned, self._on_revoked = on_assigned, on_revoked
        self._consumer: Any = None
        self._expected: dict[Partition, int] = {}
        self._sought: dict[Partition, float] = {}
        self.term = 0  # counts assignments and revocations; work begun in another term must not be written
        self.assigned = False
        self.seeks = 0
        self.committed: dict[Partition, int] = {}

    def attach(self, consumer: Any) -> None:
        """Called by Faust's consumer when it is made."""
        self._consumer = consumer

    def accepts(self, topic: str, partition: int, offset: int) -> bool:
        """Whether this record is the next of its partition; if so the following one is expected."""
        tp = Partition(topic, partition)
        expected = self._expected.get(tp)
        if expected is None or offset < expected:
            return False
        if offset > expected:
            self._seek_again(tp, expected, offset)
            return False
        self._expected[tp] = offset + 1
        return True

    @property
    def expected(self) -> dict[Partition, int]:
        """The next offset to accept, per partition owned. A copy, for other threads."""
        return dict(self._expected)

    async def begin(self) -> None:
        """Recovery is due: find where to read, let the owner restore its state, accept records from there."""
        term = self.term = self.term + 1
        tps = [TopicPartition(*tp) for tp in self._consumer.assignment() if tp.topic in self._sources]
        positions = await self._in_consumer_thread(_positions(self._raw, tps)) if tps else {}
        anew = await self._on_assigned(positions)
        # Committed before the first row: killed in between, the next owner must not go on from where we were.
        if term != self.term or (anew and not await self.commit({tp: positions[tp].log_start for tp in anew})):
            return
        self._expected = {tp: p.log_start if tp in anew else p.first for tp, p in positions.items()}
        self.committed = dict(self._expected)
        self._sought.clear()
        self.seeks = 0
        self.assigned = True
        ASSIGNED_PARTITIONS.set(len(positions))

    def read(self) -> None:
        """Faust is ready to pass records on."""
        self.reader.read(self._expected)
        log.info("reading %d partitions", len(self._expected))

    def pause(self) -> None:
        """The process ends: accept nothing more, but what was accepted may still be committed."""
        self._expected = {}
        self.reader.read({})

    async def end(self) -> None:
        """Partitions are being revoked: accept nothing more."""
        self.term += 1
        self.assigned = False
        ASSIGNED_PARTITIONS.set(0)
        self._expected, self.committed = {}, {}
        self.reader.read({})
        await self._on_revoked()

    async def commit(self, offsets: Mapping[Partition, int]) -> bool:
        """Commit the next offset to read per partition; retries while they are ours. False: they no longer are."""
        term = self.term
        wanted = {TopicPartition(*tp): OffsetAndMetadata(offset, "") for tp, offset in offsets.items()}
        while term == self.term:
            try:
                await self._in_consumer_thread(self._raw.commit(wanted))
            except (CommitFailedError, IllegalStateError):
                return False  # the group has moved on; another owner does this work again
            except KafkaError as error:
                if not error.retriable:
                    leave(f"Kafka refused to commit: {error!r}")
                RETRIES.labels(dependency="kafka").inc()
                await asyncio.sleep(RETRY_S)
            else:
                self.committed.update(offsets)
                LAST_COMMIT_TIME.set_to_current_time()
                return True
        return False

    async def attend(self) -> None:
        """To be called every second while assigned: whoever asks the driver for nothing misses errors of the group."""
        try:
            await self._in_consumer_thread(self._raw.getmany(timeout_ms=0))  # all is paused: returns nothing, at once
        except KafkaError as error:
            leave(f"the group cannot go on: {error!r}")

    def lag(self) -> int:
        """Records known to wait in our partitions, as of the last answer to a fetch."""
        waiting = sum(max(0, self.reader.log_end(tp) - expected) for tp, expected in self._expected.items())
        LAG_FRAMES.set(waiting)
        return waiting

    @property
    def unacknowledged(self) -> int:
        """Records that were accepted and are not committed yet."""
        committed = self.committed
        return sum(expected - committed.get(tp, expected) for tp, expected in self.expected.items())

    @property
    def _raw(self) -> Any:
        return self._consumer._thread._ensure_consumer()

    async def _in_consumer_thread(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Not through Faust's queue: a fetch may occupy that for a second."""
        future = asyncio.run_coroutine_threadsafe(work, self._consumer._thread.thread_loop)
        return await asyncio.wrap_future(future)

    def _seek_again(self, tp: Partition, expected: int, offset: int) -> None:
        now = time.monotonic()
        if now - self._sought.get(tp, -SEEK_PATIENCE_S) < SEEK_PATIENCE_S:
            return
        self._sought[tp] = now
        self.seeks += 1
        log.warning("%s/%d: offset %d came, %d is next; seeking back", *tp, offset, expected)
        if self.seeks > SEEKS_MAX:
            leave(f"{tp.topic}/{tp.partition}: offset {expected} does not come")
        self.reader.read(self._expected)


async def _positions(consumer: Any, tps: list[Any]) -> dict[Partition, Positions]:
    """Ask Kafka for the positions."""
    starts, ends = await consumer.beginning_offsets(tps), await consumer.end_offsets(tps)
    return {
        Partition(tp.topic, tp.partition): Positions(
            committed=await consumer.committed(tp), log_start=starts[tp], log_end=ends[tp]
        )
        for tp in tps
    }
