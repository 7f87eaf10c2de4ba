"""The state at T0 from the live system: rows of its changelogs that lie before T0 and fit together.

Every stage's row names the frames it has applied. Rows fit where each stage has applied at least what the stage before
it has: then raw, folded from validation's row on, gives the later stages everything they still need, and they drop the
rest by identity. Per asset the newest such rows are taken, the twin's first.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import NamedTuple

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition

from replay.lane import within
from replay.span import Span, reader_settings
from runtime.changelog import unpack
from runtime.config import Kafka
from schemas.codec import DecodeError
from schemas.states import StageState
from schemas.topics import CHANGELOGS

READ_AT_ONCE, WAIT_S = 500, 0.05

Applied = Mapping[tuple[str, int], int]


class SnapshotError(RuntimeError):
    """The live state cannot be used. The message says why."""


class Found(NamedTuple):
    """A row, without its columns: where it stands, its offset in the stage's input, and what it has applied."""

    offset: int
    position: int
    applied: Applied


@dataclass(slots=True)
class Snapshot:
    """What one partition begins with: states per asset after each stage, from which offset of raw to fold on."""

    begin: int
    states: dict[str, list[StageState]] = field(default_factory=dict)
    without: list[str] = field(default_factory=list)


def live_snapshots(kafka: Kafka, span: Span) -> dict[int, Snapshot]:
    """Per partition with records in the span, the newest rows before it. Raises SnapshotError, KafkaException."""
    wanted = [p for p, part in span.parts.items() if part.start < part.end]
    with closing(Consumer(reader_settings(kafka))) as consumer:
        rows = [_rows(consumer, kafka, stage, wanted, span.from_ms) for stage in range(len(CHANGELOGS))]
        return {p: _snapshot(consumer, kafka, span, p, [found[p] for found in rows]) for p in wanted}


def fitting(rows: Sequence[Sequence[Found]], start: int) -> tuple[Found, ...] | None:
    """The newest rows of an asset, one per stage, that fit together and lie before offset `start` of raw."""
    validation, estimation, twin = (sorted(found, key=lambda row: -row.position) for found in rows)
    for last in twin:
        middle = next((row for row in estimation if within(row.applied, last.applied)), None)
        if middle is None:
            continue
        fine = (row for row in validation if row.position < start and within(row.applied, middle.applied))
        first = next(fine, None)
        if first is not None:
            return first, middle, last
    return None


def _snapshot(
    consumer: Consumer, kafka: Kafka, span: Span, partition: int, rows: Sequence[Mapping[str, Sequence[Found]]]
) -> Snapshot:
    part = span.parts[partition]
    found = Snapshot(begin=part.start)
    for asset in sorted({asset for of_stage in rows for asset in of_stage}):
        chosen = fitting([of_stage.get(asset, ()) for of_stage in rows], part.start)
        if chosen is None or chosen[0].position + 1 < part.low:
            found.without.append(asset)
            continue
        found.states[asset] = [_state(consumer, kafka, n, partition, row) for n, row in enumerate(chosen)]
        found.begin = min(found.begin, chosen[0].position + 1)
    if found.without or not found.states:
        found.begin = part.low
    return found


def _rows(
    consumer: Consumer, kafka: Kafka, stage: int, partitions: Iterable[int], before_ms: int | None
) -> dict[int, dict[str, list[Found]]]:
    """Partition → asset → rows written before a time. Where there is none, assets that have only later rows."""
    name = CHANGELOGS[stage].full_name(kafka.prefix)
    waiting = set(partitions)
    found: dict[int, dict[str, list[Found]]] = {p: {} for p in waiting}
    consumer.assign([TopicPartition(name, p, OFFSET_BEGINNING) for p in waiting])
    while waiting:
        for message in consumer.consume(READ_AT_ONCE, WAIT_S):
            error = message.error()
            if error is not None:
                if error.code() != KafkaError._PARTITION_EOF:
                    raise SnapshotError(f"--state live: {name} cannot be read: {error.str()} ({error.name()})")
                waiting.discard(message.partition())
                continue
            rows = found[message.partition()].setdefault((message.key() or b"").decode("utf-8", "replace"), [])
            if before_ms is None or message.timestamp()[1] < before_ms:
                position, state = _unpacked(message.value() or b"", name, message.offset())
                rows.append(Found(message.offset(), position, state.applied))
    return found


def _state(consumer: Consumer, kafka: Kafka, stage: int, partition: int, row: Found) -> StageState:
    """The state of a row, read again."""
    name = CHANGELOGS[stage].full_name(kafka.prefix)
    consumer.assign([TopicPartition(name, partition, row.offset)])
    for _ in range(600):
        for message in consumer.consume(1, WAIT_S):
            if message.error() is None and message.offset() == row.offset:
                return _unpacked(message.value(), name, row.offset)[1]
    raise KafkaException(f"{name}/{partition}: no answer for offset {row.offset}")


def _unpacked(data: bytes, name: str, offset: int) -> tuple[int, StageState]:
    try:
        return unpack(data)
    except DecodeError as error:
        raise SnapshotError(f"--state live: {name} offset {offset} is no row: {error}") from error
