"""One client of Kafka, used until something goes wrong with it; then the next one begins where it ended.

The order rests on this: every client sends a run of records without holes that begins at, or before, the first record
Kafka may not have. So whatever dead clients still have on their way, Kafka gets no frame before its predecessor, and
what it gets twice is recognised by the frame's identity. Three things keep a run without holes. librdkafka ends itself
when it had to give a record up (gapless guarantee) instead of going on with the next one. The broker refuses a batch
whose predecessor it has refused. And as a partition that has never heard of a client takes any first batch, the second
record of an asset for a topic is handed over only when the first one is confirmed. May not know the spool.
"""

import logging
import re
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from runtime.config import Kafka
from runtime.exit_codes import BAD_CONFIGURATION, RESTART_ME
from runtime.kafka import client_settings, learn_topics, untimed
from runtime.partitions import home_partition
from schemas.frames import Frame
from schemas.topics import MAX_RECORD_BYTES

CLIENT_KBYTES = 256 * 1024
RETIRE_S = 5.0
#: Wrong secrets and certificates are read anew with every client; one of these, so a new client is worth trying.
_RENEW = {KafkaError._AUTHENTICATION, KafkaError._SSL}
#: No broker and no other client would take the record.
_FINAL = {KafkaError.MSG_SIZE_TOO_LARGE, KafkaError._UNKNOWN_PARTITION, KafkaError._INVALID_ARG}
#: Say less than what came before them, and come with every attempt to connect.
_VAGUE = {KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError._RESOLVE}
#: librdkafka's own log; what matters in it comes to `on_error`, and there once.
_SILENT = logging.getLogger(f"{__name__}.librdkafka")
_SILENT.disabled = True
#: How librdkafka says that it ended itself because a record was refused.
_REFUSED = re.compile(r"ProduceRequest for (\S+) \[\d+\] with \d+ message\(s\) failed: (.*?)(?: \(broker|: unable)")


@dataclass(slots=True, eq=False)
class Record:
    """One record on its way. `on_safe` is called once, when Kafka or the spool has it; `row`: its number in the spool,
    0 for none; `since_s`: monotonic, when it was handed in."""

    topic: str
    key: str
    value: bytes
    on_safe: Callable[[], None]
    frame: Frame | None = None
    row: int = 0
    since_s: float = 0.0
    safe: bool = False


class Unusable(RuntimeError):
    """Kafka's client takes neither this record nor would another client. `code`: how the process has to end."""

    def __init__(self, what: str, error: KafkaError) -> None:
        super().__init__(f"{what}: {_text(error)}")
        # Fewer partitions than configured: starting again would not help.
        self.code = BAD_CONFIGURATION if error.code() == KafkaError._UNKNOWN_PARTITION else RESTART_ME


class Client:
    """One producer. All but `poll` and `retire` is called under the owner's lock; callbacks come without it.

    `handed`: what it has taken and not reported, in order. `failed`: why it must be replaced; empty while it works.
    """

    def __init__(
        self,
        kafka: Kafka,
        lock: threading.Condition,
        on_confirmed: Callable[[Record], None],
        on_trouble: Callable[[str, bool], None],
    ) -> None:
        self.handed: dict[int, Record] = {}
        self.failed = ""
        self._lock = lock
        self._number = 0
        self._on_confirmed = on_confirmed
        self._on_trouble = on_trouble  # reason, and whether it says more than an earlier one
        self._known: set[tuple[str, str]] = set()  # topic and asset: with a confirmed record
        self._first: set[tuple[str, str]] = set()  # topic and asset: whose first record is on its way
        self._producer = Producer(_settings(kafka, self._on_error), logger=_SILENT)

    def take(self, record: Record, topic: str, partitions: int) -> bool:
        """Hand over the next record, for this topic; False where it has to wait. Raises Unusable."""
        place = topic, record.key
        if self.failed or (not self._known and self.handed) or place in self._first:
            return False
        number, key_bytes = self._number, record.key.encode()
        partition = home_partition(key_bytes, partitions)

        def delivered(error: KafkaError | None, _message: Message) -> None:
            self._report(number, place, error)

        try:
            self._producer.produce(topic, record.value, key_bytes, partition, on_delivery=delivered)
        except BufferError:
            return False
        except KafkaException as error:
            code = error.args[0].code()
            if code in _FINAL:
                raise Unusable(f"a record for {topic}/{partition}", error.args[0]) from error
            if code != KafkaError._FATAL:  # of which `poll` learns the cause
                self._fail(_text(error.args[0]))
            return False
        self._number += 1
        self.handed[number] = record
        if place not in self._known:
            self._first.add(place)
        return True

    def poll(self, timeout_s: float) -> None:
        """Wait for reports; returns soon after one."""
        try:
            self._producer.poll(timeout_s)
        except KafkaException as error:  # confluent-kafka raises what is fatal instead of calling `error_cb`
            if not error.args[0].fatal():
                raise
            if not self.failed:
                self._fail(_text(error.args[0]))

    def list_topics(self, timeout_s: float) -> Any:
        """Kafka's answer. Raises KafkaException."""
        return self._producer.list_topics(timeout=timeout_s)

    def learn(self, topics: Iterable[str]) -> None:
        """So that their first records do not wait."""
        learn_topics(self._producer, topics)

    def retire(self) -> list[Record]:
        """Give up. What is not confirmed now, in order; it may still reach Kafka."""
        self.failed = self.failed or "retired"
        self._producer.purge(in_queue=True, in_flight=True)
        end_s = time.monotonic() + RETIRE_S
        while len(self._producer) and time.monotonic() < end_s:
            self.poll(0.1)
        with self._lock:
            left, self.handed = list(self.handed.values()), {}
        return left

    def _report(self, number: int, place: tuple[str, str], error: KafkaError | None) -> None:
        with self._lock:
            record = self.handed.get(number) if error is not None else self.handed.pop(number, None)
            if record is not None and error is None and place in self._first:
                self._first.remove(place)
                self._known.add(place)
        if record is None:
            return
        if error is None:
            self._on_confirmed(record)
        elif error.code() == KafkaError._UNKNOWN_PARTITION:
            raise Unusable(f"a record for {record.topic}", error)
        elif not self.failed:
            self._fail(f"Kafka refuses records for {record.topic}: {error.str()}")

    def _fail(self, reason: str) -> None:
        self.failed = reason
        self._on_trouble(reason, True)

    def _on_error(self, error: KafkaError) -> None:
        if self.failed:
            return
        if error.fatal() or error.code() in _RENEW:
            self._fail(_text(error))
        else:
            self._on_trouble(_text(error), error.code() not in _VAGUE)


def _text(error: KafkaError) -> str:
    """One line for people, the same for the same trouble."""
    refused = _REFUSED.search(error.str())
    if refused is not None:
        return f"Kafka refuses records for {refused[1]}: {refused[2]}"
    return f"{untimed(error.str())} ({error.name()})"


def _settings(kafka: Kafka, on_error: Callable[[KafkaError], None]) -> dict[str, Any]:
    return {
        **client_settings(kafka),
        "enable.idempotence": True,
        "enable.gapless.guarantee": True,
        "acks": "all",
        "message.timeout.ms": 0,  # the default drops after 5 min
        "message.max.bytes": MAX_RECORD_BYTES,
        "queue.buffering.max.kbytes": CLIENT_KBYTES,
        "linger.ms": 1,  # frames have lingered already
        "compression.type": "lz4",
        "socket.nagle.disable": True,
        "error_cb": on_error,
    }
