"""The state at T0 from the live system: rows of its changelogs that lie before T0 and fit together.

Every stage's row names the frames it has applied. Rows fit where each stage has applied at least what the stage before
it has: then raw, folded from validation's row on, gives the later stages everything they still need, and they drop the
rest by identity. Per asset the newest such rows are taken, the twin's first.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import NamedTuple

from replay.fold.lane import within
from replay.sources.span import Span
from replay.sources.topic import Reader
from runtime.changelog import unpack
from runtime.config import Kafka
from schemas.codec import DecodeError
from schemas.states import StageState
from schemas.topics import CHANGELOGS

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
    """Per partition with records in the span, the newest rows before it.

    Raises SnapshotError, SpanError without a changelog, SourceError, KafkaException.
    """
    wanted = [p for p, part in span.parts.items() if part.start < part.end]
    with closing(Reader(kafka)) as reader:
        rows = [_rows(reader, changelog.full_name(kafka.prefix), wanted, span.from_ms) for changelog in CHANGELOGS]
        return {p: _snapshot(reader, kafka, span, p, [found[p] for found in rows]) for p in wanted}


class LiveRows:
    """Rows of the live changelogs of some assets, to be asked for the state before an offset. Close it.

    Raises SnapshotError, SpanError without a changelog, SourceError, KafkaException.
    """

    def __init__(self, kafka: Kafka, assets: Mapping[int, Collection[str]]) -> None:
        self._kafka = kafka
        self._reader = Reader(kafka)
        wanted = frozenset(asset for of_partition in assets.values() for asset in of_partition)
        names = [changelog.full_name(kafka.prefix) for changelog in CHANGELOGS]
        self._rows = [_rows(self._reader, name, assets, None, wanted) for name in names]

    def before(self, partition: int, asset: str, start: int, following: Applied) -> tuple[int, list[StageState]] | None:
        """Offset of raw to fold on from, and the newest states that have applied nothing from offset `start` on.

        `following`: the first seq from there on, by source and epoch. None where there are no such rows.
        """
        found = [
            [row for row in of_stage[partition].get(asset, ()) if precedes(row.applied, following)]
            for of_stage in self._rows
        ]
        chosen = fitting(found, start)
        if chosen is None:
            return None
        states = [_state(self._reader, self._kafka, n, partition, row) for n, row in enumerate(chosen)]
        return chosen[0].position + 1, states

    def close(self) -> None:
        """Disconnect."""
        self._reader.close()


def precedes(applied: Applied, following: Applied) -> bool:
    """Whether none of the frames from `following` on, by source and epoch, is applied."""
    return all(applied.get(place, -1) < seq for place, seq in following.items())


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
    reader: Reader, kafka: Kafka, span: Span, partition: int, rows: Sequence[Mapping[str, Sequence[Found]]]
) -> Snapshot:
    part = span.parts[partition]
    found = Snapshot(begin=part.start)
    for asset in sorted({asset for of_stage in rows for asset in of_stage}):
        chosen = fitting([of_stage.get(asset, ()) for of_stage in rows], part.start)
        if chosen is None or chosen[0].position + 1 < part.low:
            found.without.append(asset)
            continue
        found.states[asset] = [_state(reader, kafka, n, partition, row) for n, row in enumerate(chosen)]
        found.begin = min(found.begin, chosen[0].position + 1)
    if found.without or not found.states:
        found.begin = part.low
    return found


def _rows(
    reader: Reader,
    name: str,
    partitions: Iterable[int],
    before_ms: int | None,
    assets: Collection[str] | None = None,
) -> dict[int, dict[str, list[Found]]]:
    """Partition → asset → rows of a changelog written before a time. Where there is none, assets with later rows only.

    `assets`: only of these.
    """
    found: dict[int, dict[str, list[Found]]] = {p: {} for p in partitions}
    spans = {p: span for p, span in reader.spans(name).items() if p in found}
    for record in (one for batch in reader.read(name, spans, compacted=True) for one in batch):
        asset = (record.key or b"").decode("utf-8", "replace")
        if assets is not None and asset not in assets:
            continue
        rows = found[record.partition].setdefault(asset, [])
        if before_ms is None or record.time_ms < before_ms:
            position, state = _unpacked(record.value or b"", name, record.offset)
            rows.append(Found(record.offset, position, state.applied))
    return found


def _state(reader: Reader, kafka: Kafka, stage: int, partition: int, row: Found) -> StageState:
    """The state of a row, read again."""
    name = CHANGELOGS[stage].full_name(kafka.prefix)
    span = (row.offset, row.offset + 1)
    for record in (one for batch in reader.read(name, {partition: span}, compacted=True) for one in batch):
        return _unpacked(record.value or b"", name, row.offset)[1]
    raise SnapshotError(f"the live state: {name}/{partition} offset {row.offset} was compacted just now: try again")


def _unpacked(data: bytes, name: str, offset: int) -> tuple[int, StageState]:
    try:
        return unpack(data)
    except DecodeError as error:
        raise SnapshotError(f"the live state: {name} offset {offset} is no row: {error}") from error
