"""Payloads: every number keeps its bits, every time its digits, and nothing but PayloadError comes out of garbage."""

import json
import math
import struct
import time
import tracemalloc
from datetime import UTC, datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from connectors.framer import TEXT_CHARS_MAX, Reading
from connectors.payload import TIME_NS_MAX, PayloadError, parse
from schemas.quality import STATUS_BAD, Mark

ARRIVAL_NS = 1_761_474_615_000_000_007
S = 1_000_000_000


def one(payload: bytes | str) -> Reading:
    """The only reading of a payload that leaves no remark."""
    (reading,), remark = parse(payload.encode() if isinstance(payload, str) else payload, "R101", "t", ARRIVAL_NS)
    assert remark is None
    return reading


def reason(payload: bytes | str) -> str:
    """Why a payload is refused."""
    with pytest.raises(PayloadError) as error:
        parse(payload.encode() if isinstance(payload, str) else payload, "R101", "t", ARRIVAL_NS)
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 400
    return str(error.value)


def bits(value: float) -> bytes:
    """The eight bytes of a double."""
    return struct.pack("<d", value)


def test_the_documented_object() -> None:
    """The payload of the documentation gives value, unit and time."""
    assert one('{"value": 85.3, "unit": "degC", "timestamp": "2025-10-26T10:30:15Z"}') == Reading(
        asset="R101", tag="t", unit="degC", value=85.3, source_time_ns=1_761_474_615 * S, arrival_time_ns=ARRIVAL_NS
    )


@given(st.floats(allow_nan=False, allow_infinity=False), st.booleans())
@example(-0.0, False)
@example(5e-324, True)
@example(1e308, True)
def test_every_double_keeps_its_bits(value: float, slow: bool) -> None:
    """A finite double arrives bit-equal, by the fast reader and by the slow one (NaN elsewhere forces it)."""
    rest = ', "x": NaN' if slow else ""
    assert bits(one(f'{{"value": {value!r}{rest}}}').value) == bits(value)
    assert bits(one(repr(value)).value) == bits(value)


@given(st.integers(-(10**40), 10**40))
@example(2**63)
@example(2**64)
def test_any_integer_becomes_the_nearest_double(value: int) -> None:
    """An integer of any size is rounded as Python rounds it."""
    assert one(json.dumps({"value": value})).value == float(value)
    assert one(str(value)).value == float(value)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ('"Bad"', "Bad"),
        ('"Inp OutRange"', "Inp OutRange"),
        ('"12,5"', "12,5"),
        ('"85.3"', "85.3"),
        ('""', ""),
        ('"🔥 Störung"', "🔥 Störung"),
        (r'"a\u0000\nb"', "a\0\nb"),
        ("null", "null"),
        ("true", "true"),
        ("NaN", "NaN"),
        ("Infinity", "Infinity"),
        ("-Infinity", "-Infinity"),
        ("1e999", "1e999"),
        ("-1" + "0" * 400, "-1" + "0" * 400),
    ],
)
def test_what_is_no_finite_number_becomes_a_bad_reading(text: str, kept: str) -> None:
    """A value that is no finite number gives a BAD reading that keeps what came, in an object and alone."""
    for payload in (f'{{"value": {text}, "unit": "K", "timestamp": 1761474615}}', text):
        reading = one(payload)
        assert math.isnan(reading.value)
        assert (reading.status, reading.text) == (STATUS_BAD, kept)
        assert reading.mark & Mark.TEXT


def test_plain_numbers_as_c_writes_them() -> None:
    """Plain payloads may be written as printf does, `nan` and `inf` included."""
    assert [one(p).value for p in (" 85.3\n", "+5", ".5", "5.", "007.5", "-1E3")] == [85.3, 5, 0.5, 5, 7.5, -1000]
    assert [one(p).text for p in ("nan", "-inf", "Infinity")] == ["nan", "-inf", "Infinity"]
    assert one("85.3").mark == Mark.ARRIVAL_TIME_USED


@pytest.mark.parametrize(
    ("timestamp", "expected_ns"),
    [
        ('"2025-10-26T10:30:15Z"', 1_761_474_615 * S),
        ('"2025-10-26T10:30:15"', 1_761_474_615 * S),
        ('"2025-10-26 10:30:15.5+02:00"', 1_761_467_415 * S + S // 2),
        ('"2025-10-26T10:30:15-0130"', 1_761_480_015 * S),
        ('"20251026T103015Z"', 1_761_474_615 * S),
        ('"2025-10-26"', 1_761_436_800 * S),
        ('"2025-10-26T10:30:15.123456789Z"', 1_761_474_615_123_456_789),
        ('"2025-10-26T10:30:15,1234567899Z"', 1_761_474_615_123_456_789),
        ('"2016-12-31T23:59:60Z"', 1_483_228_800 * S),
        ('"1969-12-31T23:59:59.75Z"', -S // 4),
        ('"1761474615.5"', 1_761_474_615 * S + S // 2),
        ("1761474615", 1_761_474_615 * S),
        ("1761474615123", 1_761_474_615_123_000_000),
        ("1761474615123456", 1_761_474_615_123_456_000),
        ("1761474615123456789", 1_761_474_615_123_456_789),
        ("1761474615.123456", 1_761_474_615_123_456_000),
        ("1761474615.123456789", 1_761_474_615_123_456_789),
        ("1761474615123.000001", 1_761_474_615_123_000_001),
        ("1.7e9", 1_700_000_000 * S),
        ("0", 0),
        ("-1.5", -3 * S // 2),
        ("9223372036", 9_223_372_036 * S),
        ("1e10", 10_000_000 * S),
    ],
)
def test_times_keep_every_digit(timestamp: str, expected_ns: int) -> None:
    """ISO 8601 and numbers by magnitude give exact ns, in an object and in a batch."""
    payload = f'{{"value": 1761474615.1234567, "timestamp": {timestamp}}}'
    for reading in (one(payload), one(f"[{payload}]")):
        assert (reading.source_time_ns, reading.mark) == (expected_ns, 0)


@given(st.integers(0, 9_223_372_035 * S))
def test_any_time_in_any_writing(time_ns: int) -> None:
    """A time in ns is the same written as ISO 8601 or as decimal seconds; in ns from 1970-05 on."""
    seconds, fraction = divmod(time_ns, S)
    iso = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    writings = [f'"{iso}.{fraction:09d}Z"', f"{seconds}.{fraction:09d}"] + [str(time_ns)] * (time_ns >= 10**16)
    assert {one(f'{{"value": 1, "timestamp": {w}}}').source_time_ns for w in writings} == {time_ns}


@pytest.mark.parametrize(
    "timestamp",
    ['"yesterday"', '""', '"2025-02-30T00:00:00Z"', '"2025-10-26T24:00:00Z"', '"2262-12-01T00:00:00Z"', "1e308", "true",
     "NaN", "{}", "[1]", '"9999-12-31T23:59:59Z"', str(TIME_NS_MAX + 1), "1761474615." + "0" * 100],
)  # fmt: skip
def test_an_unusable_time_is_refused(timestamp: str) -> None:
    """A time that is none, or that no store can hold, is not replaced by a guess."""
    assert "timestamp" in reason(f'{{"value": 1, "timestamp": {timestamp}}}')


def test_no_time_is_marked() -> None:
    """Without a time, or with null, the arrival time is used and the reading says so."""
    for payload in ('{"value": 1}', '{"value": 1, "timestamp": null, "unit": null}'):
        reading = one(payload)
        assert (reading.source_time_ns, reading.mark) == (ARRIVAL_NS, Mark.ARRIVAL_TIME_USED)
        assert reading.unit == ""


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        (b"", "no valid JSON"),
        (b"Bad", "no valid JSON"),
        (b"12,5", "no valid JSON"),
        (b'{"value": 1', "no valid JSON"),
        (b"\xff\xfe", "no valid UTF-8 at byte 0"),
        (b'{"value": "\xc3"}', "no valid UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b"{}", "no value"),
        (b'{"Value": 1}', "no value"),
        (b'{"value": {"x": 1}}', "neither a number nor a text"),
        (b'{"value": [1]}', "neither a number nor a text"),
        (b'{"value": 1, "unit": 5}', "unit"),
        (b'{"value": 1, "unit": "a\\nb"}', "unit"),
        (b'{"value": 1, "unit": "' + b"x" * 65 + b'"}', "unit"),
        (b'{"value": 1, "value": 2}', "'value' stands there more than once"),
        (b'{"value": 1, "x": {"y": 1, "y": 1}}', "'y' stands there more than once"),
        (b'{"value": 1, "val\\u0075e": 2}', "'value' stands there more than once"),
        (b'[{"value": 1, "value": 2}]', "'value' stands there more than once"),
        (b'{"value": "\\ud800"}', "no valid Unicode"),
        (b"[]", "an empty batch"),
        (b"[1, 2]", "element 0: 1 is no object"),
    ],
)
def test_what_cannot_be_read_is_refused_with_a_reason(payload: bytes, why: str) -> None:
    """Garbage is refused, in one short printable line that says why."""
    assert why in reason(payload)


def test_a_long_text_is_cut_and_the_whole_is_kept_elsewhere() -> None:
    """A text of 1 MB makes a BAD reading with its beginning, and a remark that sends the payload to rejected."""
    (reading,), remark = parse(json.dumps({"value": "ä" * 500_000}).encode(), "R101", "t", ARRIVAL_NS)
    assert reading.text == "ä" * TEXT_CHARS_MAX
    assert remark is not None
    assert "500000 characters" in remark


def test_a_bad_element_does_not_stop_the_others() -> None:
    """Of a batch every good element is used, in order, and the bad ones are named."""
    elements: list[object] = [{"value": i, "timestamp": 1_761_474_615 + i} for i in range(20)]
    elements[3] = {"value": 1, "timestamp": "never"}
    elements[7] = None
    readings, remark = parse(json.dumps(elements).encode(), "R101", "t", ARRIVAL_NS)
    assert [r.value for r in readings] == [i for i in range(20) if i not in (3, 7)]
    assert remark is not None
    assert remark.startswith("batch of 20, 18 used: element 3: timestamp 'never'")
    assert "element 7: null is no object" in remark


def test_a_large_batch_of_long_times_is_read_once() -> None:
    """The digits of 10,000 long times in one payload are found in one pass, not in one pass each."""
    text = ",".join(f'{{"value":1.5,"timestamp":1761474615.{i:09d}}}' for i in range(10_000))
    begin = time.perf_counter()
    readings, _ = parse(f"[{text}]".encode(), "R101", "t", ARRIVAL_NS)
    assert [r.source_time_ns % S for r in readings] == list(range(10_000))
    assert time.perf_counter() - begin < 5


MIB = 1024 * 1024


@pytest.mark.parametrize(
    "payload",
    [
        b"[" + b"{}," * (MIB // 3) + b"{}]",
        b"[" + b"0," * (MIB // 2) + b"0]",
        b"[" + b"1e999," * (MIB // 6) + b"0]",
        b"[" + b"[]," * (MIB // 3) + b"0]",
        b"[" + b'{"value":NaN},' * (MIB // 14) + b"0]",
        b"[" * MIB,
        b'{"a":' * (MIB // 5),
        b"1" * MIB,
    ],
    ids=["objects", "numbers", "beyond doubles", "arrays", "NaN", "deep arrays", "deep objects", "digits"],
)
def test_a_payload_of_1_mb_takes_less_than_50_mb(payload: bytes) -> None:
    """Whatever the largest payload by default holds, reading it takes a bounded amount of memory."""
    tracemalloc.start()
    try:
        parse(payload, "R101", "t", ARRIVAL_NS)
    except PayloadError as error:
        assert len(str(error)) < 400
    finally:
        _, peak_bytes = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak_bytes < 50e6


def test_a_repeated_key_among_many_is_found_in_one_pass() -> None:
    """Of 60,000 keys the one that stands there twice is named, without comparing each with each."""
    keys = ",".join(f'"{i:x}":0' for i in range(60_000))
    begin = time.perf_counter()
    assert "'ea5f' stands there more than once" in reason(f'{{{keys},"ea5f":0}}')
    assert time.perf_counter() - begin < 5


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["value", "unit", "timestamp", "x"]) | st.text(max_size=3), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()) | st.text().map(str.encode))
@example(b'{"value": 1e-400, "timestamp": 1e-400}')
@example(b'{"timestamp": "000000000", "value": 1}')
def test_nothing_but_its_own_error_comes_out(payload: bytes) -> None:
    """Whatever the bytes: readings a frame can hold, or PayloadError."""
    try:
        readings, _ = parse(payload, "R101", "t", ARRIVAL_NS)
    except PayloadError as error:
        assert str(error).isprintable()
        return
    assert readings
    for reading in readings:
        assert math.isfinite(reading.value) == (reading.text is None) == (not reading.mark & Mark.TEXT)
        assert abs(reading.source_time_ns) <= TIME_NS_MAX
        assert type(reading.value) is float
        assert len((reading.text or "").encode()) <= 4 * TEXT_CHARS_MAX
        assert reading.unit.isprintable()
