"""Records of a topic between two offsets per partition, as they are: no group is joined, nothing is committed.

A record that should be there and is not is an error: a replay of a topic with a hole would not be what ran.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import NamedTuple

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from runtime.config import Kafka
from runtime.kafka import client_settings
from schemas.topics import MAX_RECORD_BYTES

#: The client wants the name of a group, though it never joins it.
GROUP = "unused"
READ_AT_ONCE = 1000
WAIT_S = 0.1
SILENCE_S = 60.0

#: First offset, and the one behind the last.
Span = tuple[int, int]


class LostRecords(RuntimeError):
    """Records that are asked for are nowhere. The message names partition and offsets."""


class NoAnswer(RuntimeError):
    """Kafka has the records, but did not send them in time."""


class RawRecord(NamedTuple):
    """A record as Kafka has it. `time_ms`: its timestamp, ms since 1970."""

    partition: int
    offset: int
    time_ms: int
    key: bytes | None
    value: bytes | None


def spans_of(kafka: Kafka, topic: str) -> dict[int, Span]:
    """Per partition the first offset that there is and the end. Raises KafkaException, LostRecords without a topic."""
    with closing(Consumer({**client_settings(kafka), "group.id": GROUP})) as consumer:
        partitions = consumer.list_topics(topic, timeout=30).topics[topic].partitions
        if not partitions:
            raise LostRecords(f"topic {topic} does not exist on {kafka.address}")
        return {p: consumer.get_watermark_offsets(TopicPartition(topic, p), timeout=30) for p in sorted(partitions)}


def read(kafka: Kafka, topic: str, spans: Mapping[int, Span]) -> Iterator[list[RawRecord]]:
    """Every record of the spans, in batches, per partition in the order of offsets.

    Raises LostRecords where one is not there, NoAnswer, KafkaException.
    """
    at = {p: start for p, (start, end) in spans.items() if start < end}
    with closing(Consumer(_settings(kafka))) as consumer:
        consumer.assign([TopicPartition(topic, p, offset) for p, offset in at.items()])
        heard_s = time.monotonic()
        while at:
            open_before = list(at)
            batch = [
                record
                for message in consumer.consume(READ_AT_ONCE, WAIT_S)
                if (record := _taken(message, topic, spans, at)) is not None
            ]
            consumer.pause([TopicPartition(topic, p) for p in open_before if p not in at])
            if batch:
                yield batch
                heard_s = time.monotonic()
            elif time.monotonic() - heard_s > SILENCE_S:
                where = ", ".join(f"{p} at {offset}" for p, offset in at.items())
                raise NoAnswer(f"{topic}: nothing came for {SILENCE_S:.0f} s; still to read are partitions {where}")


def _taken(message: Message, topic: str, spans: Mapping[int, Span], at: dict[int, int]) -> RawRecord | None:
    """The record if it is the next one of its span; moves `at` on."""
    partition, error = message.partition(), message.error()
    if error is not None:
        if error.code() == KafkaError._AUTO_OFFSET_RESET and partition in at:
            raise lost(topic, partition, at[partition], spans[partition][1])
        if error.fatal() or error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
            raise KafkaException(error)
        return None  # the client tries again
    expected, end = at.get(partition), spans[partition][1]
    if expected is None:
        return None  # behind the end
    if message.offset() != expected:
        raise lost(topic, partition, expected, min(message.offset(), end))
    at[partition] = expected + 1
    if expected + 1 == end:
        del at[partition]
    return RawRecord(partition, expected, message.timestamp()[1], message.key(), message.value())


def lost(topic: str, partition: int, start: int, end: int) -> LostRecords:
    """The error for offsets from `start` to before `end`."""
    return LostRecords(f"{topic}, partition {partition}: offsets {start} to {end - 1} are not there")


def _settings(kafka: Kafka) -> dict[str, object]:
    return {
        **client_settings(kafka),
        "group.id": GROUP,
        "enable.auto.commit": False,
        "auto.offset.reset": "error",
        "check.crcs": True,
        "fetch.message.max.bytes": MAX_RECORD_BYTES,
        "fetch.wait.max.ms": 10,
        "queued.max.messages.kbytes": 16 * 1024,
        "log.connection.close": False,
    }
