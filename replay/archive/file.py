"""One file of an archive: records of a day and asset of one partition, in the order of offsets.

| column | |
|---|---|
| partition, offset, timestamp_ms, key, value | the record as Kafka has it, bytes untouched |
| frame_asset, kind, readings | of its frame; null where it cannot be decoded |
| first_arrival_time_ns, last_arrival_time_ns | of its readings, ns since 1970; null where there are none |
"""

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
from pyarrow import parquet

from replay.archive.manifest import ArchiveError, File, day_of, digest, path_of, write_whole
from replay.sources.records import RawRecord
from schemas.codec import DecodeError, decode_as
from schemas.frames import Frame

SCHEMA = pa.schema(
    [
        ("partition", pa.int32()),
        ("offset", pa.int64()),
        ("timestamp_ms", pa.int64()),
        ("key", pa.binary()),
        ("value", pa.binary()),
        ("frame_asset", pa.string()),
        ("kind", pa.string()),
        ("readings", pa.int32()),
        ("first_arrival_time_ns", pa.int64()),
        ("last_arrival_time_ns", pa.int64()),
    ]
)
RECORD_COLUMNS = ["partition", "offset", "timestamp_ms", "key", "value"]
#: Bytes of values that a reader has in memory at once, per file.
ROW_GROUP_BYTES = 4 * 1024 * 1024
ROW_GROUP_RECORDS = 10_000


class Facts(NamedTuple):
    """What a record's frame says; all None where it cannot be decoded."""

    asset: str | None = None
    kind: str | None = None
    readings: int | None = None
    first_arrival_ns: int | None = None
    last_arrival_ns: int | None = None


Row = tuple[RawRecord, Facts]


def facts_of(record: RawRecord) -> Facts:
    """What can be said about a record without looking at its value again."""
    try:
        frame = decode_as(record.value or b"", Frame)
    except DecodeError:
        return Facts()
    if not len(frame):
        return Facts(frame.asset, frame.kind, 0)
    arrival = frame.arrival_time_ns
    return Facts(frame.asset, frame.kind, len(frame), int(arrival.min()), int(arrival.max()))


def write(folder: Path, rows: Sequence[Row]) -> File:
    """Write rows of one day, asset and partition to their file in an archive."""
    (first, facts), (last, _) = rows[0], rows[-1]
    path = path_of(day_of(first.time_ms), facts.asset, first.partition, first.offset, last.offset)
    data = _parquet(rows)
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    write_whole(folder / path, data)
    times_ms = [record.time_ms for record, _ in rows]
    return File(
        path=path,
        partition=first.partition,
        asset=facts.asset,
        first_offset=first.offset,
        last_offset=last.offset,
        first_ms=min(times_ms),
        last_ms=max(times_ms),
        records=len(rows),
        readings=sum(facts.readings or 0 for _, facts in rows),
        size_bytes=len(data),
        blake2b=digest(data).hexdigest(),
    )


def _parquet(rows: Sequence[Row]) -> bytes:
    sink = io.BytesIO()
    with parquet.ParquetWriter(
        sink,
        SCHEMA,
        compression="zstd",
        use_dictionary=["key", "frame_asset", "kind"],
        write_statistics=["partition", "offset", "timestamp_ms", "first_arrival_time_ns", "last_arrival_time_ns"],
        write_page_checksum=True,
    ) as writer:
        for group in _row_groups(rows):
            columns = zip(*((*record, *facts) for record, facts in group), strict=True)
            writer.write_table(
                pa.table([pa.array(c, f.type) for c, f in zip(columns, SCHEMA, strict=True)], schema=SCHEMA)
            )
    return sink.getvalue()


def _row_groups(rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    begin = size = 0
    for at, (record, _) in enumerate(rows):
        size += len(record.value or b"")
        if size >= ROW_GROUP_BYTES or at - begin + 1 >= ROW_GROUP_RECORDS:
            yield rows[begin : at + 1]
            begin, size = at + 1, 0
    if begin < len(rows):
        yield rows[begin:]


def records(folder: Path, file: File, start: int, end: int) -> Iterator[RawRecord]:
    """A file's records with offsets from `start` to before `end`, a row group in memory at a time.

    Raises ArchiveError where the file is not there or damaged.
    """
    for table in _tables(folder, file, start, end, RECORD_COLUMNS):
        for record in map(RawRecord, *(table.column(name).to_pylist() for name in RECORD_COLUMNS)):
            if start <= record.offset < end:
                yield record


def columns(folder: Path, file: File, names: Sequence[str]) -> dict[str, Any]:
    """Numeric columns of a whole file as numpy arrays, nulls as 0. Raises ArchiveError."""
    tables = list(_tables(folder, file, file.first_offset, file.last_offset + 1, names))
    table = pa.concat_tables(tables) if tables else SCHEMA.empty_table().select(names)
    return {name: table.column(name).fill_null(0).to_numpy() for name in names}


def _tables(folder: Path, file: File, start: int, end: int, names: Sequence[str]) -> Iterator[Any]:
    try:
        with parquet.ParquetFile(folder / file.path, page_checksum_verification=True) as opened:
            offset = SCHEMA.get_field_index("offset")
            for index in range(opened.num_row_groups):
                statistics = opened.metadata.row_group(index).column(offset).statistics
                if statistics is None or (statistics.min < end and statistics.max >= start):
                    yield opened.read_row_group(index, columns=list(names), use_threads=False)
    except (OSError, pa.ArrowException) as error:
        raise ArchiveError(f"{file.path} cannot be read: {error}. `twin archive --verify` checks all files") from error
