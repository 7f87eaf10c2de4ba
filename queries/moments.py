"""What people write for a moment or a duration, as integer nanoseconds. Pure."""

import re
from datetime import datetime, timedelta
from typing import NoReturn

import pandas as pd

from queries.influxql import QueryError

Moment = int | str | datetime | pd.Timestamp
Duration = int | str | timedelta | pd.Timedelta

#: InfluxDB's range of times, ns since 1970.
MIN_NS, MAX_NS = -(2**63) + 2, 2**63 - 2
_RELATIVE = re.compile(r"-\s*\d")


def moment_ns(moment: Moment, now_ns: int) -> int:
    """Ns since 1970 of an int (ns), an ISO 8601 text or a datetime (no zone means UTC), "now", or "-15min" before now.

    Raises QueryError.
    """
    if isinstance(moment, bool | float):
        _refuse("time", moment)
    if isinstance(moment, int):
        return _in_range(moment)
    if isinstance(moment, str):
        if moment.strip() == "now":
            return now_ns
        if _RELATIVE.match(moment.strip()):
            return _in_range(now_ns - duration_ns(moment.strip()[1:]))
    try:
        stamp = pd.Timestamp(moment)
        if pd.isna(stamp):
            _refuse("time", moment)
        stamp = stamp.tz_localize("UTC") if stamp.tzinfo is None else stamp
        return _in_range(stamp.as_unit("ns").value)
    except (ValueError, TypeError, OverflowError) as error:
        raise QueryError(f"{_refusal('time', moment)} ({error})") from error


def duration_ns(duration: Duration) -> int:
    """Ns of an int (ns), a text as "10s", "5min", "1h", or a timedelta; more than 0. Raises QueryError."""
    if isinstance(duration, bool):
        _refuse("duration", duration)
    try:
        length = duration if isinstance(duration, int) else pd.Timedelta(duration).as_unit("ns").value
    except (ValueError, TypeError, OverflowError) as error:
        raise QueryError(f"{_refusal('duration', duration)} ({error})") from error
    if not 0 < length <= MAX_NS:
        _refuse("duration", duration)
    return int(length)


def _in_range(time_ns: int) -> int:
    if not MIN_NS <= time_ns <= MAX_NS:
        raise QueryError(f"time {time_ns} ns: InfluxDB's range is {MIN_NS}…{MAX_NS}")
    return time_ns


def _refusal(what: str, given: object) -> str:
    allowed = {
        "time": 'ns since 1970, ISO 8601 ("2025-10-26T10:30:15Z"), a datetime, "now" or "-15min"',
        "duration": 'ns, a text as "10s", "5min", "1h", or a timedelta, more than 0',
    }
    return f"{what} {given!r}: allowed is {allowed[what]}"


def _refuse(what: str, given: object) -> NoReturn:
    raise QueryError(_refusal(what, given))
