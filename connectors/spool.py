"""The disk spool: records in the order they came, kept over kill -9 and power cuts. Pure storage.

One SQLite file in WAL mode, synchronous=FULL: what `append` has returned for is on the disk. SQLite has no checksum
of its own for contents, so every row carries one, and a small file beside the database counts rows, so that a lost end
of the write-ahead log is seen as well. The file exists only while something is in it, and its name says from when on
it may hold something. Used from one thread. May not know Kafka nor the field.
"""

import contextlib
import logging
import os
import sqlite3
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

log = logging.getLogger(__name__)

ROW_BYTES = 64  # what a row costs beside its contents, roughly
_UNFINISHED = (".part", ".part-wal", ".part-shm")
PIECE_ROWS = 256  # rows in memory while a damaged file is read
_COUNT = struct.Struct("<qqI")
# In bytes; of a text SQLite would count the characters before a NUL.
_SIZE = "total(length(value) + length(CAST(key AS BLOB)) + length(CAST(topic AS BLOB)))"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS records (
    id INTEGER PRIMARY KEY, time_ns INTEGER NOT NULL, topic TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL,
    crc INTEGER NOT NULL
)
"""


class SpoolTrouble(OSError):
    """The disk does not take or give it now (full, no rights, I/O error); nothing was changed. Try again later."""


class SpoolDamaged(RuntimeError):
    """The file is no longer what was written. `rescue` saves what can be read."""


class Row(NamedTuple):
    """One record. `time_ns`: when it was appended, by the wall clock."""

    id: int
    time_ns: int
    topic: str
    key: str
    value: bytes


class Spool:
    """The records of one connector in `directory`. `rows` and `bytes` are what it holds, `last_id` the newest row."""

    def __init__(self, directory: Path, connector_id: str) -> None:
        self._directory = directory.expanduser()
        self._connector_id = connector_id
        self._prefix = f"{connector_id}.spool-"
        self._path: Path | None = None
        self._database: sqlite3.Connection | None = None
        self._count = -1
        self._deleted = 0  # up to this number a missing row is no damage
        self.since_ns = 0
        self.rows = 0
        self.bytes = 0
        self.last_id = 0

    def exists(self) -> bool:
        """Whether an earlier process, or this one, has left something on the disk."""
        return bool(self._files())

    @property
    def is_open(self) -> bool:
        """Whether `open` has succeeded and neither `close` nor `remove` came after it."""
        return self._database is not None

    def open(self, since_ns: int) -> None:
        """Open the file there is, else make one that holds nothing from before `since_ns`. Raises SpoolTrouble,
        SpoolDamaged."""
        if self._database is not None:
            return
        try:
            self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            found = self._files()
        except OSError as error:
            raise SpoolTrouble(str(error)) from error
        path = found[0] if found else self._directory / f"{self._prefix}{since_ns}.sqlite"
        try:
            self._create(path)
        except SpoolTrouble:
            if not found:  # there is nothing in it
                with contextlib.suppress(SpoolTrouble):
                    _unlink(path)
            raise
        [(rows, size, last)] = self._ask(f"SELECT count(*), {_SIZE}, max(id) FROM records")
        counted, self._deleted = self._counted()
        self.rows, self.bytes = rows, int(size) + rows * ROW_BYTES
        self.last_id = max(last or 0, counted)
        if max(last or 0, self._deleted) < counted:
            raise SpoolDamaged(f"{self._path}: it ends with row {last or 0}, written were {counted}")

    def _create(self, path: Path) -> None:
        self._path = path
        self.since_ns = int(path.stem.rpartition("-")[2])
        try:
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
            self._count = os.open(path.with_suffix(".count"), os.O_CREAT | os.O_RDWR, 0o600)
            self._database = sqlite3.connect(path, isolation_level=None, timeout=1.0, check_same_thread=False)
        except (OSError, sqlite3.Error) as error:
            self._close()
            raise SpoolTrouble(str(error)) from error
        try:
            self._ask("PRAGMA journal_mode=WAL")
            self._ask("PRAGMA synchronous=FULL")
            self._ask(_SCHEMA)
        except SpoolTrouble:
            self._close()
            raise

    def append(self, records: Sequence[tuple[str, str, bytes]], now_ns: int) -> int:
        """Write (topic, key, value) in order, durably when it returns. Gives the first one's row number; the others
        follow without holes. Raises SpoolTrouble, SpoolDamaged."""
        first = self.last_id + 1
        rows = [
            (first + i, now_ns, topic, key, value, _checksum(first + i, now_ns, topic, key, value))
            for i, (topic, key, value) in enumerate(records)
        ]
        self._insert(rows)
        self.last_id += len(rows)
        self.rows += len(rows)
        self.bytes += sum(size_of(*record) for record in records)
        self._note()
        return first

    def read(self, after_id: int, rows_max: int, bytes_max: int, before_ns: int | None = None) -> list[Row]:
        """The oldest rows after a number, at least one where there is one, older than `before_ns` where that is given.
        Raises SpoolTrouble, SpoolDamaged."""
        return self._read(after_id, rows_max, bytes_max, before_ns)

    def delete(self, up_to_id: int) -> None:
        """Forget rows up to a number. Raises SpoolTrouble, SpoolDamaged."""
        [(rows, size)] = self._ask(f"SELECT count(*), {_SIZE} FROM records WHERE id <= ?", (up_to_id,))
        if rows:
            self._note_deleted(up_to_id)
            self._change([("DELETE FROM records WHERE id <= ?", [(up_to_id,)])])
            self.rows -= rows
            self.bytes -= int(size) + rows * ROW_BYTES

    def replace(self, rows: Iterable[Row], kept: Mapping[int, bytes]) -> None:
        """Replace rows by those of them that are in `kept`, with new values; at once or not at all. Raises
        SpoolTrouble, SpoolDamaged."""
        rows = list(rows)
        gone = [(row.id,) for row in rows if row.id not in kept]
        new = [(kept[r.id], _checksum(r.id, r.time_ns, r.topic, r.key, kept[r.id]), r.id) for r in rows if r.id in kept]
        if (self.last_id,) in gone:
            self._note_deleted(self.last_id)
        self._change(
            [("DELETE FROM records WHERE id = ?", gone), ("UPDATE records SET value = ?, crc = ? WHERE id = ?", new)]
        )
        self.rows -= len(gone)
        self.bytes += sum(map(len, kept.values())) - sum(
            size_of(r.topic, r.key, r.value) if r.id not in kept else len(r.value) for r in rows
        )

    def remove(self) -> None:
        """Delete the file with all that is in it. Raises SpoolTrouble; call it again then."""
        path = self._path
        self._close()
        if path is not None:
            self._path = path
            _unlink(path)
            self._path = None

    def close(self) -> None:
        """Let go of the file; what is in it stays."""
        self._close()

    def rescue(self, beat: Callable[[], object]) -> tuple[int, Path]:
        """Leave a damaged file as it is under another name and go on with a new one that has every row that can still
        be read, under its old number. Gives how many numbers have no row now (at most so many rows are lost), and
        where the damaged file is. It may take minutes; `beat` is called all the time. Raises SpoolTrouble; killed in
        between, the next `open` finds the damage again."""
        if self._path is None:
            raise SpoolTrouble("the spool is not open")
        old, since_ns = self._path, self.since_ns
        new = old.with_name(f"{self._prefix}{since_ns + 1}.sqlite")
        try:
            _unlink(new)
            copy = Spool(self._directory, self._connector_id)
            copy._create(new.with_suffix(".part"))
            missing, last = self._salvage_into(copy, beat)
            copy._close()
            new.with_suffix(".part").replace(new)
            new.with_suffix(".count").write_bytes(_counter(last, last))
            self._close()
            aside = old.with_suffix(".damaged")
            old.replace(aside)
            _unlink(old)
        except OSError as error:
            raise error if isinstance(error, SpoolTrouble) else SpoolTrouble(str(error)) from error
        self.open(since_ns)
        return missing, aside

    def _salvage_into(self, copy: "Spool", beat: Callable[[], object]) -> tuple[int, int]:
        first, last = self._reach()
        missing = 0
        for chunk in self._salvage(first, last) if self._database is not None else ():
            beat()
            if isinstance(chunk, int):
                missing += chunk
            else:
                copy._insert([(*row, _checksum(*row)) for row in chunk])
        return missing, last

    def _reach(self) -> tuple[int, int]:
        """First and last row number that may be there."""
        last = max(self.last_id, self._counted()[0])
        try:
            [(first, newest)] = self._need().execute("SELECT min(id), max(id) FROM records").fetchall()
        except (sqlite3.Error, SpoolTrouble):
            return 1, last
        return first or 1, max(last, newest or 0)

    def _salvage(self, first: int, last: int) -> Iterator[list[Row] | int]:
        """All rows of a range that can be read, in pieces, and the numbers of rows that cannot: what fails is halved
        until it is one row, unless there is no database at all."""
        while first <= last:
            end = min(last, first + PIECE_ROWS - 1)
            yield from self._salvage_piece(first, end)
            first = end + 1

    def _salvage_piece(self, first: int, last: int) -> Iterator[list[Row] | int]:
        try:
            rows = self._read(first - 1, last - first + 1, 1 << 62, None, last)
        except (SpoolDamaged, SpoolTrouble) as error:
            if first == last or _name(error.__cause__) == "SQLITE_NOTADB":
                yield last - first + 1
                return
            middle = (first + last) // 2
            yield from self._salvage_piece(first, middle)
            yield from self._salvage_piece(middle + 1, last)
        else:
            yield rows
            yield last - first + 1 - len(rows)

    def _read(
        self, after_id: int, rows_max: int, bytes_max: int, before_ns: int | None, last_id: int = 2**62
    ) -> list[Row]:
        before_ns = 2**62 if before_ns is None else before_ns
        found: list[Row] = []
        size = 0
        try:
            cursor = self._need().execute(
                "SELECT * FROM records WHERE id > ? AND id <= ? ORDER BY id LIMIT ?", (after_id, last_id, rows_max)
            )
            for *plain, crc in cursor:
                if _checksum(*plain) != crc:
                    raise SpoolDamaged(f"row {plain[0]} is not what was written")
                row = Row(*plain)
                if row.time_ns >= before_ns:
                    break
                found.append(row)
                size += size_of(row.topic, row.key, row.value)
                if size >= bytes_max:
                    break
        except sqlite3.Error as error:
            raise _as_ours(error) from error
        except (TypeError, AttributeError, struct.error) as error:  # a column of another type than was written
            raise SpoolDamaged(f"a row is not what was written ({error})") from error
        return found

    def _files(self) -> list[Path]:
        return sorted(p for p in self._directory.glob(f"{self._prefix}*.sqlite") if p.stem.rpartition("-")[2].isdigit())

    def _counted(self) -> tuple[int, int]:
        """The newest row ever written, and up to which rows were deleted; zeros where nobody knows."""
        data = os.pread(self._count, _COUNT.size, 0) if self._count >= 0 else b""
        last, deleted = _COUNT.unpack(data)[:2] if len(data) == _COUNT.size else (0, 0)
        return (last, deleted) if data == _counter(last, deleted) else (0, 0)

    def _note_deleted(self, up_to_id: int) -> None:
        """Before it happens: else rows that are gone on purpose could seem to be lost."""
        self._deleted = max(self._deleted, up_to_id)
        self._note()

    def _note(self) -> None:
        """Not synced: it must outlive the process, and after a power cut it may be old."""
        try:
            os.pwrite(self._count, _counter(self.last_id, self._deleted), 0)
        except OSError as error:  # the rows are safe; only a later damage may not be seen
            log.warning("%s: the row count cannot be written (%s)", self._path, error.strerror)

    def _insert(self, rows: Sequence[tuple[object, ...]]) -> None:
        self._change([("INSERT INTO records VALUES (?, ?, ?, ?, ?, ?)", rows)])

    def _need(self) -> sqlite3.Connection:
        if self._database is None:
            raise SpoolTrouble("the spool is not open")
        return self._database

    def _ask(self, statement: str, values: tuple[object, ...] = ()) -> list[tuple[int, ...]]:
        try:
            return self._need().execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise _as_ours(error) from error

    def _change(self, statements: Iterable[tuple[str, Sequence[tuple[object, ...]]]]) -> None:
        database = self._need()
        try:
            database.execute("BEGIN IMMEDIATE")
            for statement, values in statements:
                database.executemany(statement, values)
            database.execute("COMMIT")
        except sqlite3.Error as error:
            if database.in_transaction:
                database.execute("ROLLBACK")
            raise _as_ours(error) from error

    def _close(self) -> None:
        if self._database is not None:
            self._database.close()
        if self._count >= 0:
            os.close(self._count)
        self._database, self._path, self._count = None, None, -1
        self.rows = self.bytes = self.last_id = self._deleted = 0


def size_of(topic: str, key: str, value: bytes) -> int:
    """What a record counts in `bytes`."""
    return len(value) + len(key.encode()) + len(topic.encode()) + ROW_BYTES


def _checksum(number: int, time_ns: int, topic: str, key: str, value: bytes) -> int:
    return zlib.crc32(value, zlib.crc32(f"{number} {time_ns} {topic} {key}".encode()))


def _counter(last: int, deleted: int) -> bytes:
    return _COUNT.pack(last, deleted, zlib.crc32(struct.pack("<qq", last, deleted)))


def _all_of(path: Path) -> list[Path]:
    return [path.with_suffix(suffix) for suffix in (".sqlite", ".sqlite-wal", ".sqlite-shm", ".count", *_UNFINISHED)]


def _unlink(path: Path) -> None:
    """Delete a spool's files, as far as they are there. Raises SpoolTrouble."""
    try:
        for part in _all_of(path):
            part.unlink(missing_ok=True)
    except OSError as error:  # a read-only disk says so of files, too, that are not there
        raise SpoolTrouble(str(error)) from error


def _as_ours(error: sqlite3.Error) -> SpoolTrouble | SpoolDamaged:
    """SQLite says for a full disk, missing rights and a lock that it is operational; anything else is the file."""
    name = _name(error)
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")) or not isinstance(error, sqlite3.OperationalError):
        return SpoolDamaged(str(error))
    if name == "SQLITE_ERROR" or name.startswith("SQLITE_IOERR_SHORT_READ"):  # a schema that is not ours; a cut file
        return SpoolDamaged(str(error))
    return SpoolTrouble(str(error))


def _name(error: BaseException | None) -> str:
    """SQLite's name of an error; empty where it has none."""
    return getattr(error, "sqlite_errorname", "")
