"""The manifest of an archive: which records are in which file. A file that is not in it is no part of the archive.

    <archive>/manifest.json
    <archive>/raw/day=YYYY-MM-DD/asset=<name>/part-<partition>-<first offset>-<last offset>.parquet

The day is that of the record's timestamp, UTC. Files of a partition interleave: the offsets between two records of an
asset are in the files of other assets. That none is missing is said per partition (`Range`), and every file's records
are counted. May not know: Kafka, Parquet.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from string import ascii_letters, digits
from typing import NamedTuple

import orjson

NAME = "manifest.json"
FORMAT = 1
PARTIAL = ".partial"
#: What stands for the asset of records that could not be decoded, and for the day of times outside the calendar.
UNREADABLE = "_unreadable"
NO_DAY = "_none"
_PLAIN = frozenset(ascii_letters + digits + "-._")
_NAME_CHARS_MAX = 200


class ArchiveError(RuntimeError):
    """The archive cannot be used, or cannot go on, and why."""


class Range(NamedTuple):
    """The offsets of a partition that are archived, all of them: from `first` to before `next`."""

    first: int
    next: int


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """One file. `path` from the archive's folder; `asset` None: unreadable records; times in ms since 1970."""

    path: str
    partition: int
    asset: str | None
    first_offset: int
    last_offset: int
    first_ms: int
    last_ms: int
    records: int
    readings: int
    size_bytes: int
    blake2b: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What an archive has. `topic_id` is Kafka's: a topic that is made anew has another."""

    topic: str
    topic_id: str
    cluster_id: str
    partitions: Mapping[int, Range]
    files: Sequence[File] = ()

    def with_files(self, partition: int, next_offset: int, files: Sequence[File]) -> "Manifest":
        """The same with a partition's next files: they hold all offsets up to before `next_offset`."""
        reached = Range(self.partitions[partition].first, next_offset)
        return replace(self, partitions={**self.partitions, partition: reached}, files=[*self.files, *files])


def load(folder: Path) -> Manifest:
    """The manifest of an archive. Raises ArchiveError."""
    path = folder / NAME
    try:
        plain = orjson.loads(path.read_bytes())
        if plain["format"] != FORMAT:
            raise ArchiveError(f"{path}: format {plain['format']}, this version reads {FORMAT}")
        return Manifest(
            topic=plain["topic"],
            topic_id=plain["topic_id"],
            cluster_id=plain["cluster_id"],
            partitions={int(p): Range(r["first"], r["next"]) for p, r in plain["partitions"].items()},
            files=[File(**file) for file in plain["files"]],
        )
    except FileNotFoundError as error:
        raise ArchiveError(f"{folder} is no archive: it has no {NAME}") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArchiveError(f"{path} cannot be used: {error!r}") from error


def save(folder: Path, manifest: Manifest) -> None:
    """Replace the manifest; after a crash it is the old or the new one."""
    plain = {
        "format": FORMAT,
        "topic": manifest.topic,
        "topic_id": manifest.topic_id,
        "cluster_id": manifest.cluster_id,
        "partitions": {str(p): r._asdict() for p, r in manifest.partitions.items()},
        "files": [asdict(file) for file in manifest.files],
    }
    write_whole(folder / NAME, orjson.dumps(plain, option=orjson.OPT_INDENT_2))
    sync_folder(folder)


def digest(data: bytes = b"") -> "blake2b":
    """What a file is recognised by."""
    return blake2b(data, digest_size=16)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that there is never a part of it under its name. Its folder is to be synced by the caller."""
    partial = path.with_name(path.name + PARTIAL)
    with partial.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def sync_folder(folder: Path) -> None:
    """Let the names in a folder survive a power failure."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def path_of(day: str, asset: str | None, partition: int, first: int, last: int) -> str:
    """Where a file stands, from the archive's folder."""
    folder = UNREADABLE if asset is None else escaped(asset)
    return f"raw/day={day}/asset={folder}/part-{partition}-{first}-{last}.parquet"


def escaped(asset: str) -> str:
    """An asset as a folder's name, percent-escaped, never beginning with `_` or `.`; a long one ends in a digest."""
    name = "".join(
        chr(byte) if chr(byte) in _PLAIN and (index or chr(byte) not in "._") else f"%{byte:02X}"
        for index, byte in enumerate(asset.encode())
    )
    if len(name) <= _NAME_CHARS_MAX:
        return name
    return f"{name[: _NAME_CHARS_MAX - 40]}%{blake2b(asset.encode(), digest_size=16).hexdigest()}"


def day_of(time_ms: int) -> str:
    """The UTC day of a timestamp."""
    try:
        return datetime.fromtimestamp(time_ms / 1000, UTC).date().isoformat()
    except (ValueError, OverflowError, OSError):
        return NO_DAY
