"""Thresholds of the drift test: against the filter's own sums, and against the false alarms they promise."""

from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray

from kernels import kalman
from replay.fit.drift import FALSE_ALARMS, TAIL, DriftLimit, drift_limit, excursions
from tests.replay.test_fit_noise import Q_TRUE, R_TRUE, settings_row, wandering

Array = NDArray[np.float64]
N = 1000


@cache
def series(seed: int) -> tuple[NDArray[np.int64], Array]:
    """One that moves as its filter supposes."""
    return wandering(seed, N, Q_TRUE, R_TRUE)


def limit(seed: int) -> DriftLimit:
    """Of such a series."""
    found = drift_limit(np.full(N, kalman.ACCEPT, np.uint8), *series(seed), settings_row(Q_TRUE, R_TRUE))
    assert found is not None
    return found


def alarms(seed: int, threshold: float, per_s2: float = 0.0) -> int:
    """How often the filter itself alarms on a series that is bent so much besides; readings of one alarm count once."""
    (time_ns, z), n = series(seed), N
    z = z + 0.5 * per_s2 * (time_ns / 1e9) ** 2
    row = settings_row(Q_TRUE, R_TRUE)
    row[kalman.DRIFT_THRESHOLD] = threshold
    found, counts = np.empty(n, np.uint8), np.zeros((1, kalman.COUNTS), np.int64)
    accept, zero = np.full(n, kalman.ACCEPT, np.uint8), np.zeros(n, np.int64)
    filters, out = np.zeros((1, kalman.FLOATS)), np.empty((5, n))
    kalman.run(zero, np.zeros(1, np.int64), accept, time_ns, z, row[np.newaxis], filters, counts, out, found)
    on = (found & kalman.DRIFTING) != 0
    return int(np.count_nonzero(on[1:] & ~on[:-1]))


def test_excursions_are_those_of_the_filters_sum() -> None:
    """Their greatest is where the filter begins to alarm: just below it does, at it does not."""
    for seed in range(5):
        found = limit(seed)
        assert alarms(seed, found.greatest * 0.999) >= 1
        assert alarms(seed, found.greatest * 1.001) == 0


def test_excursions_of_a_sum_worked_by_hand() -> None:
    """With delta 0.5: 1, 2.5, 0 | 0.5, 0 | 2 that goes on."""
    steps = np.array([1.5, 2.0, -3.0, 1.0, -2.0, -2.0, 2.5])
    assert excursions(steps, 0.5).tolist() == [2.5, 0.5, 2.0]
    assert excursions(-np.ones(3), 0.5).tolist() == []


def test_the_threshold_gives_the_promised_false_alarms() -> None:
    """24 series, each judged by the threshold of another one: 2.4 alarms are promised; none in its own series."""
    found = [limit(seed).threshold for seed in range(24)]
    others = sum(alarms((seed + 1) % 24, threshold) for seed, threshold in enumerate(found))
    assert sum(alarms(seed, threshold) for seed, threshold in enumerate(found)) == 0
    assert others <= 4 * FALSE_ALARMS * len(found)


def test_a_series_that_bends_is_over_the_threshold() -> None:
    """More than the filter's own noise explains. A straight ramp is none: the filter's rate follows it."""
    assert alarms(1, limit(1).threshold, per_s2=0.05) >= 1


def test_a_span_that_hardly_moves_tells_nothing() -> None:
    """A constant has no excursions, so nothing is made up."""
    n = 500
    time_ns = np.arange(n, dtype=np.int64) * 1_000_000_000
    row = settings_row(Q_TRUE, R_TRUE)
    assert drift_limit(np.full(n, kalman.ACCEPT, np.uint8), time_ns, np.full(n, 85.0), row) is None
    few = np.full(n, 85.0)
    few[::40] += 3.0
    assert len(few[::40]) < 2 * TAIL
    assert drift_limit(np.full(n, kalman.ACCEPT, np.uint8), time_ns, few, row) is None


@pytest.mark.parametrize("delta", [0.25, 0.5, 1.0])
def test_a_smaller_tolerance_needs_a_greater_threshold(delta: float) -> None:
    """The sums of more tolerance are smaller."""
    time_ns, z = wandering(4, 1000, Q_TRUE, R_TRUE)
    row, verdict = settings_row(Q_TRUE, R_TRUE), np.full(1000, kalman.ACCEPT, np.uint8)
    row[kalman.DRIFT_DELTA] = delta
    found = drift_limit(verdict, time_ns, z, row)
    row[kalman.DRIFT_DELTA] = 2.0 * delta
    more = drift_limit(verdict, time_ns, z, row)
    assert found is not None
    assert more is None or more.threshold < found.threshold
