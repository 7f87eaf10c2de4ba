"""Gathers readings into frames, one open frame per asset; adds heartbeats for silent assets and gap frames.

Pure: no clock, no I/O, one thread; every time is passed in. Guarantees, whatever the interleaving: readings of one
asset leave in the order they came, each exactly once, and an asset's `seq` counts from 0 without holes. May not know
where readings come from nor where frames go.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TypeVar

import numpy as np

from runtime.config import Framing
from schemas.frames import Column, Frame, Gap, Kind, columns_of, empty_columns

#: A frame is closed before it could outgrow a Kafka record (16 MiB, `schemas.topics.MAX_RECORD_BYTES`).
FRAME_BYTES_MAX = 8 * 1024 * 1024
#: Longest text kept beside a reading, in characters; connectors cut what is longer.
TEXT_CHARS_MAX = 1000
TAGS_MAX = 0xFFFF
_BYTES_PER_ROW = sum(dtype.itemsize for dtype in columns_of(Frame).values())
_UTF8_BYTES_MAX = 4  # per character

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One value of one tag as it came. Times in ns since 1970, `server_time_ns` 0: absent. `text`: what came
    instead of a number (with Mark.TEXT)."""

    asset: str
    tag: str
    unit: str
    value: float
    source_time_ns: int
    server_time_ns: int = 0
    arrival_time_ns: int
    status: int = 0
    mark: int = 0
    text: str | None = None


@dataclass(slots=True)
class _Open:
    """Readings of one asset that wait for their frame to close."""

    opened_ns: int
    readings: list[Reading] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    tags: dict[str, int] = field(default_factory=dict)  # → index, in order of appearance
    units: list[str] = field(default_factory=list)
    tokens: list[object] = field(default_factory=list)
    size_bytes: int = 0

    def takes(self, reading: Reading) -> bool:
        """Whether the reading fits: a frame names each tag once, so a tag whose unit changes needs a new frame."""
        row = self.tags.get(reading.tag)
        return len(self.tags) < TAGS_MAX if row is None else self.units[row] == reading.unit


class Framer:
    """Frames of one connector process. `source` is the connector's id, `epoch` its start in ns since 1970."""

    def __init__(self, source: str, epoch: int, framing: Framing) -> None:
        self._source = source
        self._epoch = epoch
        self._linger_ns = round(framing.linger_s * 1e9)
        self._heartbeat_ns = round(framing.heartbeat_s * 1e9)
        self._readings_max = framing.readings_max
        self._up = True
        self._announce = False
        self._seq: dict[str, int] = {}
        # Both in order of time, oldest first, so `due` looks only at what is due. An asset is in one of the two.
        self._open: dict[str, _Open] = {}
        self._silent_since_ns: dict[str, int] = {}
        self._closed: list[tuple[Frame, list[object]]] = []

    def add(self, reading: Reading, now_ns: int, token: object | None = None) -> None:
        """Put a reading into its asset's open frame; `token` comes back with the frame that holds the reading."""
        frame = self._open.get(reading.asset)
        if frame is not None and not frame.takes(reading):
            self._close(reading.asset, now_ns)
            frame = None
        if frame is None:
            self._silent_since_ns.pop(reading.asset, None)
            frame = self._open[reading.asset] = _Open(now_ns)
        row = frame.tags.get(reading.tag)
        if row is None:
            row = frame.tags[reading.tag] = len(frame.tags)
            frame.units.append(reading.unit)
            frame.size_bytes += _UTF8_BYTES_MAX * (len(reading.tag) + len(reading.unit))
        frame.rows.append(row)
        frame.readings.append(reading)
        frame.size_bytes += _BYTES_PER_ROW
        if reading.text is not None:
            frame.size_bytes += _UTF8_BYTES_MAX * len(reading.text)
        if token is not None:
            frame.tokens.append(token)
        if len(frame.rows) >= self._readings_max or frame.size_bytes >= FRAME_BYTES_MAX:
            self._close(reading.asset, now_ns)

    def due(self, now_ns: int, flush: bool = False) -> list[tuple[Frame, list[object]]]:
        """Frames whose linger is over or that are full (with `flush`: all open ones), and heartbeats, in order.

        A clock that was set back makes everything opened "later" than now due at once instead of waiting for it.
        """
        for asset in tuple(self._silent_since_ns) if self._announce else ():
            self._emit(asset, now_ns, "heartbeat")
        self._announce = False
        while self._open:
            asset, frame = next(iter(self._open.items()))
            if not flush and 0 <= now_ns - frame.opened_ns < self._linger_ns:
                break
            self._close(asset, now_ns)
        while self._silent_since_ns:
            asset, since_ns = next(iter(self._silent_since_ns.items()))
            if 0 <= now_ns - since_ns < self._heartbeat_ns:
                break
            self._emit(asset, now_ns, "heartbeat")
        closed, self._closed = self._closed, []
        return closed

    def gap(self, asset: str, gap: Gap, tags: Sequence[str], now_ns: int) -> None:
        """Add a gap frame (no tags: all of the asset's) after the readings that came before it."""
        if asset in self._open:
            self._close(asset, now_ns)
        self._emit(asset, now_ns, "gap", tags=tags, gap=gap)

    def expect(self, asset: str, now_ns: int) -> None:
        """Know an asset before its first reading, so that its silence is told by heartbeats."""
        if asset not in self._seq and asset not in self._open:
            self._silent_since_ns.setdefault(asset, now_ns)

    def connected(self, up: bool) -> None:
        """Set the connection status that frames carry from now on; a change is told at once by heartbeats."""
        self._announce = self._announce or up != self._up
        self._up = up

    def next_due_ns(self) -> int | None:
        """When `due` would next return something; None where nothing waits. Valid unless the clock is set back."""
        if self._closed or (self._announce and self._silent_since_ns):
            return 0
        times = [frame.opened_ns + self._linger_ns for frame in _first(self._open.values())]
        times += [since_ns + self._heartbeat_ns for since_ns in _first(self._silent_since_ns.values())]
        return min(times, default=None)

    def _close(self, asset: str, now_ns: int) -> None:
        frame = self._open.pop(asset)
        self._emit(asset, now_ns, "readings", tags=tuple(frame.tags), content=frame)

    def _emit(
        self,
        asset: str,
        now_ns: int,
        kind: Kind,
        *,
        tags: Sequence[str] = (),
        gap: Gap | None = None,
        content: _Open | None = None,
    ) -> None:
        seq = self._seq.get(asset, -1) + 1
        frame = Frame(
            asset=asset,
            source=self._source,
            epoch=self._epoch,
            seq=seq,
            kind=kind,
            connected=self._up,
            time_ns=now_ns,
            tags=tuple(tags),
            units=tuple(content.units) if content else ("",) * len(tags),
            texts=texts(content.readings) if content else {},
            gap=gap,
            **(columns(content.rows, content.readings) if content else empty_columns(Frame)),
        )
        self._seq[asset] = seq
        self._silent_since_ns.pop(asset, None)
        self._silent_since_ns[asset] = now_ns
        self._closed.append((frame, content.tokens if content else []))


def columns(rows: Sequence[int], readings: Sequence[Reading]) -> dict[str, Column]:
    """The columns of a frame of these readings; `rows` are their indices in the frame's tags."""
    return {
        "tag": np.array(rows, "<u2"),
        "source_time_ns": np.array([r.source_time_ns for r in readings], "<i8"),
        "server_time_ns": np.array([r.server_time_ns for r in readings], "<i8"),
        "arrival_time_ns": np.array([r.arrival_time_ns for r in readings], "<i8"),
        "value": np.array([r.value for r in readings], "<f8"),
        "status": np.array([r.status for r in readings], "<u4"),
        "mark": np.array([r.mark for r in readings], "u1"),
    }


def texts(readings: Sequence[Reading]) -> dict[int, str]:
    """The texts of a frame of these readings."""
    return {i: r.text for i, r in enumerate(readings) if r.text is not None}


def _first(items: Iterable[Item]) -> Iterable[Item]:
    return islice(items, 1)
