"""The z-score that carried sums decide is that of two passes over the window, to the last bit of the verdict."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kernels import validation_history as history
from kernels.stage import readonly
from kernels.validation_params import LIMITS
from kernels.validation_series import IN_SEQUENCE, Verdicts

Floats = NDArray[np.float64]
READINGS, LIMIT = 400, 3.0
ROW = readonly(np.zeros(1, np.int64))


def limits(window: int) -> Floats:
    """The z-score alone, after two values; a history that restarts after five."""
    table = np.full((1, len(LIMITS)), np.nan)
    table[0, [history.ZSCORE_LIMIT, history.ZSCORE_WINDOW, history.ZSCORE_MIN, history.RESTART_AFTER]] = (
        LIMIT, window, 2, 5,
    )  # fmt: skip
    return readonly(table)


def nothing_yet() -> history.History:
    """One tag without a history."""
    columns = {name: np.full((1, *spec.shape), spec.initial, spec.dtype) for name, spec in history.COLUMNS.items()}
    return history.History(*(columns[name] for name in history.History._fields))


def spoken(values: Floats, window: int, past: history.History) -> NDArray[np.bool_]:
    """Where the z-score speaks in one frame of these values."""
    n = len(values)
    verdicts = Verdicts(np.zeros(n, np.uint32), np.zeros(n, np.uint8), np.full(n, IN_SEQUENCE, np.uint8))
    with np.errstate(over="ignore", invalid="ignore"):
        history.test_history(readonly(np.zeros(n, "<u2")), readonly(values), ROW, limits(window), past, verdicts)
    return (verdicts.tests & history.ZSCORE) != 0


def two_passes(value: float, window: int, past: history.History) -> bool:
    """Whether the z-score of the two passes speaks."""
    with np.errstate(over="ignore", invalid="ignore"):
        mean, std = history.spread(past, 0, limits(window)[0])
        return history.zscore_flag(value, mean, std, LIMIT) == history.SUSPECT


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    window=st.integers(2, 100),
    level=st.sampled_from([0.0, 1.0, 80.0, -2.5e6, 1e9, 1e150, 1e300]),
    noise=st.sampled_from([1e-6, 1e-3, 0.3, 1e3, 1e145, 1e298]),
)
def test_values_at_the_limit_are_judged_by_two_passes(seed: int, window: int, level: float, noise: float) -> None:
    """A third of the values lie within rounding of the limit, some are steps: every verdict is that of two passes."""
    rng = np.random.default_rng(seed)
    past, values, expected = nothing_yet(), [], []
    for _ in range(READINGS):
        kind = rng.integers(0, 9)
        value = level + noise * rng.normal()
        if kind < 3 and past.history_size[0] >= 2:
            mean, std = history.mean_std(past, 0, window)
            with np.errstate(over="ignore", invalid="ignore"):
                value = (mean + rng.choice((-1, 1)) * LIMIT * std) * (1.0 + rng.integers(-4, 5) * 2.0**-53)
        elif rng.random() < 0.01:
            level += 10.0 * noise
        value = float(np.nan_to_num(value, posinf=1e308, neginf=-1e308))
        expected.append(two_passes(value, window, past))
        values.append(value)
        spoken(np.array([value]), window, past)
    whole = nothing_yet()
    assert spoken(np.array(values), window, whole).tolist() == expected
    assert whole.history.tobytes() == past.history.tobytes()


def test_carried_sums_decide_nearly_all_of_a_plants_readings() -> None:
    """At rest and near the middle of its window a reading needs no second look."""
    rng = np.random.default_rng(1)
    past = nothing_yet()
    spoken(80.0 + 0.1 * rng.normal(size=200), 100, past)
    sums = np.zeros((1, history.SUMS))
    history.make_sums(past, 0, 100, sums)
    off = 80.0 + 0.1 * np.linspace(-2.0, 2.0, 9) - sums[0, history.CENTRE]
    names = (history.SUM, history.SQUARES, history.COUNT, history.CENTRE, history.REACH)
    total, squares, n, centre, reach = (float(sums[0, name]) for name in names)
    assert all(history.surely_good(float(o), total, squares, n, centre, reach, LIMIT) for o in off)
    assert not history.surely_good(float(off[0]) - 10.0, total, squares, n, centre, reach, LIMIT)
    assert n == pytest.approx(100)
