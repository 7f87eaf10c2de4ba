"""The bounds of the NIS test against scipy, and against filters whose noise does or does not fit."""

import numpy as np
import pytest
from scipy.stats import chi2

from kernels import kalman
from kernels.consistency import chi_square_quantile, mean_bounds


@pytest.mark.parametrize("degrees", [25, 50, 300, 1000])
@pytest.mark.parametrize("probability", [0.005, 0.025, 0.5, 0.975, 0.995])
def test_quantiles_are_those_of_chi_square(degrees: int, probability: float) -> None:
    """Within 0.5 % from 25 degrees of freedom on."""
    assert chi_square_quantile(probability, degrees) == pytest.approx(chi2.ppf(probability, degrees), rel=5e-3)


def test_few_degrees_of_freedom_come_out_too_small_only_below() -> None:
    """At 5 degrees of freedom the upper bound holds within 1 %; the lower one is too small, never too great."""
    assert chi_square_quantile(0.995, 5) == pytest.approx(chi2.ppf(0.995, 5), rel=0.01)
    assert 0.8 * chi2.ppf(0.005, 5) < chi_square_quantile(0.005, 5) < chi2.ppf(0.005, 5)


def _mean_nis(stated_r: float) -> np.ndarray:
    """Mean NIS of 200 windows of 50 readings, where the truth follows the filter's own model with r = 0.5."""
    rng, q, n = np.random.default_rng(11), 0.02, 10_000
    step = np.linalg.cholesky(q * np.array([[1 / 3, 1 / 2], [1 / 2, 1.0]]))
    x, truth = np.zeros(2), np.empty(n)
    for i in range(n):
        x = np.array([x[0] + x[1], x[1]]) + step @ rng.normal(size=2)
        truth[i] = x[0]
    z = truth + rng.normal(0.0, np.sqrt(0.5), n)
    out = kalman.filter_series(np.ones(n), z, q, stated_r, True, np.zeros(2), np.eye(2))
    return np.asarray(out[:, 6].reshape(-1, 50).mean(axis=1))


def test_a_fitting_filter_is_within_bounds_and_others_are_not() -> None:
    """99 of 100 windows are within 99 % bounds where r fits; nearly none where it is 4 times too great or too small."""
    low, high = mean_bounds(50, 0.99)
    fitting, great, small = _mean_nis(0.5), _mean_nis(2.0), _mean_nis(0.125)
    assert np.mean((low <= fitting) & (fitting <= high)) >= 0.97
    assert np.mean(great < low) > 0.9
    assert np.mean(small > high) > 0.9
