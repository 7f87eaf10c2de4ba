"""The likelihood of innovations against the filter itself and against one joint Gaussian by numpy."""

import inspect

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kernels import kalman, likelihood

Array = NDArray[np.float64]
SECOND_NS = 1_000_000_000


def settings_row(q: float, r: float, white: bool, gate: float = np.nan, limit: int = 5) -> Array:
    """A row of settings in the filter's order."""
    s = np.full(kalman.SETTINGS, np.nan)
    s[[kalman.Q, kalman.R, kalman.WHITE, kalman.DOUBT_FACTOR]] = q, r, float(white), 10.0
    s[[kalman.INITIAL, kalman.GATE, kalman.LIMIT, kalman.DRIFT_DELTA, kalman.EXACT]] = 2.0 * r, gate, limit, 0.5, 0.0
    return s


def series(seed: int, n: int, outliers: bool = False) -> tuple[NDArray[np.uint8], NDArray[np.int64], Array]:
    """Verdicts of every kind, irregular times, a wandering value."""
    random = np.random.default_rng(seed)
    verdict = random.choice([0, 1, 2, 2, 2, 2, 3], n).astype(np.uint8)
    time_ns = np.cumsum(random.integers(0, 3 * SECOND_NS, n))
    value = 85.0 + np.cumsum(random.normal(0.0, 0.3, n)) + random.normal(0.0, 0.5, n)
    if outliers:
        value[random.integers(0, n, n // 6)] += 40.0
        value[n // 2 :] += 60.0
    return verdict, time_ns, value


def filtered(verdict: NDArray[np.uint8], time_ns: NDArray[np.int64], value: Array, s: Array) -> tuple[Array, Array]:
    """Innovation and variance S of every reading that updated the filter of `kernels.kalman`."""
    n = len(value)
    x, counts = np.zeros((1, kalman.FLOATS)), np.zeros((1, kalman.COUNTS), np.int64)
    out, found = np.empty((5, n)), np.empty(n, np.uint8)
    zero = np.zeros(n, np.int64)
    kalman.run(zero, np.zeros(1, np.int64), verdict, time_ns, value, s.reshape(1, -1), x, counts, out, found)
    innovation, nis = out[3], out[4]
    used = np.isfinite(nis) & ((found & kalman.GATED) == 0)
    return innovation[used], innovation[used] ** 2 / nis[used]


@pytest.mark.parametrize("name", ["predict", "update", "seconds_between"])
def test_the_copies_are_the_filters_own_text(name: str) -> None:
    """Jitted functions cannot be shared between files; these three must not drift apart."""
    here, there = getattr(likelihood, name), getattr(kalman, name)
    plain = [inspect.getsource(getattr(f, "py_func", f)) for f in (here, there)]
    assert plain[0] == plain[1]


@pytest.mark.parametrize("white", [False, True])
@pytest.mark.parametrize("gate", [np.nan, 9.0])
@given(seed=st.integers(0, 2**32 - 1), q=st.floats(1e-6, 1.0), r=st.floats(1e-3, 10.0))
@settings(max_examples=25, deadline=None)
def test_it_is_the_product_of_the_densities_of_the_filters_innovations(
    gate: float, white: bool, seed: int, q: float, r: float
) -> None:
    """Same start, same doubt, same gate and restart as the filter has: the sum over what the filter itself gave."""
    verdict, time_ns, value = series(seed, 120, outliers=True)
    s = settings_row(q, r, white, gate)
    y, variance = filtered(verdict, time_ns, value, s)
    expected = float(np.sum(-0.5 * (np.log(2.0 * np.pi * variance) + y * y / variance)))
    role = np.empty(len(value), np.uint8)
    found, log_s, nis, count = likelihood.log_likelihood(verdict, time_ns, value, s, role)
    assert count == len(y) == np.count_nonzero(role == likelihood.COUNTED)
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-6)
    assert nis == pytest.approx(np.sum(y * y / variance), rel=1e-9)
    assert log_s == pytest.approx(np.sum(np.log(variance)), rel=1e-9, abs=1e-6)


def joint_log_density(  # noqa: PLR0917
    dt: Array, z: Array, r: Array, q: float, white: bool, p0: float
) -> float:
    """Log-density of readings 1…n given reading 0, from one covariance matrix; no recursion over P."""
    n = len(z)
    f = [np.array([[1.0, d], [0.0, 1.0]]) for d in dt]
    w = [q * (np.array([[d**3 / 3, d**2 / 2], [d**2 / 2, d]]) if white else np.eye(2)) for d in dt]
    maps = np.zeros((n, 2, 2 * (n + 1)))
    step = np.hstack([np.eye(2), np.zeros((2, 2 * n))])
    for i in range(n):
        step = f[i] @ step
        step[:, 2 * i + 2 : 2 * i + 4] += np.eye(2)
        maps[i] = step
    source = np.zeros((2 * (n + 1), 2 * (n + 1)))
    source[:2, :2] = p0 * np.eye(2)
    for i in range(n):
        source[2 * i + 2 : 2 * i + 4, 2 * i + 2 : 2 * i + 4] = w[i]
    h = maps[:, 0, :]
    cov = h @ source @ h.T + np.diag(r)
    _, logdet = np.linalg.slogdet(cov)
    return float(-0.5 * (n * np.log(2.0 * np.pi) + logdet + z @ np.linalg.solve(cov, z)))


@pytest.mark.parametrize("white", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_it_is_the_joint_gaussian_of_the_readings(white: bool, seed: int) -> None:
    """Twelve readings with irregular times, two of them suspect: the density of one multivariate Gaussian."""
    random = np.random.default_rng(seed)
    n = 12
    time_ns = np.cumsum(random.integers(SECOND_NS // 10, 3 * SECOND_NS, n))
    value = random.normal(0.0, 1.0, n)
    verdict = np.full(n, kalman.ACCEPT, np.uint8)
    verdict[[4, 8]] = kalman.DOUBT
    r = np.where(verdict == kalman.DOUBT, 3.0, 0.3)[1:]
    s = settings_row(0.02, 0.3, white)
    found = likelihood.log_likelihood(verdict, time_ns, value, s, np.empty(n, np.uint8))[0]
    expected = joint_log_density(np.diff(time_ns) / 1e9, value[1:] - value[0], r, 0.02, white, s[kalman.INITIAL])
    assert found == pytest.approx(expected, rel=1e-9)


def test_a_restart_forgets_what_was_before() -> None:
    """The likelihood with a restart in the middle is the sum of those of both halves."""
    verdict, time_ns, value = series(3, 60)
    verdict[:] = kalman.ACCEPT
    s, role = settings_row(0.01, 0.4, False), np.empty(60, np.uint8)
    halves = [
        likelihood.log_likelihood(verdict[h], time_ns[h], value[h], s, role[h])[0] for h in (np.s_[:25], np.s_[25:])
    ]
    verdict[25] = likelihood.RESTART
    whole = likelihood.log_likelihood(verdict, time_ns, value, s, role)[0]
    assert whole == pytest.approx(sum(halves), rel=1e-12)
    assert role[25] == likelihood.BEGAN
