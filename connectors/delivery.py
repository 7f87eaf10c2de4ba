"""The one place where a connector hands over to Kafka; a disk spool will go here and nowhere else.

A frame counts as delivered only when the delivery callback says `err is None` (idempotent producer, acks=all, no
time limit), and `on_confirmed` runs only then, so whoever acknowledges the field in it never loses a reading. While
Kafka is away frames wait in the producer's bounded queue; when that is full, `send` blocks, and the caller's field
protocol has to hold the rest. What Kafka refuses for good ends the process: nothing was acknowledged, so the
next process gets it again. May not know MQTT or OPC UA.
"""

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from connectors.health import Health
from runtime.config import Kafka
from runtime.exit_codes import BAD_CONFIGURATION, RESTART_ME
from runtime.health import times
from runtime.kafka import client_settings
from runtime.metrics import FRAMES, GAPS, LAST_COMMIT_TIME, LAST_READING_TIME, READINGS, REJECTED, UNCONFIRMED
from runtime.partitions import home_partition
from runtime.topic_watch import TopicWatch
from runtime.watchdog import leave
from schemas.codec import encode
from schemas.frames import Frame
from schemas.records import Rejected
from schemas.topics import MAX_RECORD_BYTES
from schemas.topics import RAW as RAW_TOPIC
from schemas.topics import REJECTED as REJECTED_TOPIC

log = logging.getLogger(__name__)

PART = "kafka"
LOOP = "Kafka thread"
QUEUE_KBYTES = 128 * 1024
POLL_S = 0.1
SILENCE_S = 10.0  # unconfirmed for so long is unhealthy, even where librdkafka reports no error


class QueueFull(RuntimeError):
    """The producer's queue was full when the process was told to stop."""


class Delivery:
    """Producer of one connector process. `stage` names the connector in log lines ("connector.mqtt").

    `send` and `reject` may be called from one thread; callbacks run in the poll thread and must be quick.
    """

    def __init__(self, kafka: Kafka, stage: str, health: Health | None = None) -> None:
        self.stage = stage
        self._health = health or Health()
        self._partitions = kafka.partitions
        self._raw = RAW_TOPIC.full_name(kafka.prefix)
        self._rejected = REJECTED_TOPIC.full_name(kafka.prefix)
        self._producer = Producer(_settings(kafka, self._on_error))
        self._changed = threading.Condition()
        self._unconfirmed = 0
        self._progress_s = time.monotonic()  # the last confirmation, or when waiting began
        self._impatient = False
        self._stopping = False
        UNCONFIRMED.set_function(lambda: self._unconfirmed)
        self._health.describe(PART, self._describe)
        self._topics = TopicWatch(kafka, self._producer)
        self._thread = threading.Thread(target=self._poll, name="kafka-poll", daemon=True)
        self._thread.start()

    @property
    def unconfirmed(self) -> int:
        """How many records Kafka has not confirmed yet."""
        return self._unconfirmed

    def send(self, frame: Frame, on_confirmed: Callable[[], None]) -> None:
        """Hand over a frame. Blocks while the producer's queue is full: that is the back-pressure."""

        def confirmed() -> None:
            FRAMES.inc()
            if len(frame):
                READINGS.inc(len(frame))
                LAST_READING_TIME.set(int(frame.arrival_time_ns[-1]) / 1e9)
            if frame.gap is not None:
                GAPS.inc()
            on_confirmed()

        self._produce(self._raw, frame.asset, encode(frame), confirmed)

    def reject(self, rejected: Rejected, on_confirmed: Callable[[], None]) -> None:
        """Hand over something that could not be used. Blocks like `send`."""

        def confirmed() -> None:
            REJECTED.inc()
            on_confirmed()

        self._produce(self._rejected, rejected.asset, encode(rejected), confirmed)

    def stop_waiting(self) -> None:
        """From now on `send` and `reject` raise QueueFull where they would block; for the way out."""
        self._impatient = True

    def close(self, timeout_s: float) -> bool:
        """Wait for what is on its way, then stop. False: something is unconfirmed, so the field will send it again."""
        with self._changed:
            everything = self._changed.wait_for(lambda: self._unconfirmed == 0, timeout_s)
            self._stopping = True
        self._topics.stop()
        self._thread.join(2 * POLL_S + 1)
        if not everything:
            log.warning("%s: stopped with %d records unconfirmed by Kafka", self.stage, self._unconfirmed)
        return everything

    def _produce(self, topic: str, key: str, value: bytes, confirmed: Callable[[], None]) -> None:
        def delivered(error: KafkaError | None, _message: Message) -> None:
            self._delivered(error, topic, confirmed)

        key_bytes = key.encode()
        partition = home_partition(key_bytes, self._partitions)
        with self._changed:
            if self._unconfirmed == 0:
                self._progress_s = time.monotonic()
            self._unconfirmed += 1
        while True:
            try:
                self._producer.produce(topic, value, key_bytes, partition, on_delivery=delivered)
                return
            except BufferError:
                if self._impatient:
                    with self._changed:
                        self._unconfirmed -= 1
                    raise QueueFull(f"no room for a record for {topic}") from None
                self._health.beat()  # it waits on purpose
                time.sleep(POLL_S / 10)  # the poll thread makes room
            except KafkaException as error:
                what = f"{self.stage}: Kafka's client cannot take a record for {topic}/{partition}: {error}"
                leave(what, _code(error.args[0]))

    def _delivered(self, error: KafkaError | None, topic: str, confirmed: Callable[[], None]) -> None:
        if error is not None:
            leave(f"{self.stage}: Kafka refused a record for {topic}: {error.str()} ({error.name()})", _code(error))
        confirmed()
        self._health.well(PART)
        LAST_COMMIT_TIME.set_to_current_time()
        with self._changed:
            self._unconfirmed -= 1
            self._progress_s = time.monotonic()
            if self._unconfirmed == 0:
                self._changed.notify_all()

    def _poll(self) -> None:
        try:
            while not self._stopping:
                self._health.beat(LOOP)
                self._producer.poll(POLL_S)
                if self._unconfirmed and time.monotonic() - self._progress_s > SILENCE_S and not self._is_ill():
                    self._health.ill(PART, f"no confirmation for {SILENCE_S:.0f} s")
            self._health.rest(LOOP)
        except BaseException as error:  # a callback failed: what was confirmed is no longer known
            log.exception("%s: the Kafka thread failed", self.stage)
            leave(f"{self.stage}: the Kafka thread failed: {error!r}")

    def _describe(self) -> dict[str, object]:
        return {
            "unconfirmed": self._unconfirmed,
            **times("last_confirmation", LAST_COMMIT_TIME),
            **times("last_reading", LAST_READING_TIME),
        }

    def _is_ill(self) -> bool:
        return bool(self._health.reason(PART))

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal():
            leave(f"{self.stage}: Kafka's client ended: {error.str()} ({error.name()})")
        if error.code() != KafkaError._TRANSPORT or not self._is_ill():
            self._health.ill(PART, f"{error.str()} ({error.name()})")


def _code(error: KafkaError) -> int:
    """Fewer partitions than configured: starting again would not help."""
    return BAD_CONFIGURATION if error.code() == KafkaError._UNKNOWN_PARTITION else RESTART_ME


def _settings(kafka: Kafka, on_error: Callable[[KafkaError], None]) -> dict[str, Any]:
    return {
        **client_settings(kafka),
        "enable.idempotence": True,
        "acks": "all",
        "message.timeout.ms": 0,  # the default drops after 5 min
        "message.max.bytes": MAX_RECORD_BYTES,
        "queue.buffering.max.kbytes": QUEUE_KBYTES,
        "linger.ms": 1,  # frames have lingered already
        "compression.type": "lz4",
        "socket.nagle.disable": True,
        "log_level": 2,  # what matters comes to `on_error`, once
        "error_cb": on_error,
    }
