"""Many frames as one, and back: which frame every reading of a joined frame came in.

How readings are cut into frames matters to no result (decision 0002), and a large frame costs less per reading.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.validation_times import IMPUTED_ORDINAL
from schemas.frames import Column, EstimateFrame, Frame, columns_of

#: Tags of a frame are numbered by 16 bits.
ENTRIES_MAX = 1 << 16
COLUMNS = [name for name in columns_of(Frame) if name != "tag"]

Names = tuple[tuple[str, ...], tuple[str, ...]]


class Dictionary:
    """The tags and units of all frames of an asset so far, so that joined frames number them alike.

    Tables that the stages make per dictionary are then made once. It starts anew when it is full.
    """

    def __init__(self) -> None:
        self.tags: tuple[str, ...] = ()
        self.units: tuple[str, ...] = ()
        self._numbers: dict[tuple[str, str], int] = {}
        self._tables: dict[Names, NDArray[np.uint16] | None] = {}

    def numbers(self, tags: tuple[str, ...], units: tuple[str, ...]) -> NDArray[np.uint16] | None:
        """The number here of each entry of a frame's dictionary; None where they are the same."""
        try:
            return self._tables[tags, units]
        except KeyError:
            return self._learned(tags, units)

    def make_room(self, entries: int) -> None:
        """Before frames with so many entries are joined."""
        if len(self.tags) + entries >= ENTRIES_MAX:
            self.__init__()  # type: ignore[misc]

    def _learned(self, tags: tuple[str, ...], units: tuple[str, ...]) -> NDArray[np.uint16] | None:
        found = [self._numbers.setdefault(pair, len(self._numbers)) for pair in zip(tags, units, strict=True)]
        if len(self._numbers) > len(self.tags):
            names = tuple(self._numbers)
            self.tags, self.units = tuple(tag for tag, _ in names), tuple(unit for _, unit in names)
        same = found == list(range(len(found)))
        table = self._tables[tags, units] = None if same else np.array(found, np.uint16)
        return table


def joined(frames: Sequence[Frame], dictionary: Dictionary) -> Frame:
    """The readings of all frames, with the identity of the last. All are of one asset and have readings."""
    last = frames[-1]
    dictionary.make_room(sum(len(frame.tags) for frame in frames))
    tags = []
    for frame in frames:
        numbers = dictionary.numbers(frame.tags, frame.units)
        tags.append(frame.tag if numbers is None else numbers[frame.tag])
    columns: dict[str, Any] = {name: np.concatenate([getattr(frame, name) for frame in frames]) for name in COLUMNS}
    return Frame(
        asset=last.asset,
        source=last.source,
        epoch=last.epoch,
        seq=last.seq,
        time_ns=last.time_ns,
        tags=dictionary.tags,
        units=dictionary.units,
        tag=np.concatenate(tags),
        texts=_texts(frames),
        **columns,
    )


def _texts(frames: Sequence[Frame]) -> dict[int, str]:
    if not any(frame.texts for frame in frames):
        return {}
    texts: dict[int, str] = {}
    begin = 0
    for frame in frames:
        texts |= {begin + row: text for row, text in frame.texts.items()}
        begin += len(frame)
    return texts


class Origin:
    """Which frame every reading of a joined frame came in: `sources` by index, and three columns of n each."""

    __slots__ = ("epoch", "seq", "source", "sources")

    def __init__(self, frames: Sequence[Frame], out: EstimateFrame) -> None:
        self.sources = tuple(dict.fromkeys(frame.source for frame in frames))
        of = _frame_of(frames, out)
        self.source: Column = np.array([self.sources.index(f.source) for f in frames], np.int32)[of]
        self.epoch: Column = np.array([frame.epoch for frame in frames], np.int64)[of]
        self.seq: Column = np.array([frame.seq for frame in frames], np.int64)[of]


def _frame_of(frames: Sequence[Frame], out: EstimateFrame) -> NDArray[np.int64]:
    """Index of the frame of each row. A row for a missing reading came with the one that showed it: the next."""
    if len(frames) == 1:
        return np.zeros(len(out), np.int64)
    of = np.repeat(np.arange(len(frames)), [len(frame) for frame in frames])
    if len(of) == len(out):
        return of
    real = out.ordinal != IMPUTED_ORDINAL
    found: NDArray[np.int64] = of[np.cumsum(real) - real]
    return found
