"""Times as people write them in files: ISO 8601, or a number since 1970. Knows no clock."""

import re
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

#: Largest number that is still taken for seconds, milliseconds, microseconds since 1970.
_SECONDS_MAX, _MILLIS_MAX, _MICROS_MAX = 10**11, 10**14, 10**17
_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?([eE][+-]?\d+)?")
_FRACTION = re.compile(r"[.,](\d+)")


def moment_ns(text: str) -> int:
    """Nanoseconds since 1970 of ISO 8601 text (UTC where it names no zone), or of a number in s, ms, µs or ns, by its
    magnitude. Exact to the nanosecond. Raises ValueError, with what is allowed.
    """
    text = text.strip()
    if re.fullmatch(r"[+-]?\d+", text):
        return int(text) * _factor(abs(int(text)))
    if _NUMBER.fullmatch(text):
        return round(float(text) * _factor(abs(float(text))))
    # datetime ends at microseconds: the fraction is taken apart and added
    found = _FRACTION.search(text)
    whole = text if found is None else text[: found.start()] + text[found.end() :]
    try:
        moment = datetime.fromisoformat(whole)
    except ValueError as error:
        raise ValueError(f"time {text!r}: allowed is 2026-01-31T12:00:00Z, or a number since 1970") from error
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    fraction_ns = 0 if found is None else int(found[1][:9].ljust(9, "0"))
    return round(moment.timestamp()) * 1_000_000_000 + fraction_ns


def moments_ns(texts: list[str]) -> NDArray[np.int64]:
    """The same for many, shape (n,)."""
    return np.array([moment_ns(text) for text in texts], np.int64)


def shown(time_ns: int) -> str:
    """A time in UTC to the second, for tables."""
    try:
        return datetime.fromtimestamp(time_ns / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (OverflowError, OSError, ValueError):
        return f"{time_ns} ns"


def _factor(size: float) -> int:
    if size < _SECONDS_MAX:
        return 1_000_000_000
    if size < _MILLIS_MAX:
        return 1_000_000
    return 1_000 if size < _MICROS_MAX else 1
