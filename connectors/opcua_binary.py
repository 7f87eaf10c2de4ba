"""Decodes the OPC UA answers that carry values: Publish, Republish, Read and HistoryRead.

Pure. asyncua's own decoder makes six objects per value and cuts times to microseconds; this one makes one tuple per
value and keeps the 100 ns ticks and the picoseconds. Everything rare (headers, arrays, strings) is left to asyncua.
May not know tags nor assets. Source: OPC 10000-6 (binary encoding), OPC 10000-4 §5.11, §5.14.
"""

import struct
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

from asyncua import ua
from asyncua.common.utils import Buffer, NotEnoughData
from asyncua.ua.ua_binary import nodeid_from_binary, struct_from_binary, variant_from_binary

from connectors.framer import TEXT_CHARS_MAX

NO_VALUE = "null"  # text of a value that is absent or of type Null
_EPOCH_TICKS = 116_444_736_000_000_000  # 1970-01-01 in 100 ns since 1601-01-01
_NS_MAX = 2**63 - 1
_NAN = float("nan")
#: Type number in a variant → how struct reads a scalar of it.
_SCALARS = {1: "?", 2: "b", 3: "B", 4: "h", 5: "H", 6: "i", 7: "I", 8: "q", 9: "Q", 10: "f", 11: "d"}
#: Bits of a DataValue's mask after the value, in the order of the encoding, and how struct reads them.
_PARTS = ((0x02, "I"), (0x04, "q"), (0x10, "H"), (0x08, "q"), (0x20, "H"))

_DATA_CHANGE = ua.ObjectIds.DataChangeNotification_Encoding_DefaultBinary
_STATUS_CHANGE = ua.ObjectIds.StatusChangeNotification_Encoding_DefaultBinary


class MalformedAnswer(ValueError):
    """The server's bytes do not follow the encoding."""


class Value(NamedTuple):
    """One DataValue. `handle`: the client's handle of the monitored item, or the index in a Read. Times in ns since
    1970, None where absent or not representable. `value` is NaN where there was no number; then `text` is what came."""

    handle: int
    value: float
    text: str | None
    status: int
    source_ns: int | None
    server_ns: int | None


@dataclass(slots=True)
class Notification:
    """One NotificationMessage: its number, values in the server's order, status changes of the subscription."""

    sequence: int
    values: list[Value] = field(default_factory=list)
    status_changes: list[int] = field(default_factory=list)
    keep_alive: bool = True


@dataclass(slots=True)
class Published:
    """One Publish answer. `available`: sequence numbers that the server still holds for Republish."""

    subscription: int
    available: list[int]
    notification: Notification


class History(NamedTuple):
    """Raw history of one node. `status` is the node's; `more` is the continuation point, empty at the end."""

    status: int
    more: bytes
    values: list[Value]


def time_ns(ticks: int | None, picoseconds: int | None) -> int | None:
    """OPC UA ticks (100 ns since 1601) and tens of ps to ns since 1970; None where absent (0) or beyond i64."""
    if not ticks:
        return None
    ns = (ticks - _EPOCH_TICKS) * 100
    if picoseconds:
        ns += min(picoseconds, 9999) // 100
    return ns if -_NS_MAX <= ns <= _NS_MAX else None


def writable(text: str) -> str:
    """A server's text with `\\xfc` for each byte that is no UTF-8: asyncua has lone surrogates there, which no frame
    can hold."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def published(buffer: Buffer) -> Published:
    """A PublishResponse. Raises MalformedAnswer, and UaStatusCodeError where the service failed."""
    data, pos = _after_header(buffer)
    try:
        subscription, count = struct.unpack_from("<Ii", data, pos)
        available = list(struct.unpack_from(f"<{max(count, 0)}I", data, pos + 8))
        return Published(subscription, available, _notification(data, pos + 8 + 4 * len(available) + 1)[0])
    except _MALFORMED as error:
        raise MalformedAnswer(f"Publish answer: {error!r}") from error


def republished(buffer: Buffer) -> Notification:
    """A RepublishResponse. Raises like `published`."""
    data, pos = _after_header(buffer)
    try:
        return _notification(data, pos)[0]
    except _MALFORMED as error:
        raise MalformedAnswer(f"Republish answer: {error!r}") from error


def read(buffer: Buffer) -> list[Value]:
    """A ReadResponse: one value per node asked for, `handle` is the position. Raises like `published`."""
    data, pos = _after_header(buffer)
    try:
        return _data_values(data, pos)
    except _MALFORMED as error:
        raise MalformedAnswer(f"Read answer: {error!r}") from error


def history(buffer: Buffer) -> list[History]:
    """A HistoryReadResponse for raw values: one per node asked for. Raises like `published`."""
    data, pos = _after_header(buffer)
    try:
        (count,) = struct.unpack_from("<i", data, pos)
        pos += 4
        results = []
        for _ in range(count):
            (status,) = struct.unpack_from("<I", data, pos)
            more, pos = _byte_string(data, pos + 4)
            _, body, pos = _extension_object(data, pos)
            results.append(History(status, more, _data_values(body, 0) if body else []))
        return results
    except _MALFORMED as error:
        raise MalformedAnswer(f"HistoryRead answer: {error!r}") from error


def _after_header(buffer: Buffer) -> tuple[bytes, int]:
    """The bytes and where the service's own parameters begin."""
    data = buffer.read(len(buffer))
    rest = Buffer(data)
    try:
        nodeid_from_binary(rest)
        header = struct_from_binary(ua.ResponseHeader, rest)
    except _MALFORMED as error:
        raise MalformedAnswer(f"response header: {error!r}") from error
    header.ServiceResult.check()
    return data, rest.cur_pos


def _notification(data: bytes, pos: int) -> tuple[Notification, int]:
    sequence, _, count = struct.unpack_from("<Iqi", data, pos)
    pos += 16
    message = Notification(sequence, keep_alive=count <= 0)
    for _ in range(count):
        kind, body, pos = _extension_object(data, pos)
        if kind == _DATA_CHANGE:
            _monitored_items(body, message.values)
        elif kind == _STATUS_CHANGE:
            message.status_changes.append(struct.unpack_from("<I", body, 0)[0])
    return message, pos


def _monitored_items(data: bytes, values: list[Value]) -> None:
    (count,) = struct.unpack_from("<i", data, 0)
    handle_of = struct.Struct("<I").unpack_from
    pos = 4
    for _ in range(count):
        (handle,) = handle_of(data, pos)
        value, pos = _data_value(data, pos + 4, handle)
        values.append(value)


def _data_values(data: bytes, pos: int) -> list[Value]:
    (count,) = struct.unpack_from("<i", data, pos)
    pos += 4
    values = []
    for index in range(count):
        value, pos = _data_value(data, pos, index)
        values.append(value)
    return values


def _data_value(data: bytes, pos: int, handle: int) -> tuple[Value, int]:
    mask = data[pos]
    pos += 1
    number: float = _NAN
    text: str | None = NO_VALUE
    kind = None
    if mask & 1:
        kind = data[pos]
        if kind in _SCALARS:
            pos += 1
            text = None
        else:
            kind = None
            text, pos = _other(data, pos)
    layout = _layout(mask, kind)
    fields = (*layout.struct.unpack_from(data, pos), None)
    if kind is not None:
        number = float(fields[0])
    value = Value(
        handle,
        number,
        text,
        fields[layout.status] or 0,
        time_ns(fields[layout.source], fields[layout.source_picoseconds]),
        time_ns(fields[layout.server], fields[layout.server_picoseconds]),
    )
    return value, pos + layout.struct.size


class _Layout(NamedTuple):
    """How the rest of a DataValue is laid out: positions in what struct gives; −1, the None at its end, for absent."""

    struct: struct.Struct
    status: int
    source: int
    source_picoseconds: int
    server: int
    server_picoseconds: int


@cache
def _layout(mask: int, kind: int | None) -> _Layout:
    code = "<" if kind is None else "<" + _SCALARS[kind]
    positions = []
    for bit, part in _PARTS:
        positions.append(len(code) - 1 if mask & bit else -1)
        code += part if mask & bit else ""
    return _Layout(struct.Struct(code), *positions)


def _other(data: bytes, pos: int) -> tuple[str, int]:
    """The text for a variant that is no scalar number, and the position after it."""
    rest = Buffer(data, pos)
    return _text(variant_from_binary(rest).Value), rest.cur_pos


def _text(value: Any) -> str:
    if value is None:
        return NO_VALUE
    if isinstance(value, ua.LocalizedText):
        value = value.Text or ""
    if isinstance(value, bytes):
        value = value[:TEXT_CHARS_MAX].hex()
    return writable(str(value)[:TEXT_CHARS_MAX])[:TEXT_CHARS_MAX]


def _byte_string(data: bytes, pos: int) -> tuple[bytes, int]:
    (length,) = struct.unpack_from("<i", data, pos)
    pos += 4
    if length <= 0:
        return b"", pos
    if pos + length > len(data):
        raise NotEnoughData(f"{length} bytes announced, {len(data) - pos} there")
    return data[pos : pos + length], pos + length


def _extension_object(data: bytes, pos: int) -> tuple[int, bytes, int]:
    """Number of the type (namespace 0; else −1), the body's bytes, and the position after it."""
    rest = Buffer(data, pos)
    kind = nodeid_from_binary(rest)
    pos = rest.cur_pos + 1
    if not data[rest.cur_pos] & 1:
        return -1, b"", pos
    body, pos = _byte_string(data, pos)
    known = kind.NamespaceIndex == 0 and isinstance(kind.Identifier, int)
    return kind.Identifier if known else -1, body, pos


_MALFORMED = (struct.error, IndexError, NotEnoughData, ValueError, KeyError, TypeError, ua.UaError, OverflowError)
