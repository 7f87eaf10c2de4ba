"""The one place where a connector hands over to Kafka.

A record is safe when Kafka has confirmed it (`err is None`; idempotent, acks=all, no time limit) or when it stands in
the disk spool; `on_safe` runs only then, so whoever acknowledges the field in it never loses a reading. The spool takes
over when Kafka has not confirmed for some time, and from then on everything goes through it, in order, until Kafka has
all of it. Without a spool records wait in memory; when that is full, `send` blocks, and the caller's field protocol
has to hold the rest. Whatever Kafka refuses, an operator can repair: it counts as Kafka being away. May not know MQTT
or OPC UA. Design: docs/decisions/0009-spool.md.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from confluent_kafka import KafkaError, KafkaException

from connectors.keeper import Keeper, Spooling
from connectors.producer import Client, Record, Unusable
from runtime.config import Kafka
from runtime.health import Health, times
from runtime.metrics import (
    FRAMES,
    GAPS,
    LAST_COMMIT_TIME,
    LAST_READING_TIME,
    READINGS,
    REJECTED,
    RETRIES,
    UNCONFIRMED,
)
from runtime.topic_watch import TopicWatch
from runtime.watchdog import leave
from schemas.codec import encode
from schemas.frames import Frame, Gap
from schemas.records import Alert, Rejected
from schemas.topics import ALERTS as ALERTS_TOPIC
from schemas.topics import RAW as RAW_TOPIC
from schemas.topics import REJECTED as REJECTED_TOPIC

__all__ = ["Delivery", "QueueFull", "Spooling"]

log = logging.getLogger(__name__)

PART = "kafka"
LOOP = "Kafka thread"
TENDING = "thread that renews the Kafka client and keeps the spool"
QUEUE_KBYTES = 128 * 1024  # records in memory
POLL_S = 0.1
TICK_S = 0.2
SILENCE_S = 10.0  # unconfirmed for so long is unhealthy, even where librdkafka reports no error
STOP_S = 10.0  # for a disk that is slow
RENEW_FIRST_S, RENEW_MAX_S = 0.25, 5.0


class QueueFull(RuntimeError):
    """The memory was full when the process was told to stop."""


class Delivery:
    """Producer of one connector process. `stage` names the connector in log lines ("connector.mqtt").

    `send` and `reject` may be called from one thread; callbacks run in threads of this class and must be quick.
    `losses`: gaps that concern all of the connector's assets, for the connector to write (a damaged spool).
    """

    def __init__(
        self, kafka: Kafka, stage: str, health: Health | None = None, spooling: Spooling | None = None
    ) -> None:
        self.stage = stage
        self.losses: deque[Gap] = deque()
        self._kafka = kafka
        self._at_work: Kafka | None = None  # the generation of topics to write to, when it is known
        self._health = health or Health()
        self._raw = RAW_TOPIC.full_name(kafka.prefix)
        self._rejected = REJECTED_TOPIC.full_name(kafka.prefix)
        self._alerts = ALERTS_TOPIC.full_name(kafka.prefix)
        self._names: dict[str, str] = {}  # topics by their configured names → as they are at work
        self._changed = threading.Condition()
        self._client: Client | None = None
        self._waiting: deque[Record] = deque()  # to hand over to the client, in order
        self._bytes = 0  # of all records in memory
        self._unsafe = 0
        self._progress_s = time.monotonic()  # the last confirmation, or when waiting began
        self._heard = False
        self._renew_at_s = 0.0
        self._renew_after_s = RENEW_FIRST_S
        self._impatient = False
        self._stopping = False
        self._keeper = None if spooling is None else Keeper(self, spooling)
        self._threads = [
            threading.Thread(target=self._run, args=(work,), name=f"kafka-{name}", daemon=True)
            for name, work in (("poll", self._poll), ("tend", self._tend))
        ]
        UNCONFIRMED.set_function(lambda: self._unsafe)
        self._health.describe(PART, self._describe)
        self._topics = TopicWatch(kafka, self, on_at_work=self._on_at_work)
        for thread in self._threads:
            thread.start()

    @property
    def unconfirmed(self) -> int:
        """How many records are neither in Kafka nor in the spool yet."""
        return self._unsafe

    def send(self, frame: Frame, on_safe: Callable[[], None]) -> None:
        """Hand over a frame. Blocks while the memory is full: that is the back-pressure."""
        self._take(Record(self._raw, frame.asset, encode(frame), on_safe, frame))

    def reject(self, rejected: Rejected, on_safe: Callable[[], None]) -> None:
        """Hand over something that could not be used. Blocks like `send`."""
        self._take(Record(self._rejected, rejected.asset, encode(rejected), on_safe))

    def stop_waiting(self) -> None:
        """From now on `send` and `reject` raise QueueFull where they would block; for the way out."""
        self._impatient = True

    def close(self, timeout_s: float) -> bool:
        """Wait for what is on its way, at last in the spool, then stop. False: something is not safe, so the field
        will send it again."""
        with self._changed:
            everything = self._changed.wait_for(lambda: self._unsafe == 0, timeout_s / 2)
            if not everything and self._keeper is not None:
                self._keeper.hurry()
            everything = self._changed.wait_for(lambda: self._unsafe == 0, timeout_s / 2)
            self._stopping = True
            self._changed.notify_all()
        self._topics.stop()
        for thread in self._threads:
            thread.join(STOP_S)
        self._health.rest(LOOP)
        self._health.rest(TENDING)
        if self._keeper is not None:
            self._keeper.close()
        if not everything:
            log.warning("%s: stopped with %d records unconfirmed by Kafka", self.stage, self._unsafe)
        return everything

    def list_topics(self, timeout: float) -> Any:
        """Kafka's answer, for TopicWatch. Raises KafkaException."""
        client = self._client
        if client is None:
            raise KafkaException(KafkaError(KafkaError._TRANSPORT, "no client"))
        return client.list_topics(timeout)

    # For the keeper: everything here under `changed`, but for `tell_safe` and `beat`.

    @property
    def changed(self) -> threading.Condition:
        """The lock of all queues; notified when something changes."""
        return self._changed

    @property
    def health(self) -> Health:
        """Where the spool's state is told."""
        return self._health

    @property
    def away(self) -> bool:
        """Whether Kafka has confirmed nothing since it was last in doubt."""
        return not self._heard or self._client is None or bool(self._client.failed)

    def beat(self) -> None:
        """The keeper's work goes on, however long it takes."""
        self._health.beat(TENDING)

    def doubt(self) -> None:
        """Kafka seems to be away until it confirms something."""
        self._heard = False

    def on_the_way(self) -> list[Record]:
        """Everything the client has or will get, in order."""
        handed = [] if self._client is None else list(self._client.handed.values())
        return [*handed, *self._waiting]

    def pass_on(self, record: Record) -> None:
        """Let the client have a record after all others."""
        self._waiting.append(record)

    def account(self, size_bytes: int) -> None:
        """So much more (or less) is in memory."""
        self._bytes += size_bytes

    def feed(self) -> None:
        """Give the client what it takes."""
        client, at_work = self._client, self._at_work
        if client is None or at_work is None:
            return
        if self._waiting and not client.handed:
            self._progress_s = time.monotonic()
        try:
            while self._waiting:
                record = self._waiting[0]
                if not client.take(record, self._names.get(record.topic, record.topic), at_work.partitions):
                    break
                self._waiting.popleft()
        except Unusable as error:
            leave(f"{self.stage}: Kafka's client cannot take {error}", error.code)

    def tell_safe(self, records: list[Record]) -> None:
        """Run the callbacks of records that are safe now; without the lock."""
        with self._changed:
            new = [record for record in records if not record.safe]
            for record in new:
                record.safe = True
        for record in new:
            record.on_safe()
        with self._changed:
            self._unsafe -= len(new)
            self._changed.notify_all()

    def alert(self, message: str, time_ns: int) -> None:
        """Write an alert, behind everything else, as soon as there is a way to."""
        assert self._keeper is not None
        asset = self._keeper.connector_id
        alert = Alert(asset=asset, kind="spool", severity="critical", time_ns=time_ns, message=message)
        self._enqueue(Record(self._alerts, asset, encode(alert), _nothing))

    def _on_at_work(self, kafka: Kafka) -> None:
        """Runs in the watch's thread. Records, and the spool's rows, have configured names until Kafka's client has
        them, so a spool may be written for one generation and go to the next."""
        topics = (RAW_TOPIC, REJECTED_TOPIC, ALERTS_TOPIC)
        names = {t.full_name(self._kafka.prefix): t.full_name(kafka.prefix) for t in topics}
        client = self._client
        if client is not None:
            client.learn(names.values())
        with self._changed:
            self._names = names
            self._at_work = kafka
            self.feed()

    def _take(self, record: Record) -> None:
        with self._changed:
            while self._bytes and self._bytes + len(record.value) > QUEUE_KBYTES * 1024:
                if self._impatient:
                    raise QueueFull(f"no room for a record for {record.topic}")
                self._health.beat()  # it waits on purpose
                if self._keeper is None or not self._keeper.make_room():
                    self._changed.wait(POLL_S)
            self._enqueue(record)

    def _enqueue(self, record: Record) -> None:
        with self._changed:
            record.since_s = time.monotonic()
            self._bytes += len(record.value)
            self._unsafe += 1
            if self._keeper is None or not self._keeper.keep(record):
                self._waiting.append(record)
                self.feed()

    def _on_confirmed(self, record: Record) -> None:
        self._count(record)
        self.tell_safe([record])
        self._health.well(PART)
        LAST_COMMIT_TIME.set_to_current_time()
        with self._changed:
            self._bytes -= len(record.value)
            self._progress_s = time.monotonic()
            self._heard = True
            self._renew_after_s = RENEW_FIRST_S
            self.feed()
            self._changed.notify_all()

    def _count(self, record: Record) -> None:
        frame = record.frame
        if record.topic == self._rejected:
            REJECTED.inc()
        if frame is None:
            return
        FRAMES.inc()
        if len(frame):
            READINGS.inc(len(frame))
            LAST_READING_TIME.set(int(frame.arrival_time_ns[-1]) / 1e9)
        if frame.gap is not None:
            GAPS.inc()

    def _on_trouble(self, reason: str, clear: bool) -> None:
        if clear or not self._health.reason(PART):
            self._health.ill(PART, reason)

    def _describe(self) -> dict[str, object]:
        return {
            "unconfirmed": self._unsafe,
            **times("last_confirmation", LAST_COMMIT_TIME),
            **times("last_reading", LAST_READING_TIME),
        }

    def _run(self, work: Callable[[], None]) -> None:
        try:
            while not self._stopping:
                work()
        except Unusable as error:
            leave(f"{self.stage}: Kafka refuses {error}", error.code)
        except BaseException as error:  # a callback failed: what was confirmed is no longer known
            log.exception("%s: the Kafka thread failed", self.stage)
            leave(f"{self.stage}: the Kafka thread failed: {error!r}")

    def _poll(self) -> None:
        self._health.beat(LOOP)
        client = self._client
        if client is None:
            time.sleep(POLL_S / 10)
            return
        client.poll(POLL_S)
        silent_s = time.monotonic() - self._progress_s
        if client.handed and silent_s > SILENCE_S and not self._health.reason(PART):
            self._health.ill(PART, f"no confirmation for {SILENCE_S:.0f} s")

    def _tend(self) -> None:
        self.beat()
        self._renew()
        if self._keeper is not None:
            self._keeper.tend()
        elif self._client is not None and not self._client.failed:
            time.sleep(TICK_S)

    def _renew(self) -> None:
        """Replace a client that failed, with settings and secrets as they are now."""
        client = self._client
        if client is not None:
            if not client.failed:
                return
            left = client.retire()
            with self._changed:
                self._client = None
                self._heard = False
                self._waiting.extendleft(reversed(left))
            self._renew_at_s = time.monotonic() + self._renew_after_s
            self._renew_after_s = min(2 * self._renew_after_s, RENEW_MAX_S)
            RETRIES.labels(PART).inc()
        if time.monotonic() < self._renew_at_s:
            time.sleep(POLL_S / 2)
            return
        try:
            new = Client(self._kafka, self._changed, self._on_confirmed, self._on_trouble)
        except (KafkaException, OSError, ValueError) as error:  # a certificate or password file that cannot be used
            self._on_trouble(f"Kafka's client cannot start: {error}", True)
            self._renew_at_s = time.monotonic() + self._renew_after_s
            self._renew_after_s = min(2 * self._renew_after_s, RENEW_MAX_S)
            return
        with self._changed:
            self._client = new
            self.feed()


def _nothing() -> None:
    """An alert is acknowledged to nobody."""
