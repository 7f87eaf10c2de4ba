"""Process noise q and measurement noise r of one tag's filter: maximum likelihood over the innovations of a span.

Both are sought in log space. Intervals are those of the profile likelihood: the values at which twice the logarithm of
the likelihood, the other noise at its best there, lies less than the 95 % quantile of χ² with one degree of freedom
below its maximum. They need no symmetry, and where the likelihood is flat towards 0 or ∞ they are open there and say
so, which a standard error would hide. A reading that the gate would keep out at the noise found is left out, and the
fit made again, since one spike could be all of r. Knows plain arrays; no files, no configuration.

Source: Pawitan, "In All Likelihood" (2001), 3.4 (profile likelihood); Bar-Shalom, Li, Kirubarajan, 5.4 (NIS).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq, minimize, minimize_scalar

from kernels import kalman, likelihood
from replay.fit.interval import Interval, TooFewReadings

Floats = NDArray[np.float64]
I64 = NDArray[np.int64]
U8 = NDArray[np.uint8]
Point = tuple[float, float]
#: Of the logarithm of a variance: how far the profile is above what its interval allows.
Excess = Callable[[float], float]

#: Fewer densities than this tell two variances apart only by luck.
READINGS_MIN = 30
#: Half of the 95 % quantile of χ² with one degree of freedom: so far below its maximum the log-likelihood may lie.
DROP_95 = 1.9207294103470593
#: A log-likelihood this far from the maximum cannot be told from it: the end of the range is then as good.
FLAT = 0.01
#: Shares q/r that are looked at before the search, so that it ends in the highest of several maxima.
GRID = 60
ROUNDS_MAX = 6
#: The gate where the filter has none: one in two million readings lies beyond it by chance.
GATE = 25.0
#: Noise is sought up to so many times and down to the same part of what the grid's best gives; as logarithms.
REACH = math.log(1e8)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NoiseFit:
    """What was found for one tag, variances in the reading's unit squared (`process`: per s³ for white acceleration).

    `readings`: densities in the likelihood. `evaluations`: of the likelihood. `out`: which of the readings given were
    left out since they are beyond the gate; `left_out`: how many.
    `nis_before`, `nis_after`: mean NIS of the same readings; 1 where the noise fits.
    """

    process: Interval
    measurement: Interval
    readings: int
    left_out: int
    out: NDArray[np.bool_]
    evaluations: int
    nis_before: float
    nis_after: float
    log_likelihood: float
    gain: float


class Likelihood:
    """Log-likelihood of the readings as a function of (log q, log r); counts how often it is asked."""

    def __init__(self, verdict: U8, time_ns: I64, value: Floats, settings: Floats, start_share: float | None) -> None:
        self.verdict, self.time_ns = verdict.copy(), np.ascontiguousarray(time_ns)
        # A common offset changes no innovation; without it rounding is that of the signal, not of its level.
        fine = np.isfinite(value) & (np.abs(value) <= kalman.VALUE_MAX)
        self.verdict[~fine & (verdict != kalman.OUTSIDE)] = kalman.PREDICT
        self.value = np.where(fine, value - (float(np.median(value[fine])) if fine.any() else 0.0), 0.0)
        self.settings = settings.copy()
        self.gate = float(settings[kalman.GATE]) if settings[kalman.GATE] > 0.0 else GATE
        self.start_share = start_share
        self.role = np.empty(len(value), np.uint8)
        self.evaluations = 0

    def at(self, q: float, r: float, gate: float = math.nan) -> tuple[float, float, float, int]:
        """What `kernels.likelihood` returns at these variances."""
        s = self.settings
        s[kalman.Q], s[kalman.R], s[kalman.GATE] = q, r, gate
        if self.start_share is not None:
            s[kalman.INITIAL] = self.start_share * r
        self.evaluations += 1
        return likelihood.log_likelihood(self.verdict, self.time_ns, self.value, s, self.role)

    def log(self, log_q: float, log_r: float) -> float:
        """Log-likelihood; −inf where a variance cannot be computed with."""
        found = self.at(math.exp(log_q), math.exp(log_r))[0]
        return found if math.isfinite(found) else -math.inf

    def leave_out(self, q: float, r: float) -> int:
        """Takes out what the gate refuses at these variances, restarts where it would; returns how many changed."""
        self.at(q, r, self.gate)
        began = np.flatnonzero(self.role == likelihood.BEGAN)
        gated = self.role == likelihood.GATED
        self.verdict[gated] = kalman.PREDICT
        steps = began[1:][self.verdict[began[1:]] != likelihood.RESTART]
        self.verdict[steps] = likelihood.RESTART
        return int(np.count_nonzero(gated)) + len(steps)


def fit_noise(verdict: U8, time_ns: I64, value: Floats, settings: Floats, start_share: float | None = None) -> NoiseFit:
    """Fits the noise of one tag.

    `verdict` (codes of `kernels.kalman`), `time_ns`, `value` in the order of time; `settings`: the tag's row as in
    `kernels.kalman`, with the q and r that hold now. `start_share`: the filter starts with so many times r as variance
    (None: with what the row says). Raises TooFewReadings, and ValueError for readings that never change.
    """
    function = Likelihood(verdict, time_ns, value, settings, start_share)
    before = float(settings[kalman.Q]), float(settings[kalman.R])
    taken = function.verdict.copy()
    best, low, high = _maximum(function)
    for _ in range(ROUNDS_MAX):
        if not function.leave_out(math.exp(best[0]), math.exp(best[1])):
            break
        best, low, high = _maximum(function)
    top = function.log(*best)
    process = _interval(function, best, top, 0, (low[0], high[0]))
    measurement = _interval(function, best, top, 1, (low[1], high[1]))
    after = function.at(math.exp(best[0]), math.exp(best[1]))
    then = function.at(*before)
    out = (taken != function.verdict) & (function.verdict == kalman.PREDICT)
    return NoiseFit(
        process=process,
        measurement=measurement,
        readings=after[3],
        left_out=int(np.count_nonzero(out)),
        out=out,
        evaluations=function.evaluations,
        nis_before=then[2] / then[3],
        nis_after=after[2] / after[3],
        log_likelihood=after[0],
        gain=after[0] - then[0],
    )


def _maximum(function: Likelihood) -> tuple[Point, Point, Point]:
    """(log q, log r) of the maximum, and the lowest and the highest values that were allowed."""
    n, span_s, step_s = _extent(function)
    white = function.settings[kalman.WHITE] > 0.0
    # Below the lowest share all process noise of the span is a millionth of r; above the highest r is a millionth of
    # the process noise between two readings.
    grown = span_s**3 / 3.0 if white else n * (1.0 + span_s**2 / 3.0)
    once = step_s**3 / 3.0 if white else 1.0
    shares = np.linspace(math.log(1e-6 / grown), math.log(1e6 / once), GRID)
    profile = [_best_scale(function, share) for share in shares]
    top = max(range(GRID), key=lambda i: profile[i][0])
    log_r = math.log(profile[top][1])
    start = np.array([shares[top], log_r])
    bounds = [(shares[0], shares[-1]), (log_r - REACH, log_r + REACH)]
    simplex = start + np.array([[0.0, 0.0], [shares[1] - shares[0], 0.0], [0.0, 0.5]])
    simplex = np.clip(simplex, [b[0] for b in bounds], [b[1] for b in bounds])
    if top == GRID - 1:
        simplex[1, 0] = shares[-2]
    found = minimize(
        lambda at: -function.log(at[0] + at[1], at[1]),
        start,
        method="Nelder-Mead",
        bounds=bounds,
        options={"initial_simplex": simplex, "xatol": 1e-4, "fatol": 1e-5, "maxfev": 1000},
    )
    share, log_r = (float(v) for v in found.x)
    low = shares[0] + log_r, min(log_r, share + log_r - shares[-1])
    high = max(shares[-1] + log_r, share + log_r), log_r + REACH
    return (share + log_r, log_r), low, high


def _extent(function: Likelihood) -> tuple[int, float, float]:
    """Readings that count, the span they cover and the median time between two, in s. Raises as `fit_noise`."""
    n = function.at(1.0, 1.0)[3]
    used = function.role != likelihood.UNUSED
    if n < READINGS_MIN:
        raise TooFewReadings(f"{np.count_nonzero(used)} usable readings, at least {READINGS_MIN + 1} are needed")
    if np.ptp(function.value[used]) == 0.0:
        raise ValueError("the readings never change: there is no noise to find")
    time_ns = function.time_ns[used]
    span_s = float(time_ns[-1] - time_ns[0]) / 1e9
    if span_s <= 0.0:
        raise TooFewReadings("all usable readings have the same time")
    steps = np.diff(time_ns)
    return n, span_s, float(np.median(steps[steps > 0])) / 1e9


def _best_scale(function: Likelihood, share: float) -> tuple[float, float]:
    """Log-likelihood and r at the best r for q = exp(`share`)·r: with the share held, r is the mean NIS at r = 1."""
    held = function.settings[kalman.INITIAL]
    if function.start_share is None:
        function.settings[kalman.INITIAL] = 2.0
    _, log_s, nis_sum, count = function.at(math.exp(share), 1.0)
    function.settings[kalman.INITIAL] = held
    r = nis_sum / count
    if not (math.isfinite(r) and r > 0.0):
        return -math.inf, 1.0
    return -0.5 * (count * (math.log(2.0 * math.pi * r) + 1.0) + log_s), r


NAMES = ("process noise", "measurement noise")


def _interval(function: Likelihood, best: Point, top: float, which: int, reach: Point) -> Interval:
    """Profile likelihood of log q (`which` 0) or log r (1) between the ends of its range."""
    other = best[1 - which]

    def excess(log_value: float) -> float:
        """How far the profile is above what the interval allows; negative outside."""

        def lost(log_other: float) -> float:
            pair = (log_value, log_other) if which == 0 else (log_other, log_value)
            return -function.log(*pair)

        # The other noise may change by orders of magnitude where this one is taken away from it.
        found = minimize_scalar(lost, bounds=(other - 12.0, other + 12.0), method="bounded", options={"xatol": 1e-4})
        near = minimize_scalar(lost, bounds=(other - 1.0, other + 1.0), method="bounded", options={"xatol": 1e-4})
        return DROP_95 - top - float(min(found.fun, near.fun))

    here, (first, last) = best[which], reach
    low_free, low_flat = _open(excess, first)
    high_free, high_flat = _open(excess, last)
    low = 0.0 if low_free else math.exp(_crossing(excess, here, first))
    high = math.inf if high_free else math.exp(_crossing(excess, here, last))
    value, note = math.exp(here), ""
    if low_free:
        note = f"0 is as likely: no {NAMES[which]} seen" if low_flat else "0 lies in the interval"
        # The highest that the span allows: a filter told less would never let go of a straight line, or of a reading.
        value = high if low_flat and not high_free else value
    if high_free:
        note = "no upper bound" if not high_flat else "as likely without bound"
    return Interval(value=value, low=low, high=high, note=note)


def _open(excess: Excess, end: float) -> tuple[bool, bool]:
    """Whether the interval reaches an end of the range, and whether the end is as likely as the maximum."""
    found = excess(end)
    return found > 0.0, found > DROP_95 - FLAT


def _crossing(excess: Excess, inside: float, outside: float) -> float:
    """Where the profile leaves the interval: steps that double from the maximum, then bisection and secants."""
    step, near = math.copysign(0.1, outside - inside), inside
    far = inside + step
    while abs(far - inside) < abs(outside - inside) and excess(far) > 0.0:
        near, step = far, 2.0 * step
        far = inside + step
    if abs(far - inside) >= abs(outside - inside):
        far = outside
    return float(brentq(excess, near, far, xtol=1e-3))
