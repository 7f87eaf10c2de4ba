"""Reads the payload of one MQTT message: an object, a batch (an array of objects) or a plain value.

Pure: no clock, no I/O; nothing but `PayloadError` leaves `parse`. Decisions, in full:

- `{"value": …, "unit": …, "timestamp": …}`; other keys are ignored, a repeated key makes the payload ambiguous and
  unreadable. A payload that is only a value (`85.3`, `"Bad"`, `null`) has neither unit nor time. Plain numbers may be
  written as C does (`+5`, `.5`, `nan`). In a batch the elements must be objects; a bad element does not stop the
  others, it becomes a remark.
- A value that is no finite number (a text, true, null, NaN, Infinity, 1e999) makes a BAD reading: value NaN, status
  bad, Mark.TEXT, and what came as text. More than `TEXT_CHARS_MAX` characters are cut, with a remark. A value that is
  an object or an array is unreadable. Integers beyond 2^53 become the nearest double.
- Timestamp: ISO 8601 calendar date and time (no zone means UTC, digits beyond ns are cut), or a number since 1970:
  below 1e10 in s, below 1e13 in ms, below 1e16 in µs, else in ns (so ms, µs and ns from April 1970 on). Decimal digits
  are taken from the text, not from a rounded double. Missing or null: the arrival time, with Mark.ARRIVAL_TIME_USED.
- Whoever calls sends a payload with a remark to `rejected` as well, so that all of it is accounted for.
"""

import json
import math
import re
from datetime import date
from decimal import Context, Decimal
from functools import lru_cache
from typing import Any, NamedTuple

import orjson

from connectors.framer import TEXT_CHARS_MAX, Reading
from schemas.quality import STATUS_BAD, Mark

UNIT_CHARS_MAX = 64
#: The last instant that fits int64 ns and InfluxDB with a row's ordinal added (2262-04-11); the first is its negative.
TIME_NS_MAX = 2**63 - 1000
_ELEMENTS_NAMED = 5  # of a batch's bad elements
_EXCERPT_CHARS = 60
_ARRIVAL_TIME_USED = int(Mark.ARRIVAL_TIME_USED)
_TEXT = int(Mark.TEXT)
_EXACT = Context(prec=2 * _EXCERPT_CHARS)
_INT_DIGITS_MAX = 30  # longer integers are read as doubles: Python's int() is slow for them

_ISO = re.compile(
    r"(\d{4})(-?)(\d\d)\2(\d\d)(?:[Tt ](\d\d)(?::?([0-5]\d)(?::?([0-5]\d|60)(?:[.,](\d+))?)?)?"
    r"(?:[Zz]| ?([+-])([01]\d|2[0-3])(?::?([0-5]\d))?)?)?",
    re.ASCII,
)
_EPOCH = re.compile(r"-?\d{9,}(\.\d+)?", re.ASCII)
_C_NUMBER = re.compile(
    r"\s*([+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(nan|inf|infinity))\s*", re.ASCII | re.IGNORECASE
)


class PayloadError(ValueError):
    """The payload cannot be used. The message says why, in one short line."""


class Parsed(NamedTuple):
    """Readings of one payload, in its order. `remark`: why the payload is to be kept in `rejected` as well."""

    readings: list[Reading]
    remark: str | None = None


class _Literal(float):
    """A number of the slow path, with the digits as they came. Without slots each would carry a dictionary."""

    __slots__ = ("text",)
    text: str


class _RepeatedKeyError(ValueError):
    pass


def parse(payload: bytes, asset: str, tag: str, arrival_time_ns: int) -> Parsed:
    """The readings of a payload of one tag. Raises PayloadError."""
    plain = _load(payload)
    kind = type(plain)
    if kind is dict:
        reading, remark = _reading(plain, asset, tag, arrival_time_ns)
        return Parsed([reading], remark)
    if kind is list:
        return _batch(plain, asset, tag, arrival_time_ns)
    reading, remark = _reading({"value": plain}, asset, tag, arrival_time_ns)
    return Parsed([reading], remark)


def _batch(elements: list[Any], asset: str, tag: str, arrival_time_ns: int) -> Parsed:
    if not elements:
        raise PayloadError("an empty batch")
    readings, remarks, bad = [], [], 0
    for i, element in enumerate(elements):
        try:
            if type(element) is not dict:
                raise PayloadError(f"{_shown(element)} is no object")
            reading, remark = _reading(element, asset, tag, arrival_time_ns)
            readings.append(reading)
        except PayloadError as error:
            remark = str(error)
        if remark is not None:
            bad += 1
            if bad <= _ELEMENTS_NAMED:  # half a million sentences would take more memory than the payload
                remarks.append(f"element {i}: {remark}")
    if not bad:
        return Parsed(readings)
    reason = "; ".join(remarks) + (f"; and {bad - len(remarks)} more" if bad > len(remarks) else "")
    if not readings:
        raise PayloadError(f"batch of {len(elements)}: {reason}")
    return Parsed(readings, f"batch of {len(elements)}, {len(readings)} used: {reason}")


def _reading(plain: dict[str, Any], asset: str, tag: str, arrival_time_ns: int) -> tuple[Reading, str | None]:
    if "value" not in plain:
        raise PayloadError("no value")
    value, text, remark = _value(plain["value"])
    unit = plain.get("unit")
    mark = 0 if text is None else _TEXT
    timestamp = plain.get("timestamp")
    if timestamp is None:
        source_time_ns = arrival_time_ns
        mark |= _ARRIVAL_TIME_USED
    else:
        source_time_ns = _time_ns(timestamp)
    reading = Reading(
        asset=asset,
        tag=tag,
        unit="" if unit is None else _unit(unit),
        value=value,
        source_time_ns=source_time_ns,
        arrival_time_ns=arrival_time_ns,
        status=0 if text is None else STATUS_BAD,
        mark=mark,
        text=text,
    )
    return reading, remark


def _value(raw: Any) -> tuple[float, str | None, str | None]:
    """(value, text that came instead of a number, remark)."""
    if type(raw) is float or type(raw) is int:  # not bool
        return float(raw), None, None
    if isinstance(raw, _Literal):
        return (float(raw), None, None) if math.isfinite(raw) else (math.nan, _cut(raw.text), None)
    if raw is None or isinstance(raw, bool):
        return math.nan, json.dumps(raw), None
    if not isinstance(raw, str):
        raise PayloadError(f"value {_shown(raw)} is neither a number nor a text")
    if not _is_unicode(raw):
        raise PayloadError(f"value {_shown(raw)} is no valid Unicode")
    if len(raw) > TEXT_CHARS_MAX:
        return math.nan, _cut(raw), f"value is a text of {len(raw)} characters, cut to {TEXT_CHARS_MAX} in the reading"
    return math.nan, raw, None


@lru_cache(4096)
def _known_unit(unit: str) -> str:
    if len(unit) > UNIT_CHARS_MAX or not unit.isprintable():
        raise PayloadError(f"unit {_shown(unit)}: allowed are {UNIT_CHARS_MAX} printable characters")
    return unit


def _unit(unit: Any) -> str:
    if type(unit) is not str:
        raise PayloadError(f"unit {_shown(unit)} is no text")
    return _known_unit(unit)


def _time_ns(timestamp: Any) -> int:
    kind = type(timestamp)
    if kind is str:
        time_ns = _iso_ns(timestamp)
    elif kind is int:
        time_ns = timestamp * _ns_per_unit(abs(timestamp))
    elif kind is float:
        time_ns = _decimal_ns(repr(timestamp))
    elif kind is _Literal and math.isfinite(timestamp) and len(timestamp.text) <= _EXCERPT_CHARS:
        time_ns = _decimal_ns(timestamp.text)
    else:
        raise PayloadError(f"timestamp {_shown(timestamp)} is neither ISO 8601 nor a number since 1970")
    if not -TIME_NS_MAX <= time_ns <= TIME_NS_MAX:
        raise PayloadError(f"timestamp {_shown(timestamp)} is outside the years 1677 to 2262")
    return time_ns


def _iso_ns(text: str) -> int:
    match = _ISO.fullmatch(text)
    if match is None:
        if _EPOCH.fullmatch(text) and len(text) <= _EXCERPT_CHARS:
            return _decimal_ns(text)
        raise PayloadError(f"timestamp {_shown(text)} is neither ISO 8601 nor a number since 1970")
    year, _, month, day, hour, minute, second, fraction, sign, zone_hours, zone_minutes = match.groups()
    seconds = _days(year, month, day) * 86_400
    if hour is not None:
        if hour > "23":
            raise PayloadError(f"timestamp {_shown(text)}: hour {hour}, allowed is 00…23")
        seconds += int(hour) * 3600 + int(minute or 0) * 60 + int(second or 0)
    if sign is not None:
        offset_s = int(zone_hours) * 3600 + int(zone_minutes or 0) * 60
        seconds += offset_s if sign == "-" else -offset_s
    return seconds * 1_000_000_000 + (int(fraction[:9].ljust(9, "0")) if fraction else 0)


@lru_cache(64)
def _days(year: str, month: str, day: str) -> int:
    """Days since 1970-01-01."""
    try:
        return date(int(year), int(month), int(day)).toordinal() - date(1970, 1, 1).toordinal()
    except ValueError as error:
        raise PayloadError(f"timestamp: {year}-{month}-{day} is no date") from error


def _ns_per_unit(size: int | float) -> int:
    if size < 10**10:
        return 1_000_000_000
    if size < 10**13:
        return 1_000_000
    return 1000 if size < 10**16 else 1


def _decimal_ns(digits: str) -> int:
    size = abs(float(digits))
    if size > TIME_NS_MAX:
        return 2 * TIME_NS_MAX
    return int(_EXACT.multiply(Decimal(digits), _ns_per_unit(size)))


def _load(payload: bytes) -> Any:
    try:
        plain = orjson.loads(payload)
    except orjson.JSONDecodeError:
        return _load_slowly(payload)
    # orjson keeps the last of repeated keys; what it dropped shows in the number of quotation marks.
    if payload.count(b'"') != 2 * _strings(plain) or _has_rounded_time(plain, payload):
        return _load_slowly(payload)
    return plain


def _has_rounded_time(plain: Any, payload: bytes) -> bool:
    """Whether a time may have had more digits than a double holds."""
    if type(plain) is list:
        return any(type(element) is dict and type(element.get("timestamp")) is float for element in plain)
    if type(plain) is not dict or type(plain.get("timestamp")) is not float:
        return False
    digits = repr(plain["timestamp"]).encode()
    end = payload.find(digits) + len(digits)
    return payload.count(digits) != 1 or payload[end : end + 1] in b"0123456789.eE"


def _strings(plain: Any) -> int:
    """How many texts and keys there are, down to one level below a batch; deeper ones make the slow path decide."""
    if type(plain) is dict:
        return len(plain) + sum(type(value) is str for value in plain.values())
    if type(plain) is list:
        return sum(_strings(element) for element in plain if type(element) is not list)
    return int(type(plain) is str)


def _load_slowly(payload: bytes) -> Any:
    """Python's own reader: takes NaN and numbers beyond a double's range, keeps digits, and sees repeated keys."""
    try:
        text = payload.decode()
    except UnicodeDecodeError as error:
        raise PayloadError(f"no valid UTF-8 at byte {error.start}") from error
    try:
        return json.loads(
            text, parse_float=_literal, parse_int=_integer, parse_constant=_literal, object_pairs_hook=_object
        )
    except RecursionError as error:
        raise PayloadError("nested too deeply") from error
    except json.JSONDecodeError as error:
        if len(text) <= _EXCERPT_CHARS and _C_NUMBER.fullmatch(text):
            return _literal(text.strip())
        raise PayloadError(f"no valid JSON: {error.msg} at character {error.pos}") from error
    except _RepeatedKeyError as error:
        raise PayloadError(str(error)) from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    plain = dict(pairs)
    if len(plain) != len(pairs):
        seen: set[str] = set()
        repeated = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise _RepeatedKeyError(f"key {_shown(repeated)} stands there more than once")
    return plain


def _literal(text: str) -> _Literal:
    literal = _Literal(text)
    literal.text = text
    return literal


def _integer(text: str) -> int | _Literal:
    return int(text) if len(text) <= _INT_DIGITS_MAX else _literal(text)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _cut(text: str) -> str:
    return text[:TEXT_CHARS_MAX]


def _shown(raw: Any) -> str:
    """A short, printable form for messages."""
    text = ascii(raw[:_EXCERPT_CHARS]) if isinstance(raw, str) else type(raw).__name__
    if isinstance(raw, int | float) or raw is None:
        text = json.dumps(raw) if not isinstance(raw, _Literal) else raw.text
    return text if len(text) <= _EXCERPT_CHARS else text[:_EXCERPT_CHARS] + "…"
