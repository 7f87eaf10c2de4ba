"""Raw as it would be had every reading come in order: late readings are taken out of their frames and put where they
belong. Every frame keeps its identity and its place, so whoever reads it sees the topic that there is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from replay.sources.records import Batches, RawRecord
from schemas.codec import decode_as, encode
from schemas.frames import Column, Frame, columns_of

I64 = NDArray[np.int64]
COLUMNS = tuple(columns_of(Frame))


@dataclass(frozen=True, kw_only=True, eq=False)
class Moves:
    """Readings of an asset that move: m in one frame, in their order, each with where it was and where it goes.

    From row `from_row` of the frame at `from_offset` of raw, to behind row `after` (−1: before the first) of the frame
    at `offset`. `late`: how many readings are late; `corrected`: those of them that filters now take; `from_ns`: the
    earliest source time of these. `fullest`: of the frames that something comes into, offset and then number of
    readings of the one with the most.
    """

    readings: Frame
    from_offset: I64
    from_row: I64
    offset: I64
    after: I64
    late: int
    corrected: int
    from_ns: int
    fullest: tuple[int, int]

    @property
    def start(self) -> int:
        """The first offset of raw that something changes at."""
        return int(self.offset.min())

    @cached_property
    def changed(self) -> Mapping[int, tuple[I64, I64]]:
        """By offset: rows that leave the frame, and indices in `readings` of those that come in."""
        nothing = np.empty(0, np.int64)
        leave, come = _by_offset(self.from_offset, self.from_row), _by_offset(self.offset, np.arange(len(self.offset)))
        return {offset: (leave.get(offset, nothing), come.get(offset, nothing)) for offset in {*leave, *come}}

    def coming(self, offset: int) -> int:
        """How many readings come into the frame at an offset."""
        return len(self.changed[offset][1]) if offset in self.changed else 0

    def applied(self, frame: Frame, offset: int) -> Frame:
        """The frame at an offset, with what moves."""
        change = self.changed.get(offset)
        if change is None:
            return frame
        leave, come = change
        return merged(frame, leave, rows_of(self.readings, come), self.after[come])


class Source(Protocol):
    """What raw is read through."""

    def read(self, partition: int, start: int, end: int) -> Batches:
        """Records of a partition from `start` to before `end`."""

    def close(self) -> None:
        """Disconnect."""


class ReorderedSource:
    """Reads raw with the moves of some assets. Close it."""

    def __init__(self, source: Source, moves: Mapping[str, Moves]) -> None:
        self._source = source
        self._moves = {asset.encode(): found for asset, found in moves.items()}

    def read(self, partition: int, start: int, end: int) -> Batches:
        """The same records, those with moves encoded anew."""
        for batch in self._source.read(partition, start, end):
            yield [self._reordered(record) for record in batch]

    def close(self) -> None:
        """Disconnect."""
        self._source.close()

    def _reordered(self, record: RawRecord) -> RawRecord:
        moves = self._moves.get(record.key or b"")
        if moves is None or record.offset not in moves.changed:
            return record
        frame = decode_as(record.value or b"", Frame)  # it could be decoded when the moves were found
        return record._replace(value=encode(moves.applied(frame, record.offset)))


def rows_of(frame: Frame, rows: I64, **columns: Column) -> Frame:
    """A frame of some of its readings, in the order given; `columns` in place of its own."""
    picked: dict[str, Any] = {name: getattr(frame, name)[rows] for name in COLUMNS}
    texts = {new: frame.texts[old] for new, old in enumerate(rows.tolist()) if old in frame.texts}
    return replace(frame, texts=texts, **{**picked, **columns})


def merged(frame: Frame, leave: I64, come: Frame, after: I64) -> Frame:
    """A frame without some rows, and with the readings of `come`, each behind a row of it; −1: before the first."""
    n, m = len(frame), len(come)
    names = dict.fromkeys(zip(frame.tags, frame.units, strict=True))
    names.update(dict.fromkeys((come.tags[tag], come.units[tag]) for tag in come.tag.tolist()))
    both = _one_after_the_other(frame, come, list(names))
    staying = np.ones(n + m, np.bool_)
    staying[leave] = False
    behind = np.concatenate((np.zeros(n, np.int64), 1 + np.arange(m)))
    order = np.lexsort((behind, np.concatenate((np.arange(n), after))))
    return rows_of(both, order[staying[order]])


def _one_after_the_other(frame: Frame, other: Frame, names: Sequence[tuple[str, str]]) -> Frame:
    """`frame` with the readings of `other` behind its own, and with a dictionary of these names."""
    numbers = [_numbered(f, names) for f in (frame, other)]
    columns: dict[str, Column] = {
        name: np.concatenate((getattr(frame, name), getattr(other, name))) for name in COLUMNS
    } | {"tag": np.concatenate(numbers)}
    texts = frame.texts | {len(frame) + row: text for row, text in other.texts.items()}
    tags, units = tuple(tag for tag, _ in names), tuple(unit for _, unit in names)
    return replace(frame, tags=tags, units=units, texts=texts, **cast(Any, columns))


def _numbered(frame: Frame, names: Sequence[tuple[str, str]]) -> Column:
    number = {name: n for n, name in enumerate(names)}
    table = [number.get(name, 0) for name in zip(frame.tags, frame.units, strict=True)]  # others have no reading here
    return np.array(table, "<u2")[frame.tag]


def _by_offset(offset: I64, values: I64) -> dict[int, I64]:
    """Values by their offset, in the order given."""
    order = np.argsort(offset, kind="stable")
    borders = np.flatnonzero(np.diff(offset[order])) + 1
    groups = np.split(order, borders) if len(order) else []
    return {int(offset[group[0]]): values[group] for group in groups}
