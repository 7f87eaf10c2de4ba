"""Late readings in a span of raw: which assets have some, and where they belong.

Raw is read twice: all of it, to learn which assets have late readings, and then each of those. In memory are the
readings of one asset at a time.
"""

from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from glob import escape
from typing import NamedTuple

import numpy as np

from kernels.validation_params import ValidationParams
from replay.correct.late import Arrived, has_late, moves_of
from replay.correct.reordered import Moves, Source
from replay.fold.joining import Dictionary, joined
from replay.sources.kept import Kept
from replay.sources.raw import Raw
from replay.sources.span import Part, Span
from runtime.partitions import misplaced
from schemas.codec import DecodeError, decode_as
from schemas.frames import Frame

#: Source and epoch of frames.
Origin = tuple[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Late:
    """An asset with late readings. From `begin` to before `end` of raw it was looked at: a warm-up before the earliest.

    `following`: the first seq, by source and epoch, from the first record that changes on.
    """

    asset: str
    partition: int
    moves: Moves
    begin: int
    end: int
    following: Mapping[Origin, int]


class Search(NamedTuple):
    """Where late readings are looked for: in raw with so many partitions, and with these time limits."""

    raw: Kept
    partitions: int
    params: ValidationParams
    warm_up_ms: int

    def found(self, span: Span, assets: tuple[str, ...]) -> Iterator[Late]:
        """Every asset, of those that match, with readings that came late in the span and can be corrected.

        What came within the warm-up before the span tells what is late in it. Raises SourceError, SpanError,
        KafkaException.
        """
        begins = {p: part.low for p, part in span.parts.items()}
        if span.from_ms is not None:
            begins |= self.raw.first_offsets(span.from_ms - self.warm_up_ms)
        with closing(self.raw.source(assets)) as source:
            late = {p: self._with_late(source, p, part, begins[p]) for p, part in span.parts.items()}
        for partition, suspects in late.items():
            if not suspects:
                continue
            with closing(self.raw.source(tuple(map(escape, suspects)))) as source:
                for asset in suspects:
                    found = self._of_asset(source, asset, partition, span.parts[partition], begins[partition])
                    if found is not None:
                        yield found

    def _with_late(self, source: Source, partition: int, part: Part, begin: int) -> list[str]:
        newest: dict[str, dict[str, int]] = {}
        found = set()
        for batch in self._frames(source, partition, begin, part.end):
            for offset, frame in batch:
                limits = self.params.time_table(frame.asset, frame.tags)
                if has_late(newest.setdefault(frame.asset, {}), frame, limits) and offset >= part.start:
                    found.add(frame.asset)
        return sorted(found)

    def _of_asset(self, source: Source, asset: str, partition: int, part: Part, begin: int) -> Late | None:
        """Look at it from a warm-up before the earliest late reading on, which may itself be seen only from there."""
        while True:
            found = self._from(source, asset, partition, part, begin)
            if found is None or begin <= part.low:
                return found
            wanted_ms = found.moves.from_ns // 1_000_000 - self.warm_up_ms
            earlier = max(part.low, self.raw.first_offsets(wanted_ms)[partition])
            if earlier >= begin:
                return found
            begin = earlier

    def _from(self, source: Source, asset: str, partition: int, part: Part, begin: int) -> Late | None:
        dictionary = Dictionary()
        chunks: list[Raw] = []
        places: list[tuple[int, int]] = []
        seen: list[tuple[int, Origin, int]] = []
        for batch in self._frames(source, partition, begin, part.end, asset):
            seen += [(offset, (frame.source, frame.epoch), frame.seq) for offset, frame in batch]
            raws = [self._raw(partition, offset, frame) for offset, frame in batch if len(frame)]
            if raws:
                chunks.append(self._raw(partition, raws[-1].offset, joined(asset, raws, dictionary)))
                places += [(raw.offset, raw.n) for raw in raws]
        if not chunks:
            return None
        readings = joined(asset, chunks, dictionary)
        offset, n = np.array(places, np.int64).T
        row = np.arange(len(readings)) - np.repeat(np.cumsum(n) - n, n)
        arrived = Arrived(readings=readings, offset=np.repeat(offset, n), row=row)
        moves = moves_of(arrived, self.params.time_table(asset, readings.tags), since=part.start)
        if moves is None:
            return None
        following: dict[Origin, int] = {}
        for at, origin, seq in seen:
            if at >= moves.start:
                following.setdefault(origin, seq)
        return Late(asset=asset, partition=partition, moves=moves, begin=begin, end=part.end, following=following)

    def _raw(self, partition: int, offset: int, frame: Frame) -> Raw:
        return Raw(self.raw.topic, partition, offset, b"", frame)

    def _frames(
        self, source: Source, partition: int, begin: int, end: int, asset: str | None = None
    ) -> Iterator[list[tuple[int, Frame]]]:
        """Frames with their offsets, in batches: those that validation takes, each once; `asset`: only its own."""
        applied: dict[tuple[str, Origin], int] = {}
        for batch in source.read(partition, begin, end):
            found = []
            for record in batch:
                if asset is not None and record.key != asset.encode():
                    continue
                try:
                    frame = decode_as(record.value or b"", Frame)
                except DecodeError:
                    continue
                place = (frame.asset, (frame.source, frame.epoch))
                wrong = misplaced(frame.asset, record.key, partition, self.partitions)
                if wrong is None and frame.seq > applied.get(place, -1):
                    applied[place] = frame.seq
                    found.append((record.offset, frame))
            yield found
