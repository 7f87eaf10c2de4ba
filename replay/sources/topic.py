"""Records of any of our topics between two offsets per partition, as they are in Kafka. No consumer group is touched.

A record that should be there and is not is an error: a replay of a topic with a hole would not be what ran.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from fnmatch import fnmatchcase

from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from replay.sources.records import Batches, RawRecord
from replay.sources.span import bounds_of, reader_settings
from runtime.config import Kafka

#: consume() waits until it has this many, so there is one for every record that is left when there are fewer.
AT_ONCE = 2000
WAIT_S = 0.2
SILENCE_S = 60.0
#: What may wait in memory, of all partitions that are read at the same time.
QUEUE_KB = 128 * 1024

#: First offset, and the one behind the last.
Span = tuple[int, int]
#: Whether a record of this key is asked for.
Wanted = Callable[[bytes | None], bool]


class SourceError(RuntimeError):
    """Records cannot be read. The message names the partition, the offset and what happened."""


class LostRecords(SourceError):
    """Records that are asked for are nowhere. The message names partition and offsets."""


class NoAnswer(SourceError):
    """Kafka has the records, but did not send them in time."""


def spans_of(kafka: Kafka, topic: str) -> dict[int, Span]:
    """Per partition the first offset that there is and the end. Raises KafkaException, SpanError without a topic."""
    with closing(Reader(kafka)) as reader:
        return reader.spans(topic)


def only(patterns: Sequence[str]) -> Wanted:
    """Whether a key matches one of some patterns (`*`, `?`); none: any key does."""
    known: dict[bytes | None, bool] = {}

    def wanted(key: bytes | None) -> bool:
        found = known.get(key)
        if found is None:
            name = (key or b"").decode("utf-8", "replace")
            found = known[key] = not patterns or any(fnmatchcase(name, pattern) for pattern in patterns)
        return found

    return wanted


def lost(topic: str, partition: int, start: int, end: int) -> LostRecords:
    """The error for offsets from `start` to before `end`."""
    return LostRecords(f"{topic}, partition {partition}: offsets {start} to {end - 1} are not there")


class Reader:
    """One connection for any topics, one after the other: to open and to close one may take a second. Close it.

    `partitions`: how many are read at the same time, at most; as configured where not said.
    """

    def __init__(self, kafka: Kafka, *, partitions: int | None = None) -> None:
        self._kafka = kafka
        waiting = {
            "queued.min.messages": 200_000,
            "queued.max.messages.kbytes": max(1024, QUEUE_KB // max(1, partitions or kafka.partitions)),
            "fetch.queue.backoff.ms": 5,  # the default stands still for a second when the queue was full
            "check.crcs": True,
        }
        self._consumer = Consumer({**reader_settings(kafka), **waiting})

    def spans(self, topic: str) -> dict[int, Span]:
        """Per partition the first offset that there is and the end. Raises KafkaException, SpanError without one."""
        return bounds_of(self._consumer, self._kafka, topic)

    def read(
        self, topic: str, spans: Mapping[int, Span], *, wanted: Wanted | None = None, compacted: bool = False
    ) -> Batches:
        """Every record of the spans, in batches, per partition in the order of offsets. `compacted`: holes are no loss.

        Records whose keys are not `wanted` are left out, so a batch may be empty. Raises LostRecords where one is not
        there, NoAnswer, SourceError.
        """
        part = _Part(topic, spans, wanted, compacted)
        if not part.at:
            return
        places = [TopicPartition(topic, p, offset) for p, offset in part.at.items()]
        self._consumer.assign(places)
        self._consumer.resume(places)  # one that was paused stays so, whatever is assigned
        heard_s = time.monotonic()
        while part.at:
            before = dict(part.at)
            messages = self._consumer.consume(min(AT_ONCE, part.left), WAIT_S)
            batch = [record for message in messages if (record := part.take(message)) is not None]
            self._consumer.pause([TopicPartition(topic, p) for p in before if p not in part.at])
            if part.at != before:
                heard_s = time.monotonic()
                yield batch
            elif time.monotonic() - heard_s > SILENCE_S:
                where = "still to read are partitions " + ", ".join(f"{p} at {offset}" for p, offset in before.items())
                raise NoAnswer(f"{topic}: nothing came for {SILENCE_S:.0f} s; {where}")
        self._consumer.unassign()

    def close(self) -> None:
        """Disconnect."""
        self._consumer.close()


class _Part:
    """What is being read: `at` has the next offset of every partition that is not done."""

    def __init__(self, topic: str, spans: Mapping[int, Span], wanted: Wanted | None, compacted: bool) -> None:
        self._topic, self._wanted, self._compacted = topic, wanted, compacted
        self._ends = {p: end for p, (_, end) in spans.items()}
        self.at = {p: start for p, (start, end) in spans.items() if start < end}

    @property
    def left(self) -> int:
        """How many records are still to come."""
        return sum(self._ends[p] - offset for p, offset in self.at.items())

    def take(self, message: Message) -> RawRecord | None:
        """The record if it is the next one of its partition and wanted."""
        partition, error = message.partition(), message.error()
        if error is not None:
            self._look_at(error, partition)
            return None
        expected = self.at.get(partition)
        if expected is None:
            return None  # behind the end
        offset, end = message.offset(), self._ends[partition]
        if offset != expected and not self._compacted:
            raise lost(self._topic, partition, expected, min(offset, end))
        self.at[partition] = offset + 1
        if offset + 1 >= end:
            del self.at[partition]
        key = message.key()
        if offset >= end or (self._wanted is not None and not self._wanted(key)):
            return None
        return RawRecord(partition, offset, message.timestamp()[1], key, message.value())

    def _look_at(self, error: KafkaError, partition: int) -> None:
        """What an error means. From most of them the client recovers by itself."""
        if error.code() == KafkaError._AUTO_OFFSET_RESET and partition in self.at:
            raise lost(self._topic, partition, self.at[partition], self._ends[partition])
        if error.code() == KafkaError._PARTITION_EOF and self._compacted:
            self.at.pop(partition, None)
        elif error.fatal() or error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
            raise SourceError(f"{self._topic}/{partition}: {error.str()} ({error.name()})")


class TopicSource:
    """Reads parts of a topic's partitions, of some assets (patterns; none: of all). Close it."""

    def __init__(self, kafka: Kafka, topic: str, assets: Sequence[str] = ()) -> None:
        self._topic, self._wanted = topic, only(assets) if assets else None
        self._reader = Reader(kafka, partitions=1)

    def read(self, partition: int, start: int, end: int) -> Batches:
        """Records of `partition` with offsets from `start` to before `end`. Raises as `Reader.read`."""
        return self._reader.read(self._topic, {partition: (start, end)}, wanted=self._wanted)

    def close(self) -> None:
        """Disconnect."""
        self._reader.close()
