"""Reads an archive: records by offset, and the offset of a time. Only files that the manifest names are looked at."""

import heapq
from collections.abc import Callable, Iterator
from operator import attrgetter
from pathlib import Path

import numpy as np

from replay.archive import file as archive_file
from replay.archive.manifest import File, Range, load
from replay.sources.records import RawRecord
from replay.sources.topic import LostRecords, lost

#: Whether records of a key are asked for.
Wanted = Callable[[bytes | None], bool]


class Archive:
    """An archive, as it was when this was made. Raises ArchiveError where it cannot be used."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = load(folder)
        self._files: dict[int, list[File]] = {}
        for file in sorted(self.manifest.files, key=attrgetter("first_offset")):
            self._files.setdefault(file.partition, []).append(file)

    def has(self, partition: int) -> Range:
        """The offsets that the archive has of a partition."""
        return self.manifest.partitions.get(partition, Range(0, 0))

    def records(self, partition: int, start: int, end: int, wanted: Wanted | None = None) -> Iterator[RawRecord]:
        """The records from `start` to before `end` in the order of offsets; those that are `wanted` by their key.

        Files are opened when their first offset comes up: in memory is at most what was archived at once. Raises
        LostRecords where one is not there (where all are wanted), ArchiveError where a file is damaged.
        """
        at = start
        for together in self._overlapping(partition, start, end, wanted):
            readers = [archive_file.records(self.folder, file, start, end) for file in together]
            for record in heapq.merge(*readers, key=attrgetter("offset")):
                if record.offset < at or (wanted is None and record.offset > at):
                    raise self._wrong(partition, at, record.offset)
                if wanted is None or wanted(record.key):
                    yield record
                at = record.offset + 1
        if wanted is None and at < end:
            raise self._wrong(partition, at, end)

    def offset_at(self, partition: int, time_ms: int) -> int | None:
        """The first archived offset whose record's timestamp is not before `time_ms`; None: there is none."""
        found: int | None = None
        for file in self._files.get(partition, ()):
            if found is not None and file.first_offset >= found:
                break
            if file.last_ms >= time_ms:
                columns = archive_file.columns(self.folder, file, ("offset", "timestamp_ms"))
                first = int(columns["offset"][np.argmax(columns["timestamp_ms"] >= time_ms)])
                found = first if found is None else min(found, first)
        return found

    def _overlapping(self, partition: int, start: int, end: int, wanted: Wanted | None) -> Iterator[list[File]]:
        """The files of a span, those together whose offsets interleave: they were written at once."""
        together: list[File] = []
        reach = -1
        for file in self._files.get(partition, ()):
            if file.last_offset < start or file.first_offset >= end:
                continue
            if wanted is not None and file.asset is not None and not wanted(file.asset.encode()):
                continue
            if together and file.first_offset > reach:
                yield together
                together = []
            together.append(file)
            reach = max(reach, file.last_offset)
        if together:
            yield together

    def _wrong(self, partition: int, at: int, found: int) -> LostRecords:
        if found > at:
            return lost(f"archive {self.folder}", partition, at, found)
        return LostRecords(f"archive {self.folder}, partition {partition}: offset {found} is there twice")
