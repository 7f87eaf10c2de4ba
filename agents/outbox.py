"""Everything an agent writes to Kafka goes through here, because the order must have no holes.

Faust's own producer gives a record up after its time limit while later ones of the same partition go through. The next
stage would then have applied a later frame and take the missing one, when it is sent again, for a repetition. Here
nothing is ever given up: an idempotent producer without time limit delivers each partition in order, or the process
ends. So every frame is preceded in its topic by its predecessor, whoever wrote it. May not know Faust.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Sequence
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from runtime.config import Kafka
from runtime.health import HEALTH
from runtime.kafka import client_settings, learn_topics
from runtime.metrics import RETRIES
from runtime.topic_watch import TopicWatch
from runtime.watchdog import leave
from schemas.topics import MAX_RECORD_BYTES

log = logging.getLogger(__name__)

POLL_S = 0.5
LOOP = "producer's thread"
ROOM_S = 0.01
GATHER_S = 0.02
QUEUE_KBYTES = 512 * 1024
QUEUE_RECORDS = 1_000_000


class TooLarge(ValueError):
    """A record that Kafka would never take."""


class Receipts:
    """Counts the records handed over and confirmed for one purpose, so that one can wait for all of them."""

    def __init__(self) -> None:
        self.sent = 0
        self._confirmed = 0
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[None] | None = None

    async def wait(self) -> None:
        """Return when Kafka has all that was sent with these receipts. Nothing may be sent with them after this."""
        waiter = self._waiter = self._loop.create_future()
        if self._confirmed < self.sent:  # checked after the waiter is set, as `confirm` looks in the other order
            await waiter

    def confirm(self) -> None:
        """Kafka has one more. Runs in the producer's thread."""
        self._confirmed += 1
        waiter = self._waiter
        if waiter is not None and self._confirmed == self.sent:
            self._loop.call_soon_threadsafe(_wake, waiter)


def _wake(waiter: "asyncio.Future[None]") -> None:
    if not waiter.done():
        waiter.set_result(None)


class Outbox:
    """The producer of one agent process, which writes to these topics. Called from the event loop only."""

    def __init__(self, kafka: Kafka, topics: Sequence[str]) -> None:
        self._producer = Producer(_settings(kafka))
        self._topics = TopicWatch(kafka, self._producer, HEALTH)
        self._stopping = False
        self._thread = threading.Thread(target=self._run, args=(topics,), name="outbox", daemon=True)
        self._thread.start()

    async def send(self, receipts: Receipts, topic: str, key: bytes, value: bytes, partition: int) -> None:
        """Hand over one record. Waits only while the producer's queue is full. Raises TooLarge."""

        def delivered(error: KafkaError | None, _message: Message) -> None:
            if error is not None:
                leave(f"Kafka refused a record for {topic}: {error.str()} ({error.name()})")
            receipts.confirm()

        receipts.sent += 1  # first: the client's thread may confirm at once
        while True:
            try:
                self._producer.produce(topic, value, key, partition, on_delivery=delivered)
            except BufferError:
                await asyncio.sleep(ROOM_S)
            except KafkaException as error:
                if error.args[0].code() == KafkaError.MSG_SIZE_TOO_LARGE:
                    receipts.sent -= 1
                    raise TooLarge(f"{len(value)} bytes, allowed are {MAX_RECORD_BYTES}") from error
                leave(f"Kafka's client cannot take a record for {topic}: {error}")
            else:
                return

    def close(self, timeout_s: float) -> None:
        """Stop after what is on its way was delivered, or after `timeout_s`."""
        self._stopping = True
        self._topics.stop()
        self._thread.join(POLL_S + 1)
        self._producer.flush(timeout_s)

    def _run(self, topics: Sequence[str]) -> None:
        try:
            learn_topics(self._producer, topics)
            while not self._stopping:
                HEALTH.beat(LOOP)
                if self._producer.poll(POLL_S):
                    time.sleep(GATHER_S)  # one wake-up for the receipts of many partitions
            HEALTH.rest(LOOP)
        except BaseException as error:  # a callback failed: what was confirmed is no longer known
            log.exception("the producer's thread failed")
            leave(f"the producer's thread failed: {error!r}")


def _on_error(error: KafkaError) -> None:
    if error.fatal():
        leave(f"Kafka's client ended: {error.str()} ({error.name()})")
    RETRIES.labels(dependency="kafka").inc()
    log.warning("Kafka: %s (%s)", error.str(), error.name())


def _settings(kafka: Kafka) -> dict[str, Any]:
    return {
        **client_settings(kafka),
        "enable.idempotence": True,
        "acks": "all",
        "message.timeout.ms": 0,  # never gives a record up
        "message.max.bytes": MAX_RECORD_BYTES,
        "queue.buffering.max.messages": QUEUE_RECORDS,
        "queue.buffering.max.kbytes": QUEUE_KBYTES,
        "linger.ms": 2,
        "socket.nagle.disable": True,
        "log.connection.close": False,
        "error_cb": _on_error,
    }
