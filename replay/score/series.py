"""What a plot of a tag needs, thinned so that a page stays small. May not know: how it is drawn."""

from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from replay.score.labels import Window

Floats = NDArray[np.float64]
I64 = NDArray[np.int64]

#: A plot is so many columns wide; each keeps its least and its greatest reading.
COLUMNS = 400
#: Most flagged readings that are kept besides.
FLAGGED_MAX = 400


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Series:
    """What a plot of a tag needs, in order of time; `windows`: labelled ones."""

    asset: str
    tag: str
    unit: str
    time_ns: I64
    value: Floats
    estimate: Floats
    std: Floats
    reference: Floats
    nis: Floats
    flagged: NDArray[np.bool_]
    model_time_ns: I64
    model: Floats
    windows: tuple[Window, ...]


#: Fields with one entry per reading.
OF_READING = ("time_ns", "value", "estimate", "std", "reference", "nis", "flagged")


def thinned(series: Series, columns: int = COLUMNS) -> Series:
    """The same with at most about 2 · `columns` + FLAGGED_MAX readings: extremes of each stretch, and flagged ones."""
    keep = _kept(series.value, series.flagged, columns)
    few = extremes(series.model, columns)
    parts = {f.name: getattr(series, f.name)[keep] for f in fields(series) if f.name in OF_READING}
    return replace(series, **parts, model_time_ns=series.model_time_ns[few], model=series.model[few])


def _kept(value: Floats, flagged: NDArray[np.bool_], columns: int) -> NDArray[np.intp]:
    bad = np.flatnonzero(flagged)
    if len(bad) > FLAGGED_MAX:
        bad = bad[np.linspace(0, len(bad) - 1, FLAGGED_MAX).astype(np.intp)]
    return np.union1d(extremes(value, columns), bad).astype(np.intp)


def extremes(value: Floats, columns: int) -> NDArray[np.intp]:
    """Indices of the least and greatest of `columns` stretches of equal length, with first and last."""
    n = len(value)
    if n <= 2 * columns:
        return np.arange(n)
    found = {0, n - 1}
    for part in np.array_split(np.arange(n), columns):
        finite = part[np.isfinite(value[part])]
        found |= (
            {int(finite[np.argmin(value[finite])]), int(finite[np.argmax(value[finite])])} if len(finite) else set()
        )
    return np.array(sorted(found), np.intp)
