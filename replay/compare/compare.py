"""Compares what two sides put out, stage by stage and asset by asset, frame by frame. Knows no Kafka.

Per asset and stage: a digest over the bytes of all frames in Kafka's order, which frames differ, which one side lacks
in the middle (a difference) or at its ends (another range), and where the order is another. Partitions may be others.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from replay.compare.outputs import NOWHERE, PAGE, Fault, Key, Outputs, named, runs_of
from schemas.frames import Identity

Ints = NDArray[np.int64]


class Missing(NamedTuple):
    """Frames of a stream, from one seq to another, that a side ("LIVE" or "RUN") lacks."""

    side: str
    key: Key
    first_seq: int
    last_seq: int

    def __str__(self) -> str:
        seqs = f"seq {self.first_seq}" + (f" to {self.last_seq}" if self.last_seq > self.first_seq else "")
        return f"{self.side} lacks {self.key.asset}, {self.key.source}, epoch {self.key.epoch}, {seqs}"


class Differing(NamedTuple):
    """A frame whose bytes differ, and where it is: (partition, offset) on each side."""

    stage: str
    identity: Identity
    live: tuple[int, int]
    run: tuple[int, int]


@dataclass(slots=True, kw_only=True)
class Line:
    """What one stage gave for one asset. `partitions`, `frames`, `digests`: of LIVE and of RUN."""

    stage: str
    asset: str
    partitions: tuple[int | None, int | None]
    frames: tuple[int, int]
    digests: tuple[str, str]
    differing: int = 0
    first: Differing | None = None
    missing: list[Missing] = field(default_factory=list)
    outside: list[Missing] = field(default_factory=list)
    swapped: int = 0
    order: str = ""

    @property
    def is_equal(self) -> bool:
        """Same frames, same bytes, same order."""
        return not (self.is_different or self.outside)

    @property
    def is_different(self) -> bool:
        """Not to be explained by one side having more at its ends."""
        return bool(self.differing or self.missing or self.swapped)


@dataclass(slots=True, kw_only=True)
class Comparison:
    """All lines, in the order of the flow and of assets' names, and what is wrong on a side alone."""

    lines: list[Line] = field(default_factory=list)
    faults: list[tuple[str, Fault]] = field(default_factory=list)

    @property
    def is_different(self) -> bool:
        """Whether the sides contradict each other, or one of them itself."""
        return bool(self.faults) or any(line.is_different for line in self.lines)

    @property
    def is_comparable(self) -> bool:
        """Whether both sides have the same frames, and any at all."""
        return any(min(line.frames) for line in self.lines) and not any(line.outside for line in self.lines)

    def partitions(self) -> Iterator[tuple[str, int, str, str]]:
        """Stage, partition, and digest on each side over its assets; only where both have assets in the same ones."""
        if any(line.partitions[0] != line.partitions[1] for line in self.lines if None not in line.partitions):
            return
        hashes: dict[tuple[str, int], tuple[Any, Any]] = {}
        for line in self.lines:
            place = line.partitions[0] if line.partitions[0] is not None else line.partitions[1]
            assert place is not None
            both = hashes.setdefault((line.stage, place), (blake2b(digest_size=16), blake2b(digest_size=16)))
            for found, text in zip(both, line.digests, strict=True):
                found.update(f"{line.asset}\n{text}\n".encode())
        for (stage, partition), (live, run) in sorted(hashes.items(), key=lambda item: item[0][1]):
            yield stage, partition, live.hexdigest(), run.hexdigest()


class _Frames(NamedTuple):
    """Frames of an asset on both sides: index into `keys`, seq, offsets (NOWHERE: not there), digests; shape (n,)."""

    keys: list[Key]
    key: Ints
    seq: Ints
    places: tuple[Ints, Ints]
    digests: tuple[NDArray[np.uint64], NDArray[np.uint64]]

    def identity(self, index: Any) -> Identity:
        """The identity of a frame."""
        return Identity(*self.keys[int(self.key[index])], int(self.seq[index]))


def add(comparison: Comparison, live: Outputs, run: Outputs, *, common: bool = False) -> None:
    """Compare one stage and add its lines. `common`: leave out what only one side has before or behind the other.

    Of an asset without any frame on both sides nothing is left out: it would look equal, with no frames.
    """
    comparison.faults += [("LIVE", fault) for fault in live.faults] + [("RUN", fault) for fault in run.faults]
    keys: dict[str, set[Key]] = {}
    for key in (*live.streams, *run.streams):
        keys.setdefault(key.asset, set()).add(key)
    for asset in sorted(keys):
        comparison.lines.append(_line(live, run, asset, sorted(keys[asset]), common))


def _line(live: Outputs, run: Outputs, asset: str, keys: list[Key], common: bool) -> Line:
    frames = _gathered(live, run, keys)
    there = tuple(place != NOWHERE for place in frames.places)
    both = there[0] & there[1]
    common = common and bool(both.any())
    inside = [_inside(place, both) for place in frames.places]
    counted = [mask & within if common else mask for mask, within in zip(there, inside, strict=True)]
    line = Line(
        stage=live.stage,
        asset=asset,
        partitions=(live.partition_of.get(asset), run.partition_of.get(asset)),
        frames=(int(counted[0].sum()), int(counted[1].sum())),
        digests=(_digest(frames, 0, counted[0]), _digest(frames, 1, counted[1])),
    )
    for has, lacks in ((0, "RUN"), (1, "LIVE")):
        alone = there[has] & ~both
        line.missing += _missing(lacks, frames, alone & inside[has])
        if not common:
            line.outside += _missing(lacks, frames, alone & ~inside[has])
    order = np.flatnonzero(both)[np.argsort(frames.places[0][both])]
    _find_differing(line, frames, order)
    _find_swapped(line, frames, order)
    return line


def _gathered(live: Outputs, run: Outputs, keys: list[Key]) -> _Frames:
    """All frames that a side has of these streams."""
    parts: list[tuple[Any, ...]] = []
    for number, key in enumerate(keys):
        pages = live.streams.get(key, {}), run.streams.get(key, {})
        for page in sorted(pages[0].keys() | pages[1].keys()):
            sides = [side.get(page) for side in pages]
            places = [np.full(PAGE, NOWHERE, np.int64) if s is None else np.array(s.places, np.int64) for s in sides]
            digests = [np.zeros(PAGE, np.uint64) if s is None else np.array(s.digests, np.uint64) for s in sides]
            seen = np.flatnonzero((places[0] != NOWHERE) | (places[1] != NOWHERE))
            row = (np.full(len(seen), number), seen + page * PAGE, *(p[seen] for p in places))
            parts.append((*row, *(d[seen] for d in digests)))
    columns: list[Any] = [np.concatenate(column) for column in zip(*parts, strict=True)]
    return _Frames(keys, columns[0], columns[1], (columns[2], columns[3]), (columns[4], columns[5]))


def _inside(places: Ints, both: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which frames of a side stand between the first and the last that both have."""
    if not both.any():
        return np.zeros(len(places), np.bool_)
    within: NDArray[np.bool_] = (places >= places[both].min()) & (places <= places[both].max())
    return within


def _digest(frames: _Frames, side: int, counted: NDArray[np.bool_]) -> str:
    """Over the digests of a side's frames in Kafka's order."""
    order = np.argsort(frames.places[side][counted])
    return blake2b(frames.digests[side][counted][order].tobytes(), digest_size=16).hexdigest()


def _missing(side: str, frames: _Frames, which: NDArray[np.bool_]) -> list[Missing]:
    found = []
    for number, key in enumerate(frames.keys):
        seqs = frames.seq[which & (frames.key == number)].tolist()
        found += [Missing(side, key, first, last) for first, last in runs_of(seqs)]
    return found


def _find_differing(line: Line, frames: _Frames, order: Ints) -> None:
    differing = order[frames.digests[0][order] != frames.digests[1][order]]
    line.differing = len(differing)
    if len(differing):
        first = differing[0]
        assert line.partitions[0] is not None
        assert line.partitions[1] is not None
        places = ((p, int(o[first])) for p, o in zip(line.partitions, frames.places, strict=True))
        line.first = Differing(line.stage, frames.identity(first), *places)  # type: ignore[arg-type]


def _find_swapped(line: Line, frames: _Frames, order: Ints) -> None:
    """Frames that both have, in LIVE's order: in RUN's each must stand behind the one before."""
    back = np.flatnonzero(np.diff(frames.places[1][order]) < 0)
    line.swapped = len(back)
    if len(back):
        before, after = (frames.identity(order[back[0] + step]) for step in (0, 1))
        line.order = f"RUN has {named(after)} before seq {before.seq} of {before.source}, LIVE behind it"
