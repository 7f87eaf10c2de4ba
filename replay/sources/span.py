"""Two times as offsets: what of raw a replay reads, found once, before anything is read.

The times are those that Kafka keeps per record, which are the connectors' (`twin check` warns of clocks that are off).
A partition's part begins with its first record at or after T0 and ends before its first one at or after T1.
"""

import re
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple, Protocol

from confluent_kafka import Consumer, KafkaException, TopicPartition

from runtime.config import Kafka
from runtime.kafka import ASK_TIMEOUT_S, patiently, read_to_end_settings, watermarks
from schemas.topics import MAX_RECORD_BYTES, app_id

BEGINNING, NOW = "beginning", "now"
ALLOWED = f'an ISO time (2026-11-22T10:00:00+01:00, UTC where no zone is given), "{BEGINNING}" or "{NOW}"'
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(s|m|h|d)")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
ANSWER_S = 30


class SpanError(ValueError):
    """A span that cannot be. The message names the option, the value and what is allowed."""


#: First offset, and the one behind the last.
Bounds = tuple[int, int]


class Log(Protocol):
    """What a span is resolved in (see `replay.sources.kept`)."""

    topic: str

    def bounds(self) -> Mapping[int, Bounds]:
        """First and next offset of every partition."""

    def first_offsets(self, at_ms: int) -> Mapping[int, int]:
        """Per partition the first offset at or after a time; the end where there is none."""


class Part(NamedTuple):
    """Of one partition: `start` is the first offset read, `end` the one after the last; the log begins at `low`."""

    start: int
    end: int
    low: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """What is read: times in ms since 1970 (None: the log's beginning, its end when asked), and offsets."""

    from_ms: int | None
    to_ms: int | None
    parts: Mapping[int, Part]

    @property
    def records(self) -> int:
        """How many records that is."""
        return sum(part.end - part.start for part in self.parts.values())

    @property
    def shortened(self) -> tuple[int, ...]:
        """Partitions that begin where their log does though older records have expired: some may be missing."""
        return tuple(p for p, part in self.parts.items() if part.start == part.low > 0)


def time_ms(text: str, option: str) -> int | None:
    """A time in ms since 1970; None for `beginning` and `now`. Raises SpanError."""
    if text in (BEGINNING, NOW):
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise SpanError(f"{option} {text!r}: allowed is {ALLOWED}") from error
    return round((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp() * 1000)


def duration_s(text: str, option: str) -> float:
    """Seconds of `90s`, `10m`, `2h`, `1d`. Raises SpanError."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise SpanError(f"{option} {text!r}: allowed is a number and s, m, h or d, like 10m")
    return float(match[1]) * _SECONDS[match[2]]


def reader_settings(kafka: Kafka) -> dict[str, Any]:
    """A plain consumer of the log."""
    return {
        **read_to_end_settings(kafka, app_id("replay", kafka.prefix)),
        "auto.offset.reset": "error",
        "fetch.message.max.bytes": MAX_RECORD_BYTES,
        "fetch.wait.max.ms": 10,
        "log.connection.close": False,
    }


def resolve(kept: Log, begin: str, end: str) -> Span:
    """The offsets between two times, per partition. Raises SpanError and what the log does."""
    from_ms, to_ms = time_ms(begin, "--from"), time_ms(end, "--to")
    if begin == NOW or end == BEGINNING or (from_ms is not None and to_ms is not None and from_ms >= to_ms):
        raise SpanError(f"--from {begin!r} --to {end!r}: the span is empty, --from must be before --to")
    bounds = kept.bounds()
    starts = {p: low for p, (low, _) in bounds.items()} if from_ms is None else kept.first_offsets(from_ms)
    ends = {p: high for p, (_, high) in bounds.items()} if to_ms is None else kept.first_offsets(to_ms)
    parts = {p: Part(starts[p], max(starts[p], ends[p]), low) for p, (low, _) in bounds.items()}
    span = Span(from_ms=from_ms, to_ms=to_ms, parts=parts)
    if not span.records:
        all_ = sum(high - low for low, high in bounds.values())
        raise SpanError(f"--from {begin!r} --to {end!r}: {kept.topic} has no record in that span ({all_} in all)")
    return span


def first_offsets(kafka: Kafka, topic: str, at_ms: int) -> dict[int, int]:
    """The first offset at or after a time, per partition. Raises SpanError, KafkaException."""
    with closing(Consumer(reader_settings(kafka))) as consumer:
        return at_time(consumer, topic, bounds_of(consumer, kafka, topic), at_ms)


def bounds_of(consumer: Consumer, kafka: Kafka, topic: str) -> dict[int, tuple[int, int]]:
    """First and next offset of every partition. Raises SpanError, KafkaException."""
    found = consumer.list_topics(topic, timeout=ANSWER_S).topics[topic].partitions
    if not found:
        raise SpanError(f"there is no topic {topic} at {kafka.address}")
    return {p: watermarks(consumer, topic, p) for p in sorted(found)}


def at_time(consumer: Consumer, topic: str, bounds: Mapping[int, tuple[int, int]], at_ms: int | None) -> dict[int, int]:
    """Per partition the first offset at or after a time: the log's beginning for None, its end where all are older."""
    if at_ms is None:
        return {p: low for p, (low, _) in bounds.items()}
    asked = [TopicPartition(topic, p, max(0, at_ms)) for p in bounds]
    found = {tp.partition: tp.offset for tp in patiently(lambda: _offsets_for_times(consumer, asked))}
    return {p: found[p] if found[p] >= 0 else high for p, (_, high) in bounds.items()}


def _offsets_for_times(consumer: Consumer, asked: list[TopicPartition]) -> list[TopicPartition]:
    """Kafka's answer, whole: a partition without a leader looks like one whose records are all older."""
    found: list[TopicPartition] = consumer.offsets_for_times(asked, timeout=ASK_TIMEOUT_S)
    for tp in found:
        if tp.error is not None:
            raise KafkaException(tp.error)
    return found
