"""What a fit found, as a file with keys of the plant's configuration. May not know: how the fit was made."""

import math
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import tomlkit
from tomlkit.items import Table

from replay.fit.drift import FALSE_ALARMS
from replay.fit.fits import Fits
from replay.fit.interval import Interval

#: Figures that are written: more than any interval warrants, few enough to read.
DIGITS = 6
#: A value and where it goes: keys from the file's root on.
Entry = tuple[tuple[str, ...], float]


def entries(fits: Fits) -> Iterator[tuple[Entry, str]]:
    """Every value to be written, with the comment beside it. What the span does not tell is left out."""
    for tag in fits.noise:
        if tag.fit is None:
            continue
        where = ("tags", exactly(f"{tag.asset}/{tag.tag}"), "estimation")
        unit = f"({tag.unit or 'no unit'})²"
        for key, interval, per in (
            ("process_noise", tag.process, "/s³" if tag.white else ""),
            ("measurement_noise", tag.measurement, ""),
        ):
            if math.isfinite(interval.value) and interval.value > 0.0:
                yield ((*where, key), rounded(interval.value)), _comment(interval, unit + per)
        if tag.drift is not None:
            told = f"{FALSE_ALARMS:g} false alarms in such a span; its greatest sum is {tag.drift.greatest:.3g}"
            yield ((*where, "drift_threshold"), rounded(tag.drift.threshold)), told
    for found in fits.reactors:
        if found.fit is None:
            continue
        for asset in found.assets:
            for name in found.fit.determined:
                interval = found.fit.parameters[name]
                place = ("assets", exactly(asset), "parameters", name)
                yield (place, rounded(interval.value)), _comment(interval, found.units[name])


def exactly(name: str) -> str:
    """A pattern that matches only this name."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)


def rounded(value: float) -> float:
    """To as many figures as are written."""
    return float(f"{value:.{DIGITS}g}")


def text(fits: Fits, provenance: Sequence[str]) -> str:
    """The file. `provenance`: lines that say what it was made of."""
    document = tomlkit.document()
    for line in ("Found by `twin fit`; values with their 95 % intervals.", *provenance, _span(fits)):
        document.add(tomlkit.comment(line))
    for (where, value), comment in entries(fits):
        place: Any = document
        for depth, key in enumerate(where[:-1]):
            if key not in place:
                place.add(key, _empty(super_table=depth != len(where) - 2))
            place = place[key]
        item = tomlkit.float_(repr(value))
        place.add(where[-1], item.comment(comment))
    return tomlkit.dumps(document)


def _empty(super_table: bool) -> Table:
    return tomlkit.table(is_super_table=super_table)


def _span(fits: Fits) -> str:
    if fits.from_ns is None or fits.to_ns is None:
        return "No readings."
    return f"Span {_utc(fits.from_ns)} to {_utc(fits.to_ns)}, {fits.readings} readings."


def _utc(time_ns: int) -> str:
    return datetime.fromtimestamp(time_ns / 1e9, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _comment(interval: Interval, unit: str) -> str:
    note = f"; {interval.note}" if interval.note else ""
    return f"{interval.low:.3g}…{interval.high:.3g} {unit}{note}"
