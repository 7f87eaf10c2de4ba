"""Figures of merit against closed forms, and the verdict about noise against filters whose noise is known."""

import json
import math

import numpy as np
import pytest
from scipy.stats import chi2

from kernels import kalman
from replay.score.figures import NIS_95, Consistency, consistency, errors, plain, spread, verdict


def test_errors_are_those_of_the_formulas() -> None:
    """Against a fit by hand: RMSE √(14/3), MAE 2, bias 0, R² 1 − 14/2."""
    found = errors(np.array([2.0, 4.0, 0.0, np.nan, 9.0]), np.array([1.0, 2.0, 3.0, 7.0, np.nan]))
    assert found.count == 3
    assert found.rmse == pytest.approx(math.sqrt((1 + 4 + 9) / 3))
    assert found.mae == pytest.approx(2.0)
    assert found.bias == pytest.approx(0.0)
    assert found.r2 == pytest.approx(1.0 - 14.0 / 2.0)


def test_errors_of_nothing_and_against_a_constant() -> None:
    """No pairs: NaN. A reference that does not vary has no R², even with rounding in it."""
    assert math.isnan(errors(np.array([np.nan]), np.array([1.0])).rmse)
    assert errors(np.empty(0), np.empty(0)).count == 0
    constant = np.full(50, 0.1) + np.tile([0.0, 1e-17], 25)
    assert math.isnan(errors(constant + 1.0, constant).r2)
    assert errors(constant + 1.0, constant).rmse == pytest.approx(1.0)


def test_bound_of_single_readings_is_that_of_chi_square() -> None:
    """95 of 100 readings of a fitting filter lie below it."""
    assert pytest.approx(chi2.ppf(0.95, 1)) == NIS_95


def _judged(q_true: float, r_true: float, q: float, r: float, n: int = 6000) -> Consistency:
    """A filter told q and r on a random walk of rate made with q_true and r_true."""
    rng = np.random.default_rng(3)
    state, z = np.zeros(2), np.empty(n)
    for i in range(n):
        state = np.array([state[0] + state[1], state[1]]) + rng.normal(0.0, math.sqrt(q_true), 2)
        z[i] = state[0] + rng.normal(0.0, math.sqrt(r_true))
    out = kalman.filter_series(np.ones(n), z, q, r, False, np.zeros(2), np.eye(2))
    return consistency(out[100:, 5], out[100:, 6], 50, 0.99)


@pytest.mark.parametrize(
    ("q", "r", "said"),
    [
        (0.02, 1.0, "fits"),
        (0.0005, 1.0, "q too small"),
        (0.8, 1.0, "q too large"),
        (0.02, 30.0, "r too large"),
        (0.02, 0.05, "r too small"),
        (0.002, 0.1, "q and r too small"),
        (0.2, 10.0, "q and r too large"),
    ],
)
def test_verdict_names_the_noise_that_is_set_wrong(q: float, r: float, said: str) -> None:
    """On series made with q = 0.02 and r = 1, for each of the two set wrong, alone and together."""
    assert _judged(0.02, 1.0, q, r).verdict == said


@pytest.mark.parametrize(("rho", "word"), [(0.2, "too slowly"), (-0.2, "too fast"), (0.0, "fits")])
def test_innovations_that_correlate_are_told_where_the_mean_fits(rho: float, word: str) -> None:
    """No noise is called wrong then: after a fit it is the motion that the filter supposes."""
    assert verdict(1000, 1.0, 0.9, 1.1, rho).endswith(word)
    assert verdict(24, 1.0, 0.9, 1.1, rho) == "not evaluated"


def test_windows_of_a_fitting_filter_are_mostly_within_their_bounds() -> None:
    """At 99 % about one window in a hundred is out of bounds, and the mean over all is near 1."""
    found = _judged(0.02, 1.0, 0.02, 1.0)
    assert found.windows == 118
    assert found.windows_within > 0.95
    assert found.windows_within + found.windows_high + found.windows_low == pytest.approx(1.0)
    assert found.low < found.mean < found.high
    assert found.within == pytest.approx(0.95, abs=0.015)


def test_few_or_no_readings_get_no_verdict() -> None:
    """NaN counts nowhere."""
    few = consistency(np.array([1.0, np.nan, -1.0]), np.array([1.0, 2.0, np.nan]), 50, 0.99)
    assert (few.count, few.windows, few.verdict) == (1, 0, "not evaluated")
    assert math.isnan(few.windows_within)
    assert consistency(np.empty(0), np.empty(0), 50, 0.99).verdict == "not evaluated"


def test_percentiles_of_finite_values() -> None:
    """Linear between neighbours, NaN left out, nothing of nothing."""
    found = spread(np.array([*range(101), np.nan, np.inf]))
    assert (found.count, found.p50, found.p95, found.p99, found.max) == (101, 50.0, 95.0, 99.0, 100.0)
    assert spread(np.array([np.nan])).count == 0


def test_what_is_not_known_is_null_in_json() -> None:
    """JSON has no NaN; numpy's numbers are numbers."""
    told = plain({"a": Consistency(), "b": [np.float64(1.5), np.int64(2), float("inf")], 3: (True, None)})
    assert json.loads(json.dumps(told, allow_nan=False))["b"] == [1.5, 2, None]
    assert told["a"]["mean"] is None
    assert told["3"] == [True, None]
