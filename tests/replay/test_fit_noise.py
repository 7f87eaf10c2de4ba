"""Noise of a filter by maximum likelihood: against series whose noise is known, and against a brute search."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import multivariate_normal

from kernels import kalman
from plant import datasets
from replay.fit.interval import TooFewReadings
from replay.fit.noise import NoiseFit, fit_noise

Array = NDArray[np.float64]
Q_TRUE, R_TRUE = 1e-3, 0.25


def settings_row(q: float, r: float, white: bool = False, gate: float = 25.0) -> Array:
    """A row of settings in the filter's order."""
    s = np.full(kalman.SETTINGS, np.nan)
    s[[kalman.Q, kalman.R, kalman.WHITE, kalman.DOUBT_FACTOR]] = q, r, float(white), 10.0
    s[[kalman.INITIAL, kalman.GATE, kalman.LIMIT, kalman.DRIFT_DELTA, kalman.EXACT]] = 2.0 * r, gate, 5, 0.5, 0.0
    return s


def wandering(seed: int, n: int, q: float, r: float, white: bool = False) -> tuple[NDArray[np.int64], Array]:
    """Irregular times and readings of a state that moves as the filter supposes."""
    random = np.random.default_rng(seed)
    dt = random.uniform(0.2, 2.0, n)
    x, z = np.array([85.0, 0.0]), np.empty(n)
    for i, d in enumerate(dt):
        noise = np.array([[d**3 / 3, d**2 / 2], [d**2 / 2, d]]) if white else np.eye(2)
        x = np.array([x[0] + d * x[1], x[1]]) + random.multivariate_normal(np.zeros(2), q * noise)
        z[i] = x[0] + math.sqrt(r) * random.normal()
    return np.cumsum((dt * 1e9).astype(np.int64)), z


def fitted(time_ns: NDArray[np.int64], z: Array, verdict: Array | None = None, white: bool = False) -> NoiseFit:
    """The fit from settings that are far off."""
    codes = np.full(len(z), kalman.ACCEPT, np.uint8) if verdict is None else verdict.astype(np.uint8)
    return fit_noise(codes, time_ns, z, settings_row(1e-2, 2.0, white), 2.0)


def holds(fit: NoiseFit, q: float = Q_TRUE, r: float = R_TRUE) -> bool:
    """Whether both intervals hold the truth."""
    return fit.process.low <= q <= fit.process.high and fit.measurement.low <= r <= fit.measurement.high


@pytest.mark.parametrize("white", [False, True])
def test_it_finds_the_noise_of_a_series(white: bool) -> None:
    """900 readings at irregular times: both truths in their intervals, mean NIS from 0.2 to 1."""
    fit = fitted(*wandering(7, 900, Q_TRUE, R_TRUE, white), white=white)
    assert holds(fit)
    assert fit.nis_before < 0.3
    assert fit.nis_after == pytest.approx(1.0, abs=2e-3)
    assert fit.measurement.high / fit.measurement.low < 1.5


def test_gaps_bad_and_suspect_readings_do_not_mislead_it() -> None:
    """A hole of 100 s, a tenth of the readings failed and absurd, a tenth suspect with ten times the noise.

    With white acceleration: the other form adds q per update whatever the time, so leaving readings out changes it.
    """
    random = np.random.default_rng(6)
    time_ns, z = wandering(5, 1500, Q_TRUE, R_TRUE, white=True)
    verdict = random.choice([kalman.ACCEPT] * 8 + [kalman.PREDICT, kalman.DOUBT], len(z))
    suspect = verdict == kalman.DOUBT
    z[suspect] += math.sqrt(9.0 * R_TRUE) * random.normal(size=int(suspect.sum()))
    z[verdict == kalman.PREDICT] = random.choice(
        [np.nan, np.inf, 1e300, -4000.0], int((~suspect & (verdict != kalman.ACCEPT)).sum())
    )
    hole = (time_ns > time_ns[600]) & (time_ns < time_ns[600] + 100_000_000_000)
    fit = fitted(time_ns[~hole], z[~hole], verdict[~hole], white=True)
    assert holds(fit)
    assert fit.readings < 1400


def test_spikes_are_left_out_by_the_gate_at_the_noise_found() -> None:
    """A spike of 35 in a hundred readings does not become measurement noise, and the count of them is told."""
    time_ns, z = wandering(11, 1000, Q_TRUE, R_TRUE)
    z[50::100] += 35.0
    fit = fitted(time_ns, z)
    assert fit.left_out == 10
    assert holds(fit)


def test_a_step_is_a_new_start_and_no_process_noise() -> None:
    """The filter restarts after a step of 200 standard deviations; so does the likelihood."""
    time_ns, z = wandering(12, 1000, Q_TRUE, R_TRUE)
    z[500:] += 100.0
    assert holds(fitted(time_ns, z))


def test_no_process_noise_is_said_and_not_invented() -> None:
    """A straight line with noise: 0 is in the interval of q, the note says so, and r is found all the same."""
    random = np.random.default_rng(3)
    time_ns = np.arange(1, 501) * 1_000_000_000
    fit = fitted(time_ns, 85.0 + 0.01 * np.arange(500) + random.normal(0.0, 0.5, 500))
    assert fit.process.low == 0.0
    assert "0 " in fit.process.note
    assert 0.0 < fit.process.value <= fit.process.high < 1e-4
    assert fit.measurement.low < R_TRUE < fit.measurement.high


def test_no_measurement_noise_is_said_and_not_invented() -> None:
    """Readings without noise of a wandering state: 0 is in the interval of r and q is found all the same."""
    time_ns, z = wandering(4, 500, 0.05, 1e-14)
    fit = fitted(time_ns, z)
    assert fit.measurement.low == 0.0
    assert "0 " in fit.measurement.note
    assert fit.process.low < 0.05 < fit.process.high


def test_the_maximum_is_that_of_a_brute_search() -> None:
    """No pair on a fine grid around the maximum is likelier, by a density that scipy computes from one covariance."""
    time_ns, z = wandering(21, 60, 5e-3, 0.1)
    fit = fitted(time_ns, z)
    dt = np.diff(time_ns) / 1e9

    def log_density(q: float, r: float) -> float:
        n = len(dt)
        states = np.zeros((n, 2, 2 * n + 2))
        step = np.hstack([np.eye(2), np.zeros((2, 2 * n))])
        for i, d in enumerate(dt):
            step = np.array([[1.0, d], [0.0, 1.0]]) @ step
            step[:, 2 * i + 2 : 2 * i + 4] += np.eye(2)
            states[i] = step
        scale = np.full(2 * n + 2, q)
        scale[:2] = 2.0 * r
        h = states[:, 0, :]
        return float(multivariate_normal.logpdf(z[1:] - z[0], np.zeros(n), h * scale @ h.T + r * np.eye(n)))

    top = log_density(fit.process.value, fit.measurement.value)
    assert fit.log_likelihood == pytest.approx(top, rel=1e-9)
    factors = np.exp(np.linspace(-1.5, 1.5, 25))
    assert (
        max(log_density(fit.process.value * a, fit.measurement.value * b) for a in factors for b in factors)
        < top + 1e-3
    )
    for end in (fit.process.low, fit.process.high):
        best = max(log_density(end, fit.measurement.value * b) for b in np.exp(np.linspace(-1.0, 1.0, 401)))
        assert top - best == pytest.approx(1.9207, abs=0.02)


def test_tennessee_eastmans_normal_file_can_be_fitted() -> None:
    """The tags whose settings stand in plant/datasets.toml: a mean NIS of 1, and noise near what stands there."""
    data = datasets.load(datasets.DIRECTORY / "tennessee_eastman" / "d00_te.dat")
    time_ns = np.array([row.source_time_ns for row in data.rows])
    stated = {"xmeas_07": 1.8, "xmeas_08": 0.26, "xmeas_09": 4.3e-4, "xmeas_21": 9.8e-3, "xmv_10": 0.34}
    for tag, r in stated.items():
        z = np.array([row.values[data.tags.index(tag)] for row in data.rows])
        fit = fit_noise(np.full(len(z), kalman.ACCEPT, np.uint8), time_ns, z, settings_row(1e-9, r, True, np.nan), 2.0)
        assert fit.nis_after == pytest.approx(1.0, abs=2e-3)
        assert r / 2.0 < fit.measurement.value < 2.0 * r


@pytest.mark.parametrize("n", [0, 1, 30])
def test_too_few_readings_are_an_error_that_says_how_many(n: int) -> None:
    """A variance is not guessed from thirty readings."""
    time_ns, z = wandering(1, 40, Q_TRUE, R_TRUE)
    with pytest.raises(TooFewReadings, match=f"^{n} usable readings, at least 31 are needed"):
        fitted(time_ns[:n], z[:n])


def test_readings_that_never_change_are_an_error() -> None:
    """There is no likelihood of a variance of 0."""
    with pytest.raises(ValueError, match="never change"):
        fitted(np.arange(100) * 1_000_000_000, np.full(100, 85.0))
