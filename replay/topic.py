"""Records of any of our topics between two offsets per partition, all partitions at once, as they are in Kafka.

A record that should be there and is not is an error: a replay of a topic with a hole would not be what ran.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import closing

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from replay.records import RawRecord
from replay.source import SourceError
from replay.span import bounds_of, reader_settings
from runtime.config import Kafka

READ_AT_ONCE = 1000
WAIT_S = 0.1
SILENCE_S = 60.0
#: What may wait in memory, of all partitions.
QUEUE_KB = 64 * 1024

#: First offset, and the one behind the last.
Span = tuple[int, int]


class LostRecords(SourceError):
    """Records that are asked for are nowhere. The message names partition and offsets."""


class NoAnswer(SourceError):
    """Kafka has the records, but did not send them in time."""


def spans_of(kafka: Kafka, topic: str) -> dict[int, Span]:
    """Per partition the first offset that there is and the end. Raises KafkaException, SpanError without a topic."""
    with closing(Consumer(reader_settings(kafka))) as consumer:
        return bounds_of(consumer, kafka, topic)


def read(kafka: Kafka, topic: str, spans: Mapping[int, Span], *, compacted: bool = False) -> Iterator[list[RawRecord]]:
    """Every record of the spans, in batches, per partition in the order of offsets. `compacted`: holes are no loss.

    Raises LostRecords where one is not there, NoAnswer, KafkaException.
    """
    at = {p: start for p, (start, end) in spans.items() if start < end}
    bounded = {"check.crcs": True, "queued.max.messages.kbytes": max(1024, QUEUE_KB // max(1, len(at)))}
    with closing(Consumer({**reader_settings(kafka), **bounded})) as consumer:
        consumer.assign([TopicPartition(topic, p, offset) for p, offset in at.items()])
        heard_s = time.monotonic()
        while at:
            open_before = list(at)
            batch = [
                record
                for message in consumer.consume(READ_AT_ONCE, WAIT_S)
                if (record := _taken(message, topic, spans, at, compacted)) is not None
            ]
            consumer.pause([TopicPartition(topic, p) for p in open_before if p not in at])
            if batch:
                yield batch
                heard_s = time.monotonic()
            elif time.monotonic() - heard_s > SILENCE_S:
                where = ", ".join(f"{p} at {offset}" for p, offset in at.items())
                raise NoAnswer(f"{topic}: nothing came for {SILENCE_S:.0f} s; still to read are partitions {where}")


def _taken(
    message: Message, topic: str, spans: Mapping[int, Span], at: dict[int, int], compacted: bool
) -> RawRecord | None:
    """The record if it is the next one of its span; moves `at` on."""
    partition, error = message.partition(), message.error()
    if error is not None:
        if error.code() == KafkaError._AUTO_OFFSET_RESET and partition in at:
            raise lost(topic, partition, at[partition], spans[partition][1])
        if error.code() == KafkaError._PARTITION_EOF and compacted:
            at.pop(partition, None)
        elif error.fatal() or error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
            raise KafkaException(error)
        return None  # the client tries again
    expected, end, offset = at.get(partition), spans[partition][1], message.offset()
    if expected is None:
        return None  # behind the end
    if offset != expected and not compacted:
        raise lost(topic, partition, expected, min(offset, end))
    at[partition] = offset + 1
    if offset + 1 >= end:
        del at[partition]
    return (
        RawRecord(partition, offset, message.timestamp()[1], message.key(), message.value()) if offset < end else None
    )


def lost(topic: str, partition: int, start: int, end: int) -> LostRecords:
    """The error for offsets from `start` to before `end`."""
    return LostRecords(f"{topic}, partition {partition}: offsets {start} to {end - 1} are not there")
