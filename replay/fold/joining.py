"""Many frames as one, and back: which frame every reading of a joined frame came in.

How readings are cut into frames matters to no result (decision 0002), and a large frame costs less per reading.
"""

from collections.abc import Sequence
from itertools import groupby
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from kernels.validation_times import IMPUTED_ORDINAL
from replay.sources.raw import Raw
from schemas.frames import Column, EstimateFrame, Frame, columns_of
from schemas.glimpse import columns_from

#: Tags of a frame are numbered by 16 bits.
ENTRIES_MAX = 1 << 16
COLUMNS = columns_of(Frame)

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


def joined(asset: str, raws: Sequence[Raw], dictionary: Dictionary) -> Frame:
    """The readings of all frames, with the identity of the last. All are of one asset and have readings."""
    last = raws[-1]
    dictionary.make_room(sum(len(raw.tags) for raw in raws))
    glimpses = [raw.glimpse for raw in raws if raw.glimpse is not None]
    columns = columns_from(glimpses) if len(glimpses) == len(raws) else _columns(raws)
    columns["tag"] = _numbered(columns["tag"], raws, dictionary)
    return Frame(
        asset=asset,
        source=last.source,
        epoch=last.epoch,
        seq=last.seq,
        time_ns=last.time_ns,
        tags=dictionary.tags,
        units=dictionary.units,
        texts={} if len(glimpses) == len(raws) else _texts(raws),
        **cast(Any, columns),
    )


def _columns(raws: Sequence[Raw]) -> dict[str, Column]:
    return {name: np.concatenate([getattr(raw.frame, name) for raw in raws]) for name in COLUMNS}


def _numbered(tag: Column, raws: Sequence[Raw], dictionary: Dictionary) -> Column:
    """The tags of all readings by their numbers in the common dictionary, from those in each frame's own."""
    begin, out = 0, tag
    for (tags, units), run in groupby(raws, key=_names):
        end = begin + sum(raw.n for raw in run)
        numbers = dictionary.numbers(tags, units)
        if numbers is not None:
            out = out.copy() if out is tag else out
            out[begin:end] = numbers[tag[begin:end]]
        begin = end
    return out


def _names(raw: Raw) -> Names:
    return raw.tags, raw.units


def _texts(raws: Sequence[Raw]) -> dict[int, str]:
    texts: dict[int, str] = {}
    begin = 0
    for raw in raws:
        if raw.glimpse is None:
            texts |= {begin + row: text for row, text in raw.frame.texts.items()}
        begin += raw.n
    return texts


class Origin:
    """Which frame every reading of a joined frame came in: `sources` by index, and three columns of n each."""

    __slots__ = ("epoch", "seq", "source", "sources")

    def __init__(self, raws: Sequence[Raw], out: EstimateFrame) -> None:
        self.sources = tuple(dict.fromkeys(raw.source for raw in raws))
        of = _frame_of(raws, out)
        self.source: Column = np.array([self.sources.index(raw.source) for raw in raws], np.int32)[of]
        self.epoch: Column = np.array([raw.epoch for raw in raws], np.int64)[of]
        self.seq: Column = np.array([raw.seq for raw in raws], np.int64)[of]


def _frame_of(raws: Sequence[Raw], out: EstimateFrame) -> NDArray[np.int64]:
    """Index of the frame of each row. A row for a missing reading came with the one that showed it: the next."""
    if len(raws) == 1:
        return np.zeros(len(out), np.int64)
    of = np.repeat(np.arange(len(raws)), [raw.n for raw in raws])
    if len(of) == len(out):
        return of
    real = out.ordinal != IMPUTED_ORDINAL
    found: NDArray[np.int64] = of[np.cumsum(real) - real]
    return found
