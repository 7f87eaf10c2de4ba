"""Follows topics of one generation into another: every record once, in order per asset, however often it is killed.

A copy says in a header where it came from. Which records are there already is read off the copies: all that go from one
partition to one other go there in order, so the newest copy of each such pair speaks for all before it.
"""

import logging
import struct
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any, NamedTuple

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from replay.sources.topic import SourceError
from runtime.config import Kafka
from runtime.kafka import client_settings, watermarks
from runtime.partitions import home_partition
from schemas.codec import DecodeError, decode
from schemas.generations import Marks
from schemas.records import Alert, Rejected
from schemas.topics import ALERTS, CHANGELOGS, MAX_RECORD_BYTES, RAW, REJECTED, Topic

HEADER = "from"
ORIGIN = struct.Struct("<iq")  # partition and offset that a copy came from
READ_AT_ONCE = 1000
SILENCE_S = 60.0
FLUSH_S = 120.0

#: What is not made again by the stages of the other generation.
FOLLOWED = (RAW, REJECTED, ALERTS)
_STAGES = frozenset(topic.name for topic in CHANGELOGS)
_KINDS_OF_PROCESSES = frozenset({"spool", "sink_unauthorised", "retention", "state_lost"})
#: librdkafka warns of a setting that is wanted; what goes wrong comes as an error.
_SILENT = logging.getLogger(f"{__name__}.librdkafka")
_SILENT.disabled = True


class NotDelivered(RuntimeError):
    """Kafka did not take a copy. What is there is known, so beginning again goes on behind it."""


class Origin(NamedTuple):
    """Where a copy came from."""

    partition: int
    offset: int


class Present:
    """Which records of a topic are in the other one already."""

    def __init__(self) -> None:
        self._newest: dict[tuple[int, int], int] = {}

    def add(self, origin: Origin, partition: int) -> None:
        """A copy of this record is in that partition."""
        pair = (origin.partition, partition)
        self._newest[pair] = max(self._newest.get(pair, -1), origin.offset)

    def has(self, origin: Origin, partition: int) -> bool:
        """Whether it is there, if that partition is where it belongs."""
        return origin.offset <= self._newest.get((origin.partition, partition), -1)


def made_by_a_stage(topic: Topic, value: bytes) -> bool:
    """Whether the stages of every generation write this record themselves."""
    if topic is RAW:
        return False
    try:
        record = decode(value)
    except DecodeError:
        return False
    if isinstance(record, Rejected):
        return record.stage in _STAGES
    return isinstance(record, Alert) and record.kind not in _KINDS_OF_PROCESSES


class Mirror:
    """Copies what comes to the FOLLOWED topics of `source`, from `read_from` on, to those of `target`.

    `written_from`: before these offsets of the target there are no copies. Raises KafkaException, SourceError where a
    record is not there any more, NotDelivered.
    """

    def __init__(self, source: Kafka, target: Kafka, read_from: Marks, written_from: Marks) -> None:
        self._source, self._target = source, target
        self._topic_of = {topic.full_name(source.prefix): topic for topic in FOLLOWED}
        self._present = {topic: _present(target, topic, written_from[topic.name]) for topic in FOLLOWED}
        self._at = {
            (name, partition): offset
            for name, topic in self._topic_of.items()
            for partition, offset in enumerate(read_from[topic.name])
        }
        self.copied = 0
        self._failed: list[KafkaError] = []
        self._producer = Producer(_producer_settings(target), logger=_SILENT)
        self._consumer = Consumer(_consumer_settings(source))
        self._consumer.assign([TopicPartition(*place, offset) for place, offset in self._at.items()])

    def step(self, wait_s: float = 0.2) -> int:
        """Copy what is there; waits so long for something. How many records it looked at."""
        looked_at = 0
        for message in self._consumer.consume(READ_AT_ONCE, wait_s):
            error = message.error()
            if error is None:
                self._take(message)
                looked_at += 1
            elif error.code() == KafkaError._AUTO_OFFSET_RESET or error.fatal():
                raise SourceError(f"{message.topic()}/{message.partition()}: {error.str()}")
        self._producer.poll(0)
        self._raise_failed()
        return looked_at

    def behind(self, topic: Topic, ends: Sequence[int]) -> int:
        """How many records before these ends it has not looked at."""
        name = topic.full_name(self._source.prefix)
        return sum(max(0, end - self._at[name, partition]) for partition, end in enumerate(ends))

    def ends(self, topic: Topic) -> tuple[int, ...]:
        """Where the partitions of a followed topic end now."""
        name = topic.full_name(self._source.prefix)
        return tuple(watermarks(self._consumer, name, p)[1] for p in range(self._source.partitions))

    def flush(self) -> None:
        """Return when Kafka has all copies."""
        if self._producer.flush(FLUSH_S):
            raise NotDelivered(f"{self._target.prefix}.*: not taken in {FLUSH_S:.0f} s")
        self._raise_failed()

    def close(self) -> None:
        """Follow no longer."""
        self._consumer.close()

    def _take(self, message: Message) -> None:
        place = (message.topic(), message.partition())
        offset, key, value = message.offset(), message.key() or b"", message.value() or b""
        if offset < self._at[place]:
            return
        if offset > self._at[place]:
            raise SourceError(f"{place[0]}/{place[1]}: offsets {self._at[place]} to {offset - 1} are not there")
        self._at[place] = offset + 1
        topic, origin = self._topic_of[place[0]], Origin(place[1], offset)
        home = home_partition(key, self._target.partitions)
        if self._present[topic].has(origin, home) or made_by_a_stage(topic, value):
            return
        headers = [(HEADER, ORIGIN.pack(*origin))]
        self._send(
            topic=topic.full_name(self._target.prefix),
            partition=home,
            key=key,
            value=value,
            headers=headers,
            timestamp=message.timestamp()[1],
        )
        self.copied += 1

    def _send(self, **record: Any) -> None:
        while True:
            try:
                self._producer.produce(**record, on_delivery=self._delivered)
            except BufferError:
                self._producer.poll(0.1)
            else:
                return

    def _delivered(self, error: KafkaError | None, _message: Message) -> None:
        if error is not None:
            self._failed.append(error)

    def _raise_failed(self) -> None:
        if self._failed:
            raise NotDelivered(f"{self._target.prefix}.*: {self._failed[0].str()}")


def ends_of(kafka: Kafka, topic: Topic) -> tuple[int, ...]:
    """Where each partition of a topic ends now. Raises KafkaException."""
    name = topic.full_name(kafka.prefix)
    with closing(Consumer({**client_settings(kafka), "group.id": "unused"})) as consumer:
        return tuple(watermarks(consumer, name, p)[1] for p in range(kafka.partitions))


def _present(kafka: Kafka, topic: Topic, starts: Sequence[int]) -> Present:
    found = Present()
    for message in _between(kafka, topic.full_name(kafka.prefix), starts, ends_of(kafka, topic)):
        for header, value in message.headers() or ():
            if header == HEADER:
                found.add(Origin(*ORIGIN.unpack(value)), message.partition())
    return found


def _between(kafka: Kafka, name: str, starts: Sequence[int], ends: Sequence[int]) -> Iterator[Message]:
    left = {p: end for p, (start, end) in enumerate(zip(starts, ends, strict=True)) if start < end}
    if not left:
        return
    with closing(Consumer(_consumer_settings(kafka))) as consumer:
        consumer.assign([TopicPartition(name, p, starts[p]) for p in left])
        while left:
            message = consumer.poll(SILENCE_S)
            if message is None:
                raise KafkaException(KafkaError(KafkaError._TIMED_OUT, f"{name} is not sent"))
            if message.error() is not None:
                if message.error().code() == KafkaError._AUTO_OFFSET_RESET:
                    raise SourceError(f"{name}: {message.error().str()}")
                continue
            partition = message.partition()
            if partition in left:
                yield message
                if message.offset() + 1 >= left[partition]:
                    del left[partition]


def _producer_settings(kafka: Kafka) -> dict[str, object]:
    return {
        **client_settings(kafka),
        "enable.idempotence": True,
        "enable.gapless.guarantee": True,  # a hole would be taken for copied by the next run
        "acks": "all",
        "message.timeout.ms": 0,
        "message.max.bytes": MAX_RECORD_BYTES,
        "linger.ms": 5,
        "compression.type": "lz4",
    }


def _consumer_settings(kafka: Kafka) -> dict[str, object]:
    return {
        **client_settings(kafka),
        "group.id": "unused",
        "enable.auto.commit": False,
        "auto.offset.reset": "error",
        "fetch.message.max.bytes": MAX_RECORD_BYTES,
        "fetch.wait.max.ms": 50,
        "log.connection.close": False,
    }
