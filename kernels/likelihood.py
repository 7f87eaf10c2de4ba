"""Exact Gaussian log-likelihood of what one tag's filter did not expect: by it `q` and `r` are fitted.

The density of a series of readings is the product of those of its innovations, each Gaussian with mean 0 and variance
S = P00 + r as the filter had it before that reading. What a reading may do is as in `kernels.kalman`: the same codes,
the same start, the same gate. Three jitted functions stand here as they stand there, since they cannot be shared
(see `kernels.jit`); a test holds the copies together. May not know: frames, configuration.

Source: Schweppe, "Evaluation of likelihood functions for Gaussian signals" (1965); Bar-Shalom, Li, Kirubarajan, 5.4.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.jit import jit
from kernels.kalman import (
    ACCEPT,
    DOUBT,
    DOUBT_FACTOR,
    DT_MAX_S,
    GATE,
    INITIAL,
    LIMIT,
    OUTSIDE,
    PREDICT,
    VALUE_MAX,
    WHITE,
    Q,
    R,
)

Floats = NDArray[np.float64]
I64 = NDArray[np.int64]

#: A verdict more than the filter has: the filter begins anew at this reading, as it does after a step.
RESTART = 4

# What became of a reading (`role` of `log_likelihood`).
UNUSED = 0
COUNTED = 1  # its density is a factor of the likelihood
BEGAN = 2  # the filter began at it: given, not explained
GATED = 3

LOG_2_PI = math.log(2.0 * math.pi)


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
def log_likelihood(verdict: Any, time_ns: I64, value: Floats, s: Floats, role: Any) -> tuple[float, float, float, int]:
    """Log-likelihood of the readings of one tag, in the order in which its filter takes them.

    In: `verdict` (OUTSIDE, PREDICT, ACCEPT, DOUBT, RESTART), `time_ns`, `value` (readings,), `s` (SETTINGS of
    `kernels.kalman`,). Out: `role` (readings,). Returns the log-likelihood, the sums of log S and of the NIS, and how
    many densities that is. With a gate the readings beyond it are no factor: likelihoods then compare only where the
    same readings are left out.
    """
    x0, x1, p00, p01, p11 = 0.0, 0.0, 0.0, 0.0, 0.0
    last, started, refused, count = 0, False, 0, 0
    log_s, nis_sum = 0.0, 0.0
    role[:] = UNUSED
    for i in range(len(value)):
        if verdict[i] == OUTSIDE or verdict[i] == PREDICT or abs(value[i]) > VALUE_MAX:
            continue
        begins = verdict[i] == RESTART
        if not started:
            refused += 1
            begins = begins or verdict[i] == ACCEPT or refused >= s[LIMIT]
            if not begins:
                continue
        elif time_ns[i] < last:
            continue
        if not begins:
            r = s[R] * s[DOUBT_FACTOR] if verdict[i] == DOUBT else s[R]
            dt = seconds_between(time_ns[i], last)
            m0, m1, n00, n01, n11 = predict(x0, x1, p00, p01, p11, dt, s[Q], s[WHITE] > 0.0)
            nis = (value[i] - m0) * (value[i] - m0) / (n00 + r)
            if not (math.isfinite(nis) and math.isfinite(n11)):
                begins = True
            elif s[GATE] > 0.0 and nis > s[GATE]:
                refused += 1
                begins = refused >= s[LIMIT]
                if not begins:
                    role[i] = GATED
                    continue
            else:
                x0, x1, p00, p01, p11 = update(m0, m1, n00, n01, n11, value[i], r)
                log_s += math.log(n00 + r)
                nis_sum += nis
                count += 1
                role[i] = COUNTED
        if begins:
            x0, x1, p00, p01, p11 = value[i], 0.0, s[INITIAL], 0.0, s[INITIAL]
            role[i] = BEGAN
        last, started, refused = time_ns[i], True, 0
    return -0.5 * (count * LOG_2_PI + log_s + nis_sum), log_s, nis_sum, count
