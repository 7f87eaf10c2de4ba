"""Limits of the validation tests as one row of numbers per tag, so that a jitted loop can read them.

A test that is off has NaN as its limit (every comparison with NaN is false), a time limit that is off FOREVER.
May not know: where settings come from.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.stage import Settings, readonly
from kernels.units import KINDS, convert_difference, convert_span, kind_of

#: Columns of a row of limits, in this order.
LIMITS = (
    "fail_low", "fail_high", "suspect_low", "suspect_high", "zscore_limit", "zscore_window", "zscore_min",
    "spike_percent", "rate_suspect_per_s", "rate_fail_per_s", "flat_tolerance", "flat_suspect_s", "flat_fail_s",
    "restart_after",
)  # fmt: skip
#: Limits that are differences of values, in the tag's unit as its spans are.
DIFFERENCES = ("rate_suspect_per_s", "rate_fail_per_s", "flat_tolerance")
#: Columns of a row of time limits, i64 in ns.
TIME_LIMITS = ("ahead_limit_s", "behind_limit_s", "gap_s")
FOREVER = np.iinfo(np.int64).max

#: The tables start anew beyond this many: frames may list their tags in ever other orders.
TABLES_MAX = 4096


class ValidationParams:
    """Limits of all tags, from the settings of all tags (keys of `runtime.config.Tag`)."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._tables: dict[tuple[str, tuple[str, ...], tuple[str, ...]], NDArray[np.float64]] = {}
        self._time_tables: dict[tuple[str, tuple[str, ...]], NDArray[np.int64]] = {}

    def table(self, asset: str, tags: tuple[str, ...], units: tuple[str, ...]) -> NDArray[np.float64]:
        """Limits for these tags and units, shape (tags, LIMITS); values in the reading's unit, times in s."""
        found = self._tables.get((asset, tags, units))
        if found is None:
            rows = [limits(self._settings.tag(asset, tag), tag, unit) for tag, unit in zip(tags, units, strict=True)]
            found = readonly(np.array(rows, np.float64).reshape(len(tags), len(LIMITS)))
            if len(self._tables) >= TABLES_MAX:
                self._tables.clear()
            self._tables[asset, tags, units] = found
        return found

    def time_table(self, asset: str, tags: tuple[str, ...]) -> NDArray[np.int64]:
        """Time limits of these tags in ns, shape (tags, TIME_LIMITS)."""
        found = self._time_tables.get((asset, tags))
        if found is None:
            rows = [time_limits(self._settings.tag(asset, tag)) for tag in tags]
            found = readonly(np.array(rows, np.int64).reshape(len(tags), len(TIME_LIMITS)))
            if len(self._time_tables) >= TABLES_MAX:
                self._time_tables.clear()
            self._time_tables[asset, tags] = found
        return found


def limits(settings: Mapping[str, Any], tag: str, unit: str) -> tuple[float, ...]:
    """One tag's limits in the order of LIMITS, for readings in `unit` (the configured one where that is empty).

    What is configured in a unit that cannot be converted into the reading's is not evaluated.
    """
    tests: Mapping[str, Any] = settings["validation"]
    unit = unit or settings["unit"] or ""
    fail, suspect = spans(settings, tag, unit)
    ends = {"fail_low": fail[0], "fail_high": fail[1], "suspect_low": suspect[0], "suspect_high": suspect[1]}
    given = {name: tests[name] for name in DIFFERENCES if tests[name] is not None}
    scaled = {name: convert_difference(value, settings["unit"] or unit, unit) for name, value in given.items()}
    values = {**tests, **ends, **scaled}
    return tuple(np.nan if values[name] is None else float(values[name]) for name in LIMITS)


def time_limits(settings: Mapping[str, Any]) -> tuple[int, ...]:
    """One tag's time limits in ns, in the order of TIME_LIMITS. The gap test needs both interval_s and gap_factor."""
    tests: Mapping[str, Any] = settings["validation"]
    interval_s, factor = settings["interval_s"], tests["gap_factor"]
    gap_s = None if interval_s is None or factor is None else interval_s * factor
    values = {**tests, "gap_s": gap_s}
    return tuple(to_ns(values[name]) for name in TIME_LIMITS)


def to_ns(seconds: float | None) -> int:
    """A time in ns; FOREVER for None and for what 64 bits cannot hold."""
    return FOREVER if seconds is None or seconds >= FOREVER / 1e9 else round(seconds * 1e9)


def spans(settings: Mapping[str, Any], tag: str, unit: str) -> tuple[tuple[float, float], tuple[float, float]]:
    """Fail and suspect span in the reading's unit, NaN where not evaluated.

    Configured spans are in the tag's configured unit (the reading's where none is configured). Without a fail span
    the kind's applies. A span whose unit cannot be converted into the reading's is not evaluated.
    """
    nothing = (np.nan, np.nan)
    tests: Mapping[str, Any] = settings["validation"]
    given = settings["unit"] or unit
    kind = KINDS.get(settings["kind"] or kind_of(tag))
    fail, suspect = tests["fail_span"], tests["suspect_span"]
    if fail is not None:
        fail = convert_span(fail, given, unit)
    elif kind is not None:
        fail = convert_span(kind.fail_span, kind.unit, unit)
    if suspect is not None:
        suspect = convert_span(suspect, given, unit)
    return fail or nothing, suspect or nothing
