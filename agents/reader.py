"""Reads partitions with a client of its own, because a fetch of Faust's driver costs more than a frame does.

That driver encodes and decodes every request for every partition in Python. Here librdkafka fetches in its own
threads, and what has come crosses to the event loop in one step per batch. Nothing is subscribed or committed here:
which partitions are ours, and from where they are read, is `Ownership`'s part. May not know Faust.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Mapping
from typing import NamedTuple, TypeVar

from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from runtime.config import Kafka
from runtime.kafka import client_settings
from runtime.metrics import RETRIES
from runtime.watchdog import leave

log = logging.getLogger(__name__)

WAIT_S = 0.5  # a new order waits at most so long
HOP_S = 0.04  # a stage's share of a tick: longer than its work at middling load
BATCH_RECORDS = 512
QUEUE_KBYTES = 32 * 1024

TopicAndPartition = TypeVar("TopicAndPartition", bound=tuple[str, int])


class Batch(NamedTuple):
    """Records of one term, per partition in order and without errors."""

    term: int
    records: list[Message]


class Reader:
    """Reads the partitions of the last order, `read(offsets)`. Called from the event loop only.

    At most one batch waits to be taken; meanwhile librdkafka fills its queue, and then fetches no more.

    A process that slept finds its memory outside the processor's cache: to wake costs more than to work on a frame. So
    records gather until the next tick of the wall clock, every `gather_s`, and `hop` places down the chain the ticks
    are `hop` times HOP_S later: what one stage writes is read by the next one right after, and the delays of the stages
    do not add up. When nothing has come since the last tick, the next record comes at once.
    """

    def __init__(self, kafka: Kafka, group: str, gather_s: float, hop: int = 0) -> None:
        self._consumer = Consumer(_settings(kafka, group))
        self._gather_s, self._phase_s = gather_s, hop * HOP_S
        self._loop = asyncio.get_running_loop()
        self._offsets: list[TopicPartition] = []
        self._ordered = threading.Condition()
        self._room = threading.Semaphore()
        self._stopping = threading.Event()
        self._arrived = asyncio.Event()
        self._waiting: Batch | None = None
        self.term = 0  # counts the orders; a batch of another term is of no use
        self._thread = threading.Thread(target=self._run, name="reader", daemon=True)
        self._thread.start()

    def read(self, offsets: Mapping[TopicAndPartition, int]) -> None:
        """Read these partitions, and no others, from these offsets on. What waited to be taken is dropped."""
        with self._ordered:
            self.term += 1
            self._offsets = [TopicPartition(*tp, offset) for tp, offset in offsets.items()]
            self._ordered.notify()
        self._drop()

    async def batch(self) -> Batch:
        """The next records of the present term."""
        while self._waiting is None:
            self._arrived.clear()
            await self._arrived.wait()
        batch = self._waiting
        self._drop()
        return batch

    def log_end(self, tp: tuple[str, int]) -> int:
        """Where a partition ends as of the last answer to a fetch; negative where none has come."""
        end: int = self._consumer.get_watermark_offsets(TopicPartition(*tp), cached=True)[1]
        return end

    def close(self) -> None:
        """Stop reading."""
        self._stopping.set()
        self.read({})
        self._thread.join(2 * WAIT_S)

    def _drop(self) -> None:
        if self._waiting is not None:
            self._waiting = None
            self._room.release()

    def _put(self, batch: Batch) -> None:
        self._waiting = batch
        if batch.term == self.term:
            self._arrived.set()
        else:
            self._drop()

    def _run(self) -> None:
        try:
            self._read_on()
        except BaseException as error:
            log.exception("the reader's thread failed")
            leave(f"the reader's thread failed: {error!r}")

    def _read_on(self) -> None:
        term = 0
        while not self._stopping.is_set():
            if term != self.term:
                term = self._obey()
            records = self._consumer.consume(1, WAIT_S)
            if not records:
                continue
            records += self._consumer.consume(BATCH_RECORDS - 1, 0)
            records = [record for record in records if _is_good(record)]
            self._room.acquire()
            self._loop.call_soon_threadsafe(self._put, Batch(term, records))
            self._stopping.wait(self._until_tick(time.time()))
        self._consumer.close()

    def _until_tick(self, now_s: float) -> float:
        return self._gather_s and self._gather_s - (now_s - self._phase_s) % self._gather_s

    def _obey(self) -> int:
        """Take the last order, waiting for one that names partitions; its term."""
        with self._ordered:
            if not self._offsets:
                self._consumer.unassign()
                self._ordered.wait_for(lambda: self._offsets or self._stopping.is_set())
            self._consumer.assign(self._offsets)
            return self.term


def _is_good(record: Message) -> bool:
    error = record.error()
    if error is None:
        return True
    where = f"{record.topic()}/{record.partition()}"
    if error.code() == KafkaError._AUTO_OFFSET_RESET:
        leave(f"{where}: the next offset is no longer in the log: {error.str()}")
    RETRIES.labels(dependency="kafka").inc()
    log.warning("reading %s: %s (%s)", where, error.str(), error.name())
    return False


def _on_error(error: KafkaError) -> None:
    if error.fatal():
        leave(f"Kafka's client ended: {error.str()} ({error.name()})")
    RETRIES.labels(dependency="kafka").inc()
    log.warning("Kafka: %s (%s)", error.str(), error.name())


def _settings(kafka: Kafka, group: str) -> dict[str, object]:
    return {
        **client_settings(kafka),
        "group.id": group,  # the client wants one; nothing is subscribed or committed
        "enable.auto.commit": False,
        "auto.offset.reset": "error",
        "isolation.level": "read_uncommitted",
        "check.crcs": True,
        "queued.max.messages.kbytes": QUEUE_KBYTES,
        "fetch.queue.backoff.ms": 5,  # the default stands still for a second when the queue was full
        "log.connection.close": False,
        "error_cb": _on_error,
    }
