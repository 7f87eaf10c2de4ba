"""Kalman filter with state [value, rate] for one tag, its loop over readings, and the smoother for back-tests.

Knows numbers only: no frames, no flags beyond the verdict codes below, no configuration. Letters follow the field's
books: x state, P covariance, q and r noise, S innovation variance, K gain. All times are in s or ns as named.

Sources: Bar-Shalom, Li, Kirubarajan, "Estimation with Applications to Tracking and Navigation" (2001), 5.2 (filter),
6.2 (white-noise acceleration), 8.6 (fixed-interval smoother); Bucy and Joseph for the form of the update.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.jit import jit

Floats = NDArray[np.float64]
I64 = NDArray[np.int64]

#: A prediction further ahead than this is made as if for this time, s: keeps every number finite.
DT_MAX_S = 86_400.0
#: Readings beyond this magnitude never enter a filter: their squares would overflow.
VALUE_MAX = 1e100

# What a reading may do to its filter (`verdict` of `run`).
OUTSIDE = 0  # its time cannot be trusted: no estimate, nothing moves
PREDICT = 1  # no value to use: estimate is the prediction at its time, nothing moves
ACCEPT = 2
DOUBT = 3  # suspect: update with a larger measurement noise

# Columns of `settings` of `run`. WHITE, EXACT: > 0 is yes. GATE, DRIFT_THRESHOLD: NaN is off.
Q, R, WHITE, DOUBT_FACTOR, INITIAL, GATE, LIMIT, DRIFT_DELTA, DRIFT_THRESHOLD, EXACT = range(10)
SETTINGS = 10

# A tag's numbers: the filter, and the sums of the drift test.
VALUE, RATE, P00, P01, P11, RISE, FALL = range(7)
FLOATS = 7
# A tag's counts: time of the last update in ns, whether there was one, readings in a row that were not let in.
LAST_NS, STARTED, REFUSED = range(3)
COUNTS = 3

# What `run` found about a reading (`found`, bits).
GATED = 1
DRIFTING = 2


@jit
def predict(
    x0: float, x1: float, p00: float, p01: float, p11: float, dt: float, q: float, white: bool
) -> tuple[float, float, float, float, float]:
    """State and covariance after `dt` s: F = [[1, dt], [0, 1]]; Q = q·I, or with `white` the white-noise acceleration
    q·[[dt³/3, dt²/2], [dt²/2, dt]].
    """
    a = p00 + dt * (p01 + p01 + dt * p11)
    b = p01 + dt * p11
    if white:
        return x0 + dt * x1, x1, a + q * dt * dt * dt / 3.0, b + q * dt * dt / 2.0, p11 + q * dt
    return x0 + dt * x1, x1, a + q, b, p11 + q


@jit
def update(
    x0: float, x1: float, p00: float, p01: float, p11: float, z: float, r: float
) -> tuple[float, float, float, float, float]:
    """State and covariance after a reading `z` of variance `r`; H = [1, 0]."""
    s = p00 + r
    k0 = p00 / s
    k1 = p01 / s
    y = z - x0
    # Joseph form, (I−KH) P (I−KH)ᵀ + K r Kᵀ: stays positive whatever the rounding, which (I−KH) P does not.
    c = 1.0 - k0
    d = p01 - k1 * p00
    return (
        x0 + k0 * y,
        x1 + k1 * y,
        c * c * p00 + r * k0 * k0,
        c * d + r * k0 * k1,
        p11 - k1 * p01 - k1 * d + r * k1 * k1,
    )


@jit
def seconds_between(later: int, earlier: int) -> float:
    """Time from `earlier` to `later`, both in ns, in s and within 0…DT_MAX_S, for any two int64."""
    if later <= earlier:
        return 0.0
    if earlier < 0 < later:
        # the int64 difference of opposite signs can overflow
        return min(float(later) / 1e9 - float(earlier) / 1e9, DT_MAX_S)
    return min((later - earlier) / 1e9, DT_MAX_S)


@jit
def run(entry: I64, row: I64, verdict: Any, time_ns: I64, value: Floats, settings: Floats,
        x: Floats, n: I64, out: Floats, found: Any) -> None:  # fmt: skip
    """Takes readings in order through the filters of their tags.

    In, one per reading: `entry` (index into `settings` and `row`), `verdict` (OUTSIDE, PREDICT, ACCEPT or DOUBT),
    `time_ns`, `value`; one per entry: `row` (of the state), `settings` (entries, SETTINGS). Changed in place, one row
    per tag: `x` (tags, FLOATS) and `n` (tags, COUNTS). Out: `out` (5, readings: estimate, rate, std, innovation, nis;
    NaN where there is none), `found` (readings; GATED, DRIFTING).

    A reading that is not let in leaves no trace but its count: the state stays at the last update, so a prediction
    spans the whole time since then and its variance grows with that time.
    """
    out[:] = np.nan
    for i in range(len(entry)):
        j = row[entry[i]]
        s = settings[entry[i]]
        found[i] = 0
        if verdict[i] == OUTSIDE:
            continue
        if s[EXACT] > 0.0:
            _known_exactly(i, verdict[i], value[i], x[j], n[j], out)
        elif verdict[i] == PREDICT or abs(value[i]) > VALUE_MAX:
            found[i] = 0 if verdict[i] == PREDICT else GATED
            _predicted(i, time_ns[i], s, x[j], n[j], out)
        elif n[j, STARTED] == 0:
            n[j, REFUSED] += 1
            if verdict[i] == ACCEPT or n[j, REFUSED] >= s[LIMIT]:
                _start(i, time_ns[i], value[i], s, x[j], n[j], out)
        elif time_ns[i] >= n[j, LAST_NS]:
            found[i] = _taken(i, verdict[i], time_ns[i], value[i], s, x[j], n[j], out)


@jit
def _known_exactly(i: int, verdict: int, z: float, x: Floats, n: I64, out: Floats) -> None:
    """A set point: nothing to estimate; without a value to use the last one holds."""
    if verdict != PREDICT:
        x[VALUE] = z
        n[STARTED] = 1
    if n[STARTED] == 1:
        out[0, i], out[1, i], out[2, i] = x[VALUE], 0.0, 0.0


@jit
def _predicted(i: int, time_ns: int, s: Floats, x: Floats, n: I64, out: Floats) -> None:
    """The prediction as the estimate, where there is no value to use."""
    if n[STARTED] == 0:
        return
    dt = seconds_between(time_ns, n[LAST_NS])
    x0, x1, p00, _, _ = predict(x[VALUE], x[RATE], x[P00], x[P01], x[P11], dt, s[Q], s[WHITE] > 0.0)
    if math.isfinite(x0) and math.isfinite(p00):
        out[0, i], out[1, i], out[2, i] = x0, x1, math.sqrt(p00)


@jit
def _start(i: int, time_ns: int, z: float, s: Floats, x: Floats, n: I64, out: Floats) -> None:
    """Lets the filter begin at a reading: state [z, 0], covariance s[INITIAL]·I."""
    x[VALUE], x[RATE], x[P00], x[P01], x[P11] = z, 0.0, s[INITIAL], 0.0, s[INITIAL]
    x[RISE], x[FALL] = 0.0, 0.0
    n[LAST_NS], n[STARTED], n[REFUSED] = time_ns, 1, 0
    out[0, i], out[1, i], out[2, i] = z, 0.0, math.sqrt(s[INITIAL])


@jit
def _taken(i: int, verdict: int, time_ns: int, z: float, s: Floats, x: Floats, n: I64, out: Floats) -> int:
    """Updates with a reading, or keeps it out by the gate. Returns what was found about it."""
    dt = seconds_between(time_ns, n[LAST_NS])
    x0, x1, p00, p01, p11 = predict(x[VALUE], x[RATE], x[P00], x[P01], x[P11], dt, s[Q], s[WHITE] > 0.0)
    r = s[R] * s[DOUBT_FACTOR] if verdict == DOUBT else s[R]
    innovation = z - x0
    nis = innovation * innovation / (p00 + r)
    if not (math.isfinite(nis) and math.isfinite(p11)):
        _start(i, time_ns, z, s, x, n, out)
        return 0
    found = 0
    if s[GATE] > 0.0 and nis > s[GATE]:
        found = GATED
        n[REFUSED] += 1
        if n[REFUSED] >= s[LIMIT]:
            _start(i, time_ns, z, s, x, n, out)
        else:
            out[0, i], out[1, i], out[2, i] = x0, x1, math.sqrt(p00)
    else:
        if _drifts(innovation / math.sqrt(p00 + r), s, x):
            found = DRIFTING
        x0, x1, p00, p01, p11 = update(x0, x1, p00, p01, p11, z, r)
        x[VALUE], x[RATE], x[P00], x[P01], x[P11] = x0, x1, p00, p01, p11
        n[LAST_NS], n[REFUSED] = time_ns, 0
        out[0, i], out[1, i], out[2, i] = x0, x1, math.sqrt(p00)
    out[3, i], out[4, i] = innovation, nis
    return found


@jit
def _drifts(e: float, s: Floats, x: Floats) -> bool:
    """Page–Hinkley for a rise and a fall of a mean that should be 0: whether either sum is over the threshold.

    Each sum is held at twice the threshold, so that an alarm ends soon after its cause has.
    """
    threshold = s[DRIFT_THRESHOLD]
    if not threshold > 0.0:
        return False
    x[RISE] = min(max(0.0, x[RISE] + e - s[DRIFT_DELTA]), 2.0 * threshold)
    x[FALL] = min(max(0.0, x[FALL] - e - s[DRIFT_DELTA]), 2.0 * threshold)
    return bool(max(x[RISE], x[FALL]) > threshold)


@jit
def filter_series(dt_s: Any, z: Any, q: float, r: float, white: bool, x: Any, p: Any) -> Any:
    """Filter over a whole series, for back-tests: shape (n, 7): value, rate, P00, P01, P11, innovation, NIS.

    `dt_s[i]` is the time before reading i, `x` (2,) and `p` (2, 2) the state before the first. A NaN reading is
    predicted over.
    """
    n = len(z)
    out = np.empty((n, 7))
    x0, x1, p00, p01, p11 = x[0], x[1], p[0, 0], p[0, 1], p[1, 1]
    for i in range(n):
        x0, x1, p00, p01, p11 = predict(x0, x1, p00, p01, p11, dt_s[i], q, white)
        out[i, 5] = z[i] - x0
        out[i, 6] = (z[i] - x0) * (z[i] - x0) / (p00 + r)
        if not math.isnan(z[i]):
            x0, x1, p00, p01, p11 = update(x0, x1, p00, p01, p11, z[i], r)
        out[i, 0], out[i, 1], out[i, 2], out[i, 3], out[i, 4] = x0, x1, p00, p01, p11
    return out


@jit
def smooth(dt_s: Any, filtered: Any, q: float, white: bool) -> Any:
    """Rauch–Tung–Striebel smoother over what `filter_series` gave: shape (n, 5): value, rate, P00, P01, P11."""
    n = len(filtered)
    out = filtered[:, :5].copy()
    for i in range(n - 2, -1, -1):
        x0, x1, p00, p01, p11 = filtered[i, 0], filtered[i, 1], filtered[i, 2], filtered[i, 3], filtered[i, 4]
        dt = dt_s[i + 1]
        m0, m1, n00, n01, n11 = predict(x0, x1, p00, p01, p11, dt, q, white)
        det = n00 * n11 - n01 * n01
        # G = P Fᵀ N⁻¹, with P Fᵀ = [[a, p01], [b, p11]]
        a = p00 + dt * p01
        b = p01 + dt * p11
        g00, g01 = (a * n11 - p01 * n01) / det, (p01 * n00 - a * n01) / det
        g10, g11 = (b * n11 - p11 * n01) / det, (p11 * n00 - b * n01) / det
        e0, e1 = out[i + 1, 0] - m0, out[i + 1, 1] - m1
        d00, d01, d11 = out[i + 1, 2] - n00, out[i + 1, 3] - n01, out[i + 1, 4] - n11
        out[i, 0] = x0 + g00 * e0 + g01 * e1
        out[i, 1] = x1 + g10 * e0 + g11 * e1
        out[i, 2] = p00 + g00 * (g00 * d00 + g01 * d01) + g01 * (g00 * d01 + g01 * d11)
        out[i, 3] = p01 + g10 * (g00 * d00 + g01 * d01) + g11 * (g00 * d01 + g01 * d11)
        out[i, 4] = p11 + g10 * (g10 * d00 + g11 * d01) + g11 * (g10 * d01 + g11 * d11)
    return out
