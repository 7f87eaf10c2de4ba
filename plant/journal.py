"""The plant's journal: a line for every reading, written before it is handed to its protocol.

Several processes append to one file: every flush is one write to a file opened for appending, so lines never mix.
May not know who reads it.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson

from plant.samples import Sample


class Journal:
    """Appends JSON lines to `path`; `create` empties it first. None writes nothing."""

    def __init__(self, path: Path | None, create: bool = False) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | (os.O_TRUNC if create else 0)
        self._file = None if path is None else os.open(path, flags, 0o644)
        self._lines: list[bytes] = []

    def reading(self, sample: Sample, sent_ns: int) -> None:
        """Note a sample that is handed over at `sent_ns`."""
        if self._file is not None:
            self._lines.append(orjson.dumps(line(sample, sent_ns)))

    def event(self, event: dict[str, Any]) -> None:
        """Note something that is no reading; it has the key `event`."""
        if self._file is not None:
            self._lines.append(orjson.dumps(event))

    def flush(self) -> None:
        """Give all lines to the operating system: after this they survive the process."""
        if self._file is not None and self._lines:
            data = memoryview(b"\n".join(self._lines) + b"\n")
            self._lines.clear()
            while data:
                data = data[os.write(self._file, data) :]

    def close(self) -> None:
        """Flush and close."""
        self.flush()
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def line(sample: Sample, sent_ns: int) -> dict[str, Any]:
    """One line. The value is a C99 hexadecimal float, so that no digit is lost; `garbage` lines hold bytes as hex."""
    entry: dict[str, Any] = {
        "asset": sample.asset,
        "tag": sample.tag,
        "protocol": sample.protocol,
        "source_time_ns": sample.source_time_ns,
        "value": None if sample.value is None else sample.value.hex(),
        "text": sample.text,
        "unit": sample.unit,
        "fault": sample.fault,
        "truth": sample.truth,
        "sent_ns": sent_ns,
        "repeat": sample.repeat,
    }
    if sample.status:
        entry["status"] = sample.status
    if sample.garbage is not None:
        entry |= {"garbage": True, "bytes": sample.garbage.hex()}
    return entry


def read(path: Path) -> Iterator[dict[str, Any]]:
    """All lines of a journal, in the order they were written."""
    with path.open("rb") as file:
        for text in file:
            yield orjson.loads(text)
