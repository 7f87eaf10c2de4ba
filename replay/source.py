"""Raw records from Kafka, partition by partition, as fast as they come. No consumer group is touched."""

import time
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase

from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from replay.records import Batches, RawRecord
from replay.span import reader_settings
from runtime.config import Kafka

#: consume() waits until it has this many, so there is one for every record that is left when there are fewer.
AT_ONCE = 2000
WAIT_S = 0.2
SILENCE_S = 60.0


class SourceError(RuntimeError):
    """Raw cannot be read. The message names the partition, the offset and what happened."""


def only(patterns: Sequence[str]) -> Callable[[bytes | None], bool]:
    """Whether a key matches one of some patterns (`*`, `?`); none: any key does."""
    known: dict[bytes | None, bool] = {}

    def wanted(key: bytes | None) -> bool:
        found = known.get(key)
        if found is None:
            name = (key or b"").decode("utf-8", "replace")
            found = known[key] = not patterns or any(fnmatchcase(name, pattern) for pattern in patterns)
        return found

    return wanted


class TopicSource:
    """Reads parts of a topic's partitions. Close it."""

    def __init__(self, kafka: Kafka, topic: str, assets: Sequence[str] = ()) -> None:
        self._topic, self._all, self._wanted = topic, not assets, only(assets)
        fast = {"queued.min.messages": 200_000, "queued.max.messages.kbytes": 128 * 1024}
        self._consumer = Consumer({**reader_settings(kafka), **fast})

    def read(self, partition: int, start: int, end: int) -> Batches:
        """Records of `partition` with offsets from `start` to before `end`. Raises SourceError.

        Records of other assets than those asked for are left out, so a batch may be empty.
        """
        if start >= end:
            return
        self._consumer.assign([TopicPartition(self._topic, partition, start)])
        at, heard_s = start, time.monotonic()
        while at < end:
            messages = self._consumer.consume(min(AT_ONCE, end - at), WAIT_S)
            batch, at = self._batch(messages, partition, at, end)
            if messages:
                heard_s = time.monotonic()
                yield batch
            elif time.monotonic() > heard_s + SILENCE_S:
                raise SourceError(f"{self._topic}/{partition}: nothing came for {SILENCE_S:.0f} s at offset {at}")
        self._consumer.unassign()

    def close(self) -> None:
        """Disconnect."""
        self._consumer.close()

    def _batch(self, messages: Sequence[Message], partition: int, at: int, end: int) -> tuple[list[RawRecord], int]:
        """The records among messages, and the offset that comes next."""
        batch = []
        for message in messages:
            if message.error() is not None:
                at = self._passed(message, partition, at)
                continue
            offset = message.offset()
            if message.partition() != partition or not at <= offset < end:
                continue
            if offset != at:
                raise SourceError(f"{self._topic}/{partition}: offset {at} is missing, the next one is {offset}")
            at += 1
            key = message.key()
            if self._all or self._wanted(key):
                batch.append(RawRecord(partition, offset, message.timestamp()[1], key, message.value()))
        return batch, at

    def _passed(self, message: Message, partition: int, at: int) -> int:
        """The offset that comes next after a message that is none."""
        error = message.error()
        if error.code() == KafkaError._PARTITION_EOF:
            return at
        raise SourceError(f"{self._topic}/{partition} at offset {at}: {error.str()} ({error.name()})")
