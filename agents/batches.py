"""An agent without a table: records in batches to a function, acknowledged in order when it has returned.

It is its own application, so what the function waits for never delays a rebalance of a stateful stage. Knows Kafka,
but not Faust.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from agents.fold import FailPoint
from agents.outbox import Receipts
from agents.ownership import Partition, Positions
from agents.process import Process
from runtime.metrics import REJECTED
from runtime.partitions import home_partition
from runtime.watchdog import leave
from schemas.codec import encode
from schemas.records import Alert, Rejected
from schemas.topics import ALERTS, Topic
from schemas.topics import REJECTED as REJECTED_TOPIC

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Received:
    """One record as it was read."""

    topic: Topic
    partition: int
    offset: int
    key: bytes
    value: bytes


Handle = Callable[[Sequence[Received]], Awaitable[None]]


class Batches:
    """Gathers records and hands them over, one batch at a time; commits what was handled every checkpoint."""

    running: "Batches | None" = None

    def __init__(
        self,
        process: Process,
        handle: Handle,
        on_stop: Callable[[], Awaitable[None]] | None,
        fail_point: FailPoint,
    ) -> None:
        self._process, self._handle, self._on_stop, self._fail_point = process, handle, on_stop, fail_point
        prefix = process.plant.kafka.prefix
        self._batch_max = process.plant.sink.batch_frames
        self._topic_of = {topic.full_name(prefix): topic for topic in process.sources}
        configured = process.plant.kafka.configured_prefix
        self._at_work = {topic.full_name(configured): topic.full_name(prefix) for topic in process.sources}
        self._gathered: list[Received] = []
        self._handled: dict[Partition, int] = {}
        self._term = 0
        self._arrived, self._room = asyncio.Event(), asyncio.Event()
        self._batches = 0
        self._busy = asyncio.Lock()
        self._task = asyncio.create_task(self._work())
        Batches.running = self

    def progress(self) -> object:
        """Batches handled."""
        return self._batches

    async def assigned(self, positions: Mapping[Partition, Positions]) -> frozenset[Partition]:
        """Begin anew; a batch of an earlier assignment may still be in the hands of the function."""
        self._forget()
        return frozenset()

    async def revoked(self) -> None:
        """Drop what was gathered; what is being handled is not acknowledged."""
        self._forget()

    async def take(self, tp: Partition, offset: int, key: bytes | None, value: bytes | None) -> None:
        """Add one record. Waits while a whole batch is waiting: Faust then stops fetching."""
        while len(self._gathered) >= self._batch_max:
            term = self._term
            self._room.clear()
            await self._room.wait()
            if term != self._term:
                return
        self._gathered.append(Received(self._topic_of[tp.topic], tp.partition, offset, key or b"", value or b""))
        self._arrived.set()

    async def save(self) -> None:
        """Commit what was handled."""
        handled, self._handled = self._handled, {}
        if handled:
            self._fail_point("ack")
            await self._process.ownership.commit(handled)

    async def close(self) -> None:
        """Wait for the batch in hand, commit it, and let the function close what it opened."""
        async with self._busy:
            await self.save()
        self._task.cancel()
        if self._on_stop is not None:
            await self._on_stop()

    def _forget(self) -> None:
        self._term += 1
        self._gathered, self._handled = [], {}
        self._room.set()

    async def _work(self) -> None:
        while True:
            await self._arrived.wait()
            async with self._busy:
                await self._handle_batch()

    async def _handle_batch(self) -> None:
        term = self._term
        batch, self._gathered = self._gathered, []
        self._arrived.clear()
        self._room.set()
        if not batch:
            return
        try:
            await self._handle(batch)
        except Exception as error:
            log.exception("%s: handling a batch failed", self._process.name)
            leave(f"{self._process.name}: {error!r}")
        self._fail_point("handled")
        self._batches += 1
        if term == self._term:
            for record in batch:
                self._handled[Partition(self._name(record.topic), record.partition)] = record.offset + 1

    def _name(self, topic: Topic) -> str:
        return topic.full_name(self._process.plant.kafka.prefix)

    async def send(self, topic: Topic, record: Rejected | Alert) -> None:
        """Send one record and wait until Kafka has it."""
        receipts, key = Receipts(), record.asset.encode()
        home = home_partition(key, self._process.plant.kafka.partitions)
        await self._process.outbox.send(receipts, self._name(topic), key, encode(record), home)
        await receipts.wait()

    def placed(self, rejected: Rejected) -> Rejected:
        """With its topic, which the function knows by its configured name, as it is at work."""
        return replace(rejected, topic=self._at_work.get(rejected.topic, rejected.topic))

    def heartbeat(self) -> None:
        """See `heartbeat`."""
        self._process.watchdog.heartbeat()


async def reject(rejected: Rejected) -> None:
    """Send to the topic of rejected records; returns when Kafka has it. Only inside a `Handle`."""
    await _running().send(REJECTED_TOPIC, _running().placed(rejected).fitting())
    REJECTED.inc()


async def alert(raised: Alert) -> None:
    """Send to the topic of alerts; returns when Kafka has it. Only inside a `Handle`."""
    await _running().send(ALERTS, raised)


def heartbeat() -> None:
    """Tell the watchdog that waiting is on purpose: to be called at least every few seconds while retrying."""
    _running().heartbeat()


def _running() -> Batches:
    if Batches.running is None:
        raise RuntimeError("no agent without a table runs in this process")
    return Batches.running
