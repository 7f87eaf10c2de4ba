"""Raw records from an archive and from the topic, joined by offset: no hole, no overlap."""

from collections.abc import Sequence
from contextlib import closing
from itertools import islice

from confluent_kafka import Consumer

from replay.archive.reading import Archive
from replay.archive.writing import refuse_other_topic
from replay.sources.records import Batches
from replay.sources.span import at_time, bounds_of, reader_settings
from replay.sources.topic import AT_ONCE, Span, TopicSource, lost, only
from runtime.config import Kafka
from schemas.topics import RAW


class JoinedSource:
    """Reads parts of raw's partitions as `TopicSource` does: from the archive what it has, the rest from the topic.

    Close it. Raises ArchiveError where the archive is of another topic, SpanError, KafkaException.
    """

    def __init__(self, kafka: Kafka, archive: Archive, assets: Sequence[str] = ()) -> None:
        refuse_other_topic(kafka, archive.folder, archive.manifest)
        self._archive, self._name = archive, RAW.full_name(kafka.prefix)
        self._wanted = only(assets) if assets else None
        with closing(Consumer(reader_settings(kafka))) as consumer:
            self._logs = bounds_of(consumer, kafka, self._name)
        self._topic = TopicSource(kafka, self._name, assets)

    def read(self, partition: int, start: int, end: int) -> Batches:
        """Records of `partition` with offsets from `start` to before `end`, in order.

        That nothing is missing is known before the first one comes. Raises LostRecords with partition and offsets,
        SourceError, ArchiveError.
        """
        reached = self._checked_border(partition, start, end)
        records = self._archive.records(partition, start, reached, self._wanted) if start < reached else iter(())
        while batch := list(islice(records, AT_ONCE)):
            yield batch
        yield from self._topic.read(partition, reached, end)

    def _checked_border(self, partition: int, start: int, end: int) -> int:
        """The same as `border`. Raises LostRecords where neither archive nor topic has an offset."""
        reached = border(self._archive, partition, start, end)
        low, high = self._logs.get(partition, (0, 0))
        if reached < min(low, end):
            raise lost(self._name, partition, reached, min(low, end))
        if max(high, reached) < end:
            raise lost(self._name, partition, max(high, reached), end)
        return reached

    def close(self) -> None:
        """Disconnect."""
        self._topic.close()


def border(archive: Archive, partition: int, start: int, end: int) -> int:
    """Where, of the offsets from `start` to before `end`, the topic goes on behind the archive."""
    has = archive.has(partition)
    return min(end, has.next) if has.first <= start < has.next else start


def bounds(kafka: Kafka, archive: Archive) -> dict[int, Span]:
    """Per partition of raw the first offset that archive and topic have together, and the end of the topic.

    Raises LostRecords where there is a hole between them, ArchiveError, SpanError, KafkaException.
    """
    refuse_other_topic(kafka, archive.folder, archive.manifest)
    topic = RAW.full_name(kafka.prefix)
    with closing(Consumer(reader_settings(kafka))) as consumer:
        logs = bounds_of(consumer, kafka, topic)
    found = {}
    for partition, (low, high) in logs.items():
        has = archive.has(partition)
        if has.first < has.next < low:
            raise lost(topic, partition, has.next, low)
        found[partition] = (min(has.first, low) if has.first < has.next else low, high)
    return found


def first_offsets(kafka: Kafka, at_ms: int, archive: Archive) -> dict[int, int]:
    """Per partition of raw, the first offset whose record's timestamp is not before a time; the end where none is.

    What the topic no longer has is looked up in the archive. Raises ArchiveError, SpanError, KafkaException.
    """
    refuse_other_topic(kafka, archive.folder, archive.manifest)
    topic = RAW.full_name(kafka.prefix)
    with closing(Consumer(reader_settings(kafka))) as consumer:
        found = at_time(consumer, topic, bounds_of(consumer, kafka, topic), at_ms)
    older = {partition: archive.offset_at(partition, at_ms) for partition in found}
    return {p: offset if (known := older[p]) is None else min(known, offset) for p, offset in found.items()}
