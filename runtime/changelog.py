"""The changelog of a stage: rows as bytes, and reading them back.

A row is the source offset it has applied (8 bytes, little-endian) and the `StageState` in the codec's bytes. Where a
key has several rows, the one with the greatest offset is the state, not the last: a process that was stopped and woke
up may have written an old row late. A row that cannot be read is an error that ends the process; a stage must never
begin with a state that is emptier than it was. May not know Faust.
"""

import contextlib
import logging
import struct
from collections.abc import Callable, Iterable
from typing import NamedTuple

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition

from runtime.config import Kafka
from runtime.kafka import close_aside, read_to_end_settings
from runtime.metrics import RETRIES
from schemas.codec import DecodeError, decode_as, encode
from schemas.states import StageState

log = logging.getLogger(__name__)

POSITION = struct.Struct("<q")
READ_AT_ONCE = 200
QUEUE_KBYTES = 8 * 1024  # rows wait here while one is looked at; a long changelog must not take more memory
FETCH_BYTES = 1024 * 1024  # per partition; a row that is larger comes all the same
REFETCH_MS = 5  # after the queue was full; the client's default is a second, for every 8 MB of a changelog
WAIT_S = 0.05
ANSWER_S = 5.0


class UnreadableRow(RuntimeError):
    """A row of the changelog that is no state. The message names partition, offset and what is wrong."""


class Row(NamedTuple):
    """A state, and the offset of the source record it has applied last."""

    position: int
    state: StageState


def pack(row: Row) -> bytes:
    """Bytes of a row."""
    return POSITION.pack(row.position) + encode(row.state)


def unpack(data: bytes) -> Row:
    """The row in `data`. Raises DecodeError."""
    if len(data) < POSITION.size:
        raise DecodeError(f"row of {len(data)} bytes, allowed are at least {POSITION.size}")
    return Row(POSITION.unpack_from(data)[0], decode_as(data[POSITION.size :], StageState))


class Recovered(NamedTuple):
    """What a changelog held: the newest row per key and its partition; keys whose newest row is not the last one."""

    rows: dict[bytes, bytes]
    partition_of: dict[bytes, int]
    overtaken: frozenset[bytes]
    read: int


def recover(
    kafka: Kafka, topic: str, partitions: Iterable[int], beat: Callable[[int], None], group: str = "unused"
) -> Recovered:
    """Read partitions of a changelog from beginning to end. Blocks; retries while Kafka does not answer.

    The client wants a group that its user may name, though nothing is ever committed.
    `beat(rows read)` is called now and then. Raises UnreadableRow; a partition is complete only when the client says
    so, which it also does where the last offset is no record (a compacted or a control one).
    """
    waiting = set(partitions)
    rows: dict[bytes, bytes] = {}
    partition_of: dict[bytes, int] = {}
    overtaken: set[bytes] = set()
    read = 0
    consumer = Consumer(_settings(kafka, group))
    try:
        with contextlib.suppress(KafkaException):  # it is only sooner ready where it knows the leaders beforehand
            consumer.list_topics(topic, ANSWER_S)
        consumer.assign([TopicPartition(topic, p, OFFSET_BEGINNING) for p in waiting])
        while waiting:
            for message in consumer.consume(READ_AT_ONCE, WAIT_S):
                error = message.error()
                if error is not None:
                    if error.code() == KafkaError._PARTITION_EOF:
                        waiting.discard(message.partition())
                    else:
                        _report(error, topic)
                    continue
                _keep_newer(message, rows, partition_of, overtaken)
                read += 1
            beat(read)
    finally:
        close_aside(consumer)
    return Recovered(rows, partition_of, frozenset(overtaken), read)


def _keep_newer(message: Message, rows: dict[bytes, bytes], partition_of: dict[bytes, int], late: set[bytes]) -> None:
    key, value = message.key(), message.value()
    if key is None or value is None or len(value) < POSITION.size:
        where = f"{message.topic()}/{message.partition()} offset {message.offset()}"
        raise UnreadableRow(f"{where}: key {key!r}, value {value!r}; allowed is an asset and a row")
    known = rows.get(key)
    if known is not None and POSITION.unpack_from(known)[0] > POSITION.unpack_from(value)[0]:
        late.add(key)
        return
    late.discard(key)
    rows[key] = value
    partition_of[key] = message.partition()


def _report(error: KafkaError, topic: str) -> None:
    log.warning("reading %s: %s (%s)", topic, error.str(), error.name())
    RETRIES.labels(dependency="kafka").inc()


def _settings(kafka: Kafka, group: str) -> dict[str, object]:
    return {
        **read_to_end_settings(kafka, group),
        "auto.offset.reset": "error",
        "fetch.message.max.bytes": FETCH_BYTES,
        "queued.max.messages.kbytes": QUEUE_KBYTES,
        "fetch.queue.backoff.ms": REFETCH_MS,
        "fetch.wait.max.ms": 10,
        "log.connection.close": False,
    }
