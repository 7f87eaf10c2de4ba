"""Raw frames read at a glance: what is as in the frame before is compared, not read again.

Frames of one source differ from each other in seq, time and columns. A `Glimpser` learns from a decoded frame the bytes
that stay the same (header, asset, source, epoch; tags and units) and recognises the next one by them, twenty times
faster than it is decoded. It takes nothing for a frame that `decode` would not take, to the last byte and with the same
content; what it does not recognise (heartbeats, gaps, texts, other tags) gives None and must be decoded.
"""

from collections.abc import Sequence
from functools import lru_cache
from itertools import groupby
from typing import NamedTuple

import numpy as np

from schemas.codec import MARKER, versions
from schemas.frames import Column, Frame, columns_of

#: A dictionary and a prefix per source, this many of each are remembered.
REMEMBERED = 16
COLUMNS = columns_of(Frame)
#: Kind "readings", connected.
USUAL = b"\0\1"
#: No texts, no gap.
END = b"\0\0"
TIME_BYTES = 9
#: A varint of nine bytes: all but the last say that it goes on. So long is every time in ns from 1984 to 2116.
GOES_ON = 0x80_80_80_80_80_80_80_80_80
NINE_BYTES = 0x80_80_80_80_80_80_80_80_00
#: The layout below is that of this version.
VERSION = 1


class Names(NamedTuple):
    """Tags and units, and their bytes in a record."""

    tags: tuple[str, ...]
    units: tuple[str, ...]
    data: bytes


class Glimpse(NamedTuple):
    """A frame of readings as it stands in its bytes: `columns` is where they begin, `n` the number of readings."""

    source: str
    epoch: int
    seq: int
    n: int
    names: Names
    value: bytes
    time: int
    columns: int

    @property
    def time_ns(self) -> int:
        """The connector's clock when the frame was closed, ns since 1970."""
        number = 0
        for i, byte in enumerate(self.value[self.time : self.time + TIME_BYTES]):
            number |= (byte & 0x7F) << 7 * i
        return number >> 1 ^ -(number & 1)


class Glimpser:
    """Recognises the frames of one asset."""

    def __init__(self) -> None:
        self._prefixes: dict[bytes, tuple[str, int]] = {}
        self._names: list[Names] = []
        self._numbers: tuple[int, bytes] = (0, b"")

    def learn(self, frame: Frame) -> None:
        """Recognise frames like this one, which was decoded."""
        fingerprint = _fingerprint()
        if fingerprint is None or frame.kind != "readings" or not len(frame):
            return
        prefix = MARKER + fingerprint + text(frame.asset) + text(frame.source) + long(frame.epoch)
        if len(self._prefixes) >= REMEMBERED:
            self._prefixes.clear()
        self._prefixes[prefix] = (frame.source, frame.epoch)
        names = Names(frame.tags, frame.units, texts(frame.tags) + texts(frame.units))
        self._names = [names, *(known for known in self._names if known.data != names.data)][:REMEMBERED]

    def read(self, value: bytes) -> Glimpse | None:
        """The frame in `value`; None where it must be decoded."""
        for prefix, (source, epoch) in self._prefixes.items():
            if value.startswith(prefix):
                return self._read(value, len(prefix), source, epoch)
        return None

    def _read(self, value: bytes, at: int, source: str, epoch: int) -> Glimpse | None:
        seq, at = _unsigned(value, at)
        time = at + len(USUAL)
        at = time + TIME_BYTES
        if (
            seq & 1  # below 0
            or not value.startswith(USUAL, time - len(USUAL))
            or int.from_bytes(value[time:at], "big") & GOES_ON != NINE_BYTES
        ):
            return None
        for names in self._names:
            if value.startswith(names.data, at):
                break
        else:
            return None
        at += len(names.data)
        size, _ = _unsigned(value, at)
        n = size >> 2  # zigzag, and two bytes per tag
        layout = _layout(n)
        if size & 3 or len(value) != at + layout.end or not value.endswith(END):
            return None
        for begin, prefix in layout.lengths:
            if not value.startswith(prefix, at + begin):
                return None
        if not self._are_numbered(value[at + layout.tags : at + layout.tags + 2 * n], len(names.tags)):
            return None
        return Glimpse(source, epoch, seq >> 1, n, names, value, time, at)

    def _are_numbered(self, numbers: bytes, tags: int) -> bool:
        """Whether all readings have one of so many tags. The last answer is kept: frames often name the same ones."""
        if self._numbers == (tags, numbers):
            return True
        if not numbers or int(np.frombuffer(numbers, COLUMNS["tag"]).max()) >= tags:
            return False
        self._numbers = (tags, numbers)
        return True


class Layout(NamedTuple):
    """Where things are in the columns of n readings, from their begin: tags, `lengths` (where, bytes), columns, end."""

    tags: int
    lengths: tuple[tuple[int, bytes], ...]
    columns: dict[str, tuple[int, int]]
    end: int


@lru_cache(4096)
def _layout(n: int) -> Layout:
    at, lengths, columns = 0, [], {}
    for name, dtype in COLUMNS.items():
        prefix = long(n * dtype.itemsize)
        lengths.append((at, prefix))
        begin = at + len(prefix)
        at = begin + n * dtype.itemsize
        columns[name] = (begin, at)
    return Layout(columns["tag"][0], tuple(lengths), columns, at + len(END))


def columns_from(glimpses: Sequence[Glimpse]) -> dict[str, Column]:
    """The columns of all frames, one after the other; tags by their number in each one's own dictionary."""
    parts = [_block(list(run), n) for n, run in groupby(glimpses, key=_size)]
    if len(parts) == 1:
        return parts[0]
    return {name: np.concatenate([part[name] for part in parts]) for name in COLUMNS}


def _size(glimpse: Glimpse) -> int:
    return glimpse.n


def _block(glimpses: Sequence[Glimpse], n: int) -> dict[str, Column]:
    """The columns of frames of n readings each: a table of their bytes, a line per frame, is cut into columns."""
    table = np.frombuffer(b"".join([g.value[g.columns :] for g in glimpses]), np.uint8).reshape(len(glimpses), -1)
    found = _layout(n).columns
    return {
        name: np.ascontiguousarray(table[:, begin:end]).reshape(-1).view(COLUMNS[name])
        for name, (begin, end) in found.items()
    }


def _unsigned(value: bytes, at: int) -> tuple[int, int]:
    """A varint as it stands, before zigzag, and where the next byte is. Odd (so: not usable) where there is none."""
    number = 0
    for shift in range(0, 70, 7):
        if at >= len(value):
            break
        byte = value[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
    return 1, at


def long(number: int) -> bytes:
    """An Avro long."""
    rest, out = (number << 1 ^ number >> 63) & 0xFFFF_FFFF_FFFF_FFFF, bytearray()
    while rest >= 0x80:
        out.append(rest & 0x7F | 0x80)
        rest >>= 7
    out.append(rest)
    return bytes(out)


def text(value: str) -> bytes:
    """An Avro string."""
    data = value.encode()
    return long(len(data)) + data


def texts(values: Sequence[str]) -> bytes:
    """An Avro array of strings, in one block."""
    return (long(len(values)) + b"".join(map(text, values)) if values else b"") + b"\0"


@lru_cache(1)
def _fingerprint() -> bytes | None:
    """The fingerprint of raw frames as they are written; None where their layout is not the one known here."""
    newest = next(v for v in versions() if v.name == Frame.schema and v.newest)
    return newest.fingerprint if newest.number == VERSION else None
