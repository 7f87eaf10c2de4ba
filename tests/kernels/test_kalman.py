"""The filter and smoother against independent derivations: one joint Gaussian, the Riccati equation, closed forms."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.linalg import solve_discrete_are

from kernels import kalman

Array = NDArray[np.float64]


def _transition(dt: float) -> Array:
    return np.array([[1.0, dt], [0.0, 1.0]])


def _noise(dt: float, q: float, white: bool) -> Array:
    if white:
        return q * np.array([[dt**3 / 3, dt**2 / 2], [dt**2 / 2, dt]])
    return q * np.eye(2)


def _joint_posterior(  # noqa: PLR0917
    dt: Array, z: Array, q: float, r: float, white: bool, x: Array, p: Array
) -> tuple[Array, Array]:
    """Mean (n, 2) and covariance (n, 2, 2) of all states given all readings, by conditioning one big Gaussian."""
    n = len(z)
    # every state is a linear map of (x_0, w_1 … w_n), which are independent
    cov = np.zeros((2 * (n + 1), 2 * (n + 1)))
    cov[:2, :2] = p
    maps, step = [], np.hstack([np.eye(2), np.zeros((2, 2 * n))])
    for i in range(n):
        cov[2 * i + 2 : 2 * i + 4, 2 * i + 2 : 2 * i + 4] = _noise(dt[i], q, white)
        step = _transition(dt[i]) @ step
        step[:, 2 * i + 2 : 2 * i + 4] += np.eye(2)
        maps.append(step)
    a = np.vstack(maps)
    mean, joint = a[:, :2] @ x, a @ cov @ a.T
    seen = ~np.isnan(z)
    h = np.kron(np.eye(n), [[1.0, 0.0]])[seen]
    gain = np.linalg.solve(h @ joint @ h.T + r * np.eye(int(seen.sum())), h @ joint).T
    posterior = mean + gain @ (z[seen] - h @ mean)
    left = joint - gain @ h @ joint
    return posterior.reshape(n, 2), np.array([left[2 * i : 2 * i + 2, 2 * i : 2 * i + 2] for i in range(n)])


def _flat(covariance: Array) -> Array:
    return np.stack([covariance[:, 0, 0], covariance[:, 0, 1], covariance[:, 1, 1]], axis=1)


def _chapter_series() -> tuple[Array, Array]:
    """Truth and readings of the chapter's example."""
    np.random.seed(42)
    truth = np.linspace(85.0, 95.0, 50)
    return truth, truth + np.random.normal(0.0, 0.5, 50)


def test_chapter_example_gives_the_figures_we_computed() -> None:
    """MSE raw 0.2263, filtered 0.0898, 60 % better, mean NIS 0.35."""
    truth, z = _chapter_series()
    dt = np.ones(50)
    out = kalman.filter_series(dt, z, 0.01, 0.5, False, np.array([85.0, 0.0]), np.eye(2))
    raw, filtered = np.mean((z - truth) ** 2), np.mean((out[:, 0] - truth) ** 2)
    assert raw == pytest.approx(0.2263, abs=5e-5)
    assert filtered == pytest.approx(0.0898, abs=5e-5)
    assert 1.0 - filtered / raw == pytest.approx(0.60, abs=5e-3)
    assert np.mean(out[:, 6]) == pytest.approx(0.35, abs=5e-3)


def _smoothed(z: Array) -> Array:
    """A fixed-interval smoother told that the rate hardly changes and what the noise is."""
    dt, q = np.ones(len(z)), 1e-8
    filtered = kalman.filter_series(dt, z, q, 0.25, False, np.array([85.0, 0.0]), np.eye(2))
    return np.asarray(kalman.smooth(dt, filtered, q, False)[:, 0])


def test_smoother_reaches_the_limit_of_a_straight_line_fit() -> None:
    """On the chapter's series the smoother is as good as a straight line fitted to it (0.020: unlucky noise),
    and over many series of such noise it comes to that fit's expected error, 2·0.25/50 = 0.01.
    """
    truth, z = _chapter_series()
    fit = np.polyval(np.polyfit(np.arange(50.0), z, 1), np.arange(50.0))
    assert np.mean((_smoothed(z) - truth) ** 2) == pytest.approx(np.mean((fit - truth) ** 2), abs=5e-4)
    rng = np.random.default_rng(1)
    errors = [np.mean((_smoothed(truth + rng.normal(0.0, 0.5, 50)) - truth) ** 2) for _ in range(500)]
    assert np.mean(errors) == pytest.approx(0.01, abs=0.001)


@pytest.mark.parametrize("white", [False, True])
def test_filter_and_smoother_agree_with_one_joint_gaussian(white: bool) -> None:
    """Filter (given the past) and smoother (given all) equal conditioning of the joint Gaussian, NaN readings too."""
    rng = np.random.default_rng(7)
    dt, z = rng.uniform(0.1, 5.0, 25), rng.normal(50.0, 2.0, 25)
    z[[3, 4, 11]] = np.nan
    x, p = np.array([50.0, 0.1]), np.array([[2.0, 0.3], [0.3, 0.5]])
    filtered = kalman.filter_series(dt, z, 0.02, 0.7, white, x, p)
    for n in (1, 5, 12, 25):
        mean, cov = _joint_posterior(dt[:n], z[:n], 0.02, 0.7, white, x, p)
        np.testing.assert_allclose(filtered[n - 1, :2], mean[-1], rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(filtered[n - 1, 2:5], _flat(cov)[-1], rtol=1e-8, atol=1e-10)
    mean, cov = _joint_posterior(dt, z, 0.02, 0.7, white, x, p)
    smoothed = kalman.smooth(dt, filtered, 0.02, white)
    np.testing.assert_allclose(smoothed[:, :2], mean, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(smoothed[:, 2:5], _flat(cov), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("white", [False, True])
def test_covariance_settles_at_the_riccati_solution(white: bool) -> None:
    """At constant dt the predicted covariance tends to the solution of the discrete algebraic Riccati equation."""
    dt, q, r = 0.5, 0.03, 0.4
    out = kalman.filter_series(np.full(2000, dt), np.zeros(2000), q, r, white, np.zeros(2), np.eye(2))
    predicted = kalman.predict(*out[-1, :5], dt, q, white)[2:]
    expected = solve_discrete_are(_transition(dt).T, np.array([[1.0], [0.0]]), _noise(dt, q, white), np.array([[r]]))
    np.testing.assert_allclose(predicted, [expected[0, 0], expected[0, 1], expected[1, 1]], rtol=1e-9)


def test_white_acceleration_does_not_mind_how_an_interval_is_cut() -> None:
    """Predicting over 1.3 s and then 2.4 s equals predicting over 3.7 s."""
    start = (5.0, 0.2, 1.0, 0.1, 0.4)
    twice = kalman.predict(*kalman.predict(*start, 1.3, 0.02, True), 2.4, 0.02, True)
    np.testing.assert_allclose(twice, kalman.predict(*start, 3.7, 0.02, True), rtol=1e-12)


@given(
    st.lists(st.tuples(st.floats(0.0, 1e6), st.floats(-1e6, 1e6)), min_size=1, max_size=60),
    st.floats(1e-6, 1e3),
    st.floats(1e-6, 1e6),
    st.booleans(),
)
@settings(deadline=None)
def test_covariance_stays_positive(series: list[tuple[float, float]], q: float, r: float, white: bool) -> None:
    """Whatever the intervals: variances are positive, no correlation is beyond 1, and nothing is NaN."""
    dt, z = np.array(series).T
    out = kalman.filter_series(dt, z, q, r, white, np.array([z[0], 0.0]), np.eye(2))
    assert np.isfinite(out).all()
    assert (out[:, 2] > 0).all()
    assert (out[:, 4] > 0).all()
    assert (out[:, 3] ** 2 <= out[:, 2] * out[:, 4] * (1.0 + 1e-6)).all()


@given(st.integers(-(2**63), 2**63 - 1), st.integers(-(2**63), 2**63 - 1))
@settings(deadline=None)
def test_time_between_any_two_times_is_bounded(later: int, earlier: int) -> None:
    """Seconds between two int64 times are exact to a microsecond within a day, and within 0 and a day always."""
    between = kalman.seconds_between(np.int64(later), np.int64(earlier))
    assert 0.0 <= between <= kalman.DT_MAX_S
    assert between == pytest.approx(min(max(0.0, (later - earlier) / 1e9), kalman.DT_MAX_S), abs=1e-6)
