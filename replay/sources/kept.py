"""Where raw is kept: in its topic, or in an archive and the topic, which together are one log.

A span is resolved and read through the same object, so that what is counted is what is read.
"""

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Protocol

from confluent_kafka import Consumer

from replay.archive.manifest import ArchiveError
from replay.archive.reading import Archive
from replay.sources import joined
from replay.sources.joined import JoinedSource
from replay.sources.span import Bounds, SpanError, bounds_of, first_offsets, reader_settings
from replay.sources.topic import SourceError, TopicSource
from runtime.config import Kafka
from schemas.topics import RAW


class Kept(Protocol):
    """One log of raw per partition. Every method raises SpanError, SourceError and KafkaException."""

    topic: str

    def bounds(self) -> Mapping[int, Bounds]:
        """First and next offset of every partition."""

    def first_offsets(self, at_ms: int) -> Mapping[int, int]:
        """Per partition the first offset whose record's timestamp is not before a time; the end where none is."""

    def archived(self, partition: int, start: int, end: int) -> Bounds | None:
        """What of the offsets from `start` to before `end` comes from an archive; None: nothing."""

    def source(self, assets: tuple[str, ...]) -> TopicSource | JoinedSource:
        """A reader, for one process."""


class InTopic:
    """Raw as its topic has it."""

    def __init__(self, kafka: Kafka) -> None:
        self._kafka, self.topic = kafka, RAW.full_name(kafka.prefix)

    def bounds(self) -> Mapping[int, Bounds]:
        """First and next offset of every partition."""
        with closing(Consumer(reader_settings(self._kafka))) as consumer:
            return _as_configured(self._kafka, self.topic, bounds_of(consumer, self._kafka, self.topic))

    def first_offsets(self, at_ms: int) -> Mapping[int, int]:
        """The first offset at or after a time."""
        return first_offsets(self._kafka, self.topic, at_ms)

    def archived(self, partition: int, start: int, end: int) -> Bounds | None:
        """Nothing."""
        return None

    def source(self, assets: tuple[str, ...]) -> TopicSource:
        """A reader of the topic."""
        return TopicSource(self._kafka, self.topic, assets)


class InArchiveAndTopic:
    """Raw as an archive has it, and behind that the topic. Raises SourceError where the archive cannot be used."""

    def __init__(self, kafka: Kafka, folder: Path) -> None:
        self._kafka, self.topic = kafka, RAW.full_name(kafka.prefix)
        try:
            self._archive = Archive(folder)
        except ArchiveError as error:
            raise SourceError(f"--archive {folder}: {error}") from error

    def bounds(self) -> Mapping[int, Bounds]:
        """First and next offset that both have together; SourceError where there is a hole between them."""
        try:
            return _as_configured(self._kafka, self.topic, joined.bounds(self._kafka, self._archive))
        except ArchiveError as error:
            raise SourceError(f"--archive {error}") from error

    def first_offsets(self, at_ms: int) -> Mapping[int, int]:
        """The first offset at or after a time."""
        try:
            return joined.first_offsets(self._kafka, at_ms, self._archive)
        except ArchiveError as error:
            raise SourceError(f"--archive {error}") from error

    def archived(self, partition: int, start: int, end: int) -> Bounds | None:
        """The part that the archive has: it is read from there even where the topic still has it, too."""
        border = joined.border(self._archive, partition, start, end)
        return (start, border) if border > start else None

    def source(self, assets: tuple[str, ...]) -> JoinedSource:
        """A reader of both."""
        return JoinedSource(self._kafka, self._archive, assets)


def _as_configured(kafka: Kafka, topic: str, bounds: Mapping[int, Bounds]) -> Mapping[int, Bounds]:
    """The same bounds. Raises SpanError where they are not of as many partitions as frames are judged by."""
    if len(bounds) != kafka.partitions:  # every record would be one in the wrong partition
        raise SpanError(
            f"{topic} has {len(bounds)} partitions, kafka.partitions = {kafka.partitions}; allowed is the same"
        )
    return bounds


def kept(kafka: Kafka, archive: Path | None) -> Kept:
    """Where raw is, with an archive or without. Raises SourceError."""
    return InTopic(kafka) if archive is None else InArchiveAndTopic(kafka, archive)
