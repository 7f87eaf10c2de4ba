"""The threshold of the drift test of one tag: from the sums that a span of normal operation gave.

The test's two sums (Page–Hinkley, `kernels.kalman`) rise and fall back to 0; each time between is an *excursion*, and
it alarms if its peak is over the threshold. Peaks of a sum that is drawn to 0 have an exponential tail (Siegmund,
"Sequential Analysis" (1985), 2.6), of innovations that hang together as well, only with a longer one. So the tail is
taken from the greatest peaks there are, and the threshold laid where FALSE_ALARMS of them are to be expected in a span
like this one; never below the greatest peak. May not know: what the readings mean, whether the span was normal.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels import kalman
from kernels.stage import readonly

Floats = NDArray[np.float64]

#: False alarms of one tag to be expected in as long a span of normal operation.
FALSE_ALARMS = 0.1
#: The tail: so many of the greatest peaks, at most; with fewer excursions than twice that nothing is said.
TAIL = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftLimit:
    """`threshold` and `greatest` peak in standard deviations of the innovation; `excursions` of either sum."""

    threshold: float
    greatest: float
    excursions: int


def drift_limit(
    verdict: NDArray[np.uint8], time_ns: NDArray[np.int64], value: Floats, settings: Floats
) -> DriftLimit | None:
    """The threshold for a tag with these readings, as in `kernels.kalman.run`, and this row of settings.

    None where the sums hardly ever rise, so that a span says nothing of their tail.
    """
    innovation = normalised(verdict, time_ns, value, settings)
    delta = settings[kalman.DRIFT_DELTA]
    peaks = np.sort(np.concatenate([excursions(innovation, delta), excursions(-innovation, delta)]))[::-1]
    if len(peaks) < 2 * TAIL:
        return None
    greatest, beyond = float(peaks[0]), float(peaks[TAIL])
    scale = float(np.mean(peaks[:TAIL])) - beyond
    threshold = beyond + scale * math.log(TAIL / FALSE_ALARMS)
    # The filter adds up in another order, and a file has fewer figures.
    return DriftLimit(threshold=max(threshold, 1.001 * greatest), greatest=greatest, excursions=len(peaks))


def normalised(verdict: NDArray[np.uint8], time_ns: NDArray[np.int64], value: Floats, settings: Floats) -> Floats:
    """Innovations of the readings that moved the filter, in standard deviations."""
    n = len(value)
    out, found = np.empty((5, n)), np.empty(n, np.uint8)
    filters, counts = np.zeros((1, kalman.FLOATS)), np.zeros((1, kalman.COUNTS), np.int64)
    entry: Any = readonly(np.zeros(n, np.uint16))
    given = readonly(time_ns), readonly(value), readonly(settings[np.newaxis])
    kalman.run(entry, np.zeros(1, np.int64), verdict, *given, filters, counts, out, found)
    innovation, nis = out[3], out[4]
    moved = np.isfinite(nis) & ((found & kalman.GATED) == 0)
    return np.asarray(np.sign(innovation[moved]) * np.sqrt(nis[moved]))


def excursions(innovation: Floats, delta: float) -> Floats:
    """The peak of each excursion of the sum S = max(0, S + e − delta)."""
    walk = np.concatenate([[0.0], np.cumsum(innovation - delta)])
    lowest = np.minimum.accumulate(walk)
    above = walk - lowest
    begins = np.flatnonzero((above[1:] > 0.0) & (above[:-1] == 0.0)) + 1
    return np.maximum.reduceat(above, begins) if len(begins) else np.empty(0)
