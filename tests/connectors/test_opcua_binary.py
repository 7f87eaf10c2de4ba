"""Decoding of answers: the same values as asyncua's decoder, finer times, and no way to make it fail otherwise."""

import math
import struct
from typing import Any

import pytest
from asyncua import ua
from asyncua.common.utils import Buffer
from asyncua.ua.ua_binary import struct_from_binary, struct_to_binary, variant_to_binary
from hypothesis import given
from hypothesis import strategies as st

from connectors import opcua_binary
from connectors.opcua_binary import MalformedAnswer, time_ns

EPOCH_TICKS = 116_444_736_000_000_000
NUMBERS = {
    ua.VariantType.Double: st.floats(),
    ua.VariantType.Float: st.floats(width=32),
    ua.VariantType.Boolean: st.booleans(),
    ua.VariantType.SByte: st.integers(-128, 127),
    ua.VariantType.Byte: st.integers(0, 255),
    ua.VariantType.Int16: st.integers(-(2**15), 2**15 - 1),
    ua.VariantType.UInt16: st.integers(0, 2**16 - 1),
    ua.VariantType.Int32: st.integers(-(2**31), 2**31 - 1),
    ua.VariantType.UInt32: st.integers(0, 2**32 - 1),
    ua.VariantType.Int64: st.integers(-(2**63), 2**63 - 1),
    ua.VariantType.UInt64: st.integers(0, 2**64 - 1),
}


def data_value(mask: int, variant: bytes, status: int, source: tuple[int, int], server: tuple[int, int]) -> bytes:
    """The bytes of a DataValue as OPC 10000-6 §5.2.2.17 lays them out; times as ticks and tens of picoseconds."""
    parts = [(0x01, variant), (0x02, struct.pack("<I", status)), (0x04, struct.pack("<q", source[0])),
             (0x10, struct.pack("<H", source[1])), (0x08, struct.pack("<q", server[0])),
             (0x20, struct.pack("<H", server[1]))]  # fmt: skip
    return bytes([mask]) + b"".join(part for bit, part in parts if mask & bit)


def publish_answer(items: bytes, count: int, sequence: int = 7) -> bytes:
    """A PublishResponse with one data change notification."""
    answer = ua.PublishResponse()
    answer.Parameters.SubscriptionId = 5
    answer.Parameters.AvailableSequenceNumbers = [6, 7]
    answer.Parameters.NotificationMessage.SequenceNumber = sequence
    body = struct.pack("<i", count) + items + struct.pack("<i", -1)
    answer.Parameters.NotificationMessage.NotificationData = [
        ua.ExtensionObject(TypeId=ua.FourByteNodeId(811), Body=body)
    ]
    return bytes(struct_to_binary(answer))


@st.composite
def variants(draw: Any) -> tuple[ua.VariantType, Any]:
    """A type and a number it can hold."""
    kind = draw(st.sampled_from(list(NUMBERS)))
    return kind, draw(NUMBERS[kind])


@given(st.lists(st.tuples(variants(), st.integers(0, 0x3F), st.integers(0, 2**32 - 1)), max_size=20))
def test_numbers_arrive_to_the_bit(rows: list[tuple[tuple[ua.VariantType, Any], int, int]]) -> None:
    """Every numeric type, in every combination of parts of a DataValue, gives the same number, status and times."""
    source, server = EPOCH_TICKS + 17_612_345_678_901_234, EPOCH_TICKS + 17_612_345_678_905_678
    items = b""
    for handle, ((kind, value), mask, status) in enumerate(rows):
        variant = variant_to_binary(ua.Variant(value, kind))
        items += struct.pack("<I", handle) + data_value(mask, variant, status, (source, 5600), (server, 0))
    found = opcua_binary.published(Buffer(publish_answer(items, len(rows))))
    assert (found.subscription, found.available, found.notification.sequence) == (5, [6, 7], 7)
    assert len(found.notification.values) == len(rows)
    for handle, (((_, value), mask, status), got) in enumerate(zip(rows, found.notification.values, strict=True)):
        number = float(value) if mask & 1 else math.nan
        assert struct.pack("d", got.value) == struct.pack("d", number) or (math.isnan(number) and math.isnan(got.value))
        assert got.handle == handle
        assert got.status == (status if mask & 2 else 0)
        assert got.text == (None if mask & 1 else "null")
        fine_ns = 56 if mask & 0x10 else 0
        assert got.source_ns == (1_761_234_567_890_123_400 + fine_ns if mask & 4 else None)
        assert got.server_ns == (1_761_234_567_890_567_800 if mask & 8 else None)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (ua.Variant("Bad", ua.VariantType.String), "Bad"),
        (ua.Variant(None, ua.VariantType.Null), "null"),
        (ua.Variant([1.0, 2.0], ua.VariantType.Double), "[1.0, 2.0]"),
        (ua.Variant(ua.LocalizedText("offen", "de"), ua.VariantType.LocalizedText), "offen"),
        (ua.Variant(b"\x01\xff", ua.VariantType.ByteString), "01ff"),
        (ua.Variant("x" * 5000, ua.VariantType.String), "x" * 1000),
        (ua.Variant("K\udcfchler zu \u2013 \U0001f525", ua.VariantType.String), "K\\xfchler zu \u2013 \U0001f525"),
        (ua.Variant(ua.LocalizedText("K\udcfchler"), ua.VariantType.LocalizedText), "K\\xfchler"),
        (ua.Variant("\udcfc" * 5000, ua.VariantType.String), "\\xfc" * 250),
    ],
)
def test_what_is_no_number_becomes_text(value: ua.Variant, text: str) -> None:
    """Strings (of Latin-1, too), arrays and nothing give NaN with a text, and do not disturb what follows."""
    notification = ua.DataChangeNotification(
        MonitoredItems=[
            ua.MonitoredItemNotification(0, ua.DataValue(value)),
            ua.MonitoredItemNotification(1, ua.DataValue(ua.Variant(2.5, ua.VariantType.Double))),
        ]
    )
    answer = ua.PublishResponse()
    answer.Parameters.NotificationMessage.NotificationData = [notification]
    first, second = opcua_binary.published(Buffer(struct_to_binary(answer))).notification.values
    assert math.isnan(first.value) and first.text == text
    assert (second.value, second.text) == (2.5, None)


def test_times_at_the_edges() -> None:
    """No time, 1601 and what does not fit into 64 bits of ns count as absent; before 1970 is negative."""
    assert time_ns(None, None) is None
    assert time_ns(0, 5) is None
    assert time_ns(2**63 - 1, None) is None
    assert time_ns(EPOCH_TICKS, None) == 0
    assert time_ns(EPOCH_TICKS - 1, None) == -100
    assert time_ns(EPOCH_TICKS + 92_233_720_368_547_758, 799) == 2**63 - 1


def test_status_change_and_keep_alive() -> None:
    """A status change is told apart from data; a message without content is a keep-alive."""
    answer = ua.PublishResponse()
    assert opcua_binary.published(Buffer(struct_to_binary(answer))).notification.keep_alive
    change = ua.StatusChangeNotification(Status=ua.StatusCode(ua.StatusCodes.BadTimeout))
    answer.Parameters.NotificationMessage.NotificationData = [change]
    found = opcua_binary.published(Buffer(struct_to_binary(answer))).notification
    assert (found.keep_alive, found.status_changes) == (False, [ua.StatusCodes.BadTimeout])


def test_a_refused_service_is_an_error() -> None:
    """A bad service result is raised, not taken for an empty answer."""
    answer = ua.ReadResponse()
    answer.ResponseHeader.ServiceResult = ua.StatusCode(ua.StatusCodes.BadTooManyOperations)
    with pytest.raises(ua.UaStatusCodeError):
        opcua_binary.read(Buffer(struct_to_binary(answer)))


def test_read_republish_and_history_decode_the_same_values() -> None:
    """Read, Republish and HistoryRead answers give what asyncua decodes from them."""
    values = [ua.DataValue(ua.Variant(i / 3, ua.VariantType.Double)) for i in range(5)]
    read = opcua_binary.read(Buffer(struct_to_binary(ua.ReadResponse(Results=values))))
    assert [v.value for v in read] == [i / 3 for i in range(5)]
    assert [v.handle for v in read] == list(range(5))
    history = ua.HistoryReadResult(ContinuationPoint=b"more", HistoryData=ua.HistoryData(DataValues=values))
    [found] = opcua_binary.history(Buffer(struct_to_binary(ua.HistoryReadResponse(Results=[history]))))
    assert (found.status, found.more, [v.value for v in found.values]) == (0, b"more", [i / 3 for i in range(5)])
    message = ua.NotificationMessage(SequenceNumber=9)
    message.NotificationData = [ua.DataChangeNotification([ua.MonitoredItemNotification(3, values[1])])]
    again = opcua_binary.republished(Buffer(struct_to_binary(ua.RepublishResponse(NotificationMessage=message))))
    assert (again.sequence, [(v.handle, v.value) for v in again.values]) == (9, [(3, 1 / 3)])


def test_every_truncation_is_told() -> None:
    """An answer cut anywhere before its last value raises MalformedAnswer or loses nothing silently."""
    variant = struct.pack("<Bd", 11, 1.5)
    items = b"".join(
        struct.pack("<I", i) + data_value(0x3F, variant, 1, (EPOCH_TICKS, 1), (EPOCH_TICKS, 1)) for i in range(3)
    )
    whole = publish_answer(items, 3)
    struct_from_binary(ua.PublishResponse, Buffer(whole))
    for length in range(len(whole) - 12):
        with pytest.raises(MalformedAnswer):
            opcua_binary.published(Buffer(whole[:length]))
