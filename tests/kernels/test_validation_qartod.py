"""Validation against `ioos_qc.qartod`, on random series and on the real data sets, wherever both have a test.

Known differences, each shown by a test here: theirs calls what is no number MISSING (9), ours FAIL (4), as it did
arrive; theirs works in whole seconds; its flat line test looks ahead (it takes the median interval of the whole series)
and calls a lone number flat. Their spike test is another one (it needs the next reading), so it has no counterpart.
"""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ioos_qc import qartod
from numpy.typing import NDArray

from kernels.validation_series import CHAIN
from plant.datasets import DIRECTORY, load
from runtime.config import Plant
from schemas.quality import Flag, Test
from tests.kernels.frame_strategies import SECOND, T0, Reading, frame_of, run

Values = NDArray[np.float64]
FILES = ("tennessee_eastman/d00_te.dat", "tennessee_eastman/d04_te.dat", "tennessee_eastman/d13_te.dat")
NAB = "nab/machine_temperature_system_failure.csv"


def validated(values: Values, seconds: Values, tag: str = "level", **tests: Any) -> Any:
    """One tag's series (values, times in s) through validation with only these tests on."""
    off = {"zscore_limit": "off", "spike_percent": "off", "ahead_limit_s": "off"}
    plant = Plant(tags={"*": {"kind": "other", "validation": {**off, **tests}}})
    readings = [
        Reading(tag=tag, unit="", value=v, source_ns=T0 + round(s * SECOND))
        for v, s in zip(values.tolist(), seconds.tolist(), strict=True)
    ]
    return run("validation", [frame_of(readings)], plant)[1][0]


def said(flags: Any) -> NDArray[np.int64]:
    """Flags with 1 for everything that is neither suspect nor failed."""
    found = np.asarray(flags).astype(np.int64)
    return np.where((found == Flag.SUSPECT) | (found == Flag.FAIL), found, 1)


def walks(seed: int, n: int = 300, holes: float = 0.05) -> Values:
    """A random walk in steps of 0.25 with flat stretches and some NaN."""
    rng = np.random.default_rng(seed)
    values = 50 + np.cumsum(rng.choice([-0.25, 0.0, 0.0, 0.25, 1.0, -1.0], n) * (rng.random(n) < rng.random()))
    return np.where(rng.random(n) < holes, np.nan, values)


def real_series() -> list[tuple[str, Values, Values]]:
    """Name, values and times in s of every series of the data sets; NAB without the hour that its file has twice."""
    found = []
    for name in (*FILES, NAB):
        data = load(DIRECTORY / name)
        times = np.array([row.source_time_ns for row in data.rows])
        first = np.r_[True, times[1:] > np.maximum.accumulate(times)[:-1]]
        seconds = (times - times[0])[first] / 1e9
        values = np.array([row.values for row in data.rows])[first]
        found += [(f"{data.asset}/{tag}", values[:, i], seconds) for i, tag in enumerate(data.tags)]
    return found


REAL = real_series()


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32), st.tuples(*[st.floats(40, 60)] * 4).map(sorted))
def test_range_on_random_series(seed: int, ends: list[float]) -> None:
    """gross_range_test gives the same flags, at the ends of the spans too; NaN is 9 there and 4 here."""
    fail_low, suspect_low, suspect_high, fail_high = ends
    values = np.r_[walks(seed), ends]
    if fail_low == fail_high or suspect_low == suspect_high:
        return
    spans: Any = {"fail_span": (fail_low, fail_high), "suspect_span": (suspect_low, suspect_high)}
    theirs = np.asarray(qartod.gross_range_test(values, **spans))
    ours = validated(values, np.arange(len(values)), **spans)
    numbers = np.isfinite(values)
    assert ours.flag[numbers].tolist() == theirs[numbers].tolist()
    assert set(theirs[~numbers].tolist()) <= {9}
    assert set(ours.flag[~numbers].tolist()) <= {4}


def test_range_and_rate_on_the_data_sets() -> None:
    """gross_range_test and rate_of_change_test give the same flags on every series of the data sets."""
    different = []
    spoken = np.zeros(5, np.int64)
    for name, values, seconds in REAL:
        low, q1, q3, high = np.quantile(values, (0.01, 0.05, 0.95, 0.99)).tolist()
        if low == high:
            continue
        spans: Any = {"fail_span": (low, high), "suspect_span": (q1, q3)} if q1 < q3 else {"fail_span": (low, high)}
        theirs = np.asarray(qartod.gross_range_test(values, **spans))
        steps = np.abs(np.diff(values) / np.diff(seconds))
        suspect, fail = (float(q) for q in np.quantile(steps[steps > 0], (0.9, 0.99)))
        rates = np.asarray(qartod.rate_of_change_test(values, at(seconds), suspect, fail))
        ours = validated(values, seconds, **spans)
        rated = validated(values, seconds, rate_suspect_per_s=suspect, rate_fail_per_s=fail)
        if ours.flag.tolist() != theirs.tolist() or said(rated.flag).tolist() != said(rates).tolist():
            different.append(name)
        spoken += np.bincount(theirs, minlength=5)[:5] + np.bincount(rates, minlength=5)[:5]
    assert different == []
    assert (spoken[[1, 3, 4]] > 1000).all()


def at(seconds: Values) -> NDArray[np.datetime64]:
    """Times as ioos_qc takes them."""
    return np.datetime64(T0, "ns") + (seconds * 1e9).astype("timedelta64[ns]")


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 100))
def test_rate_on_random_series(seed: int, longest: int) -> None:
    """rate_of_change_test gives the same flags at irregular whole seconds; next to NaN neither is evaluated."""
    values = walks(seed)
    seconds = np.cumsum(np.random.default_rng(seed).integers(1, longest + 1, len(values))).astype(float)
    steps = np.abs(np.diff(values) / np.diff(seconds))
    steps = steps[np.isfinite(steps) & (steps > 0)]
    if len(steps) == 0:
        return
    suspect, fail = (float(q) for q in np.quantile(steps, (0.5, 0.8)))
    theirs = np.asarray(qartod.rate_of_change_test(values, at(seconds), suspect, fail))
    ours = validated(values, seconds, rate_suspect_per_s=suspect, rate_fail_per_s=fail)
    numbers = np.isfinite(values)
    assert said(ours.flag)[numbers].tolist() == said(theirs)[numbers].tolist()


def lone(values: Values, count: int) -> NDArray[np.bool_]:
    """Numbers that are alone in the window of the last count + 1 readings."""
    finite = np.isfinite(values)
    return np.array([finite[max(0, i - count) : i + 1].sum() == 1 for i in range(len(values))]) & finite


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    interval_s=st.sampled_from([1, 5, 60]),
    counts=st.tuples(st.integers(1, 40), st.integers(1, 40)).map(sorted),
    tolerance=st.sampled_from([0.1, 0.25, 0.5, 1.1, 3.0]),
    holes=st.sampled_from([0.0, 0.05, 0.6]),
)
def test_flat_line_on_random_series(
    seed: int, interval_s: int, counts: list[int], tolerance: float, holes: float
) -> None:
    """flat_line_test gives the same flags on regular series with holes, except where a number is alone in the span."""
    values = walks(seed, holes=holes)
    seconds = np.arange(len(values)) * float(interval_s)
    suspect, fail = (count * interval_s for count in counts)
    theirs = said(qartod.flat_line_test(values, at(seconds), suspect, fail, tolerance))
    ours = said(validated(values, seconds, flat_tolerance=tolerance, flat_suspect_s=suspect, flat_fail_s=fail).flag)
    alone = lone(values, counts[1])
    numbers = np.isfinite(values) & ~alone & ~lone(values, counts[0])
    assert ours[numbers].tolist() == theirs[numbers].tolist()
    assert set(ours[alone].tolist()) <= {1}


def test_flat_line_on_the_data_sets() -> None:
    """flat_line_test gives the same flags on every series of the data sets, spans of 3 to 500 readings."""
    different, flagged = [], 0
    for name, values, seconds in REAL:
        interval_s = int(seconds[1])
        for short, long, share in ((3, 10, 0.05), (50, 500, 0.8)):
            tolerance = float(share * (values.max() - values.min()))
            if tolerance == 0.0:
                continue
            theirs = qartod.flat_line_test(values, at(seconds), short * interval_s, long * interval_s, tolerance)
            spans: Any = {"flat_suspect_s": short * interval_s, "flat_fail_s": long * interval_s}
            ours = validated(values, seconds, flat_tolerance=tolerance, **spans)
            if said(ours.flag).tolist() != said(theirs).tolist():
                different.append((name, short))
            flagged += int((np.asarray(theirs) > 1).sum())
    assert different == []
    assert flagged > 1000


def flat_by_definition(values: Values, seconds: Values, span_s: float, tolerance: float) -> NDArray[np.bool_]:
    """Brute force: the span is covered, holds two numbers at least, and they lie within the tolerance."""
    found = np.zeros(len(values), bool)
    for i in np.flatnonzero(np.isfinite(values)):
        inside = values[: i + 1][(seconds[: i + 1] >= seconds[i] - span_s) & np.isfinite(values[: i + 1])]
        covered = seconds[0] <= seconds[i] - span_s
        found[i] = covered and len(inside) > 1 and inside.max() - inside.min() < tolerance
    return found


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), span_s=st.integers(1, 400), tolerance=st.sampled_from([0.25, 0.6, 2.0]))
def test_flat_line_at_irregular_times(seed: int, span_s: int, tolerance: float) -> None:
    """At any times, ours is the definition: range over [t − S, t] below the tolerance."""
    values = walks(seed)
    seconds = np.cumsum(np.random.default_rng(seed).integers(1, 30, len(values))).astype(float)
    ours = validated(values, seconds, flat_tolerance=tolerance, flat_suspect_s=span_s)
    assert ((ours.tests & Test.FLAT_LINE) != 0).tolist() == flat_by_definition(
        values, seconds, span_s, tolerance
    ).tolist()


def test_a_long_creep_blurs_the_tolerance_by_no_more_than_promised() -> None:
    """Thousands of numbers creeping within one tolerance: never flat where it is not, and flat just below the blur."""
    seconds = np.arange(6000.0)
    values = np.r_[np.linspace(0.0, 3.0, 3000), np.linspace(3.0, 2.0, 3000)]
    blur = 2 / (CHAIN - 2)
    for span_s in (100, 700, 1500):
        ours = validated(values, seconds, flat_tolerance=0.5, flat_suspect_s=span_s).tests != 0
        exact = flat_by_definition(values, seconds, span_s, 0.5)
        narrower = flat_by_definition(values, seconds, span_s, 0.5 * (1 - blur))
        assert not (ours & ~exact).any()
        assert not (narrower & ~ours).any()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32))
def test_the_worst_test_wins_as_in_qartod(seed: int) -> None:
    """The flag of a reading is qartod_compare of the flags its tests give alone (FAIL, SUSPECT, GOOD, unknown)."""
    values = walks(seed, holes=0.0)
    seconds = np.arange(len(values), dtype=float)
    tests: list[dict[str, Any]] = [
        {"fail_span": (40, 60), "suspect_span": (45, 55)},
        {"rate_suspect_per_s": 0.3, "rate_fail_per_s": 0.9},
        {"flat_tolerance": 0.3, "flat_suspect_s": 5, "flat_fail_s": 20},
    ]
    alone = [validated(values, seconds, **test).flag for test in tests]
    together = validated(values, seconds, **{k: v for test in tests for k, v in test.items()})
    assert together.flag.tolist() == np.asarray(qartod.qartod_compare(alone)).tolist()


def test_the_hour_that_nab_has_twice_is_late_and_complete() -> None:
    """NAB's file repeats an hour with other values: those twelve are late, each with an ordinal, none dropped."""
    data = load(DIRECTORY / NAB)
    readings = [Reading(source_ns=row.source_time_ns, value=row.values[0]) for row in data.rows]
    _, (out,) = run("validation", [frame_of(readings)], Plant())
    late = (out.tests & Test.LATE) != 0
    assert (len(out), out.repeated, int(late.sum())) == (len(data.rows), 0, 12)
    assert out.ordinal[late].tolist() == [1] * 12
    assert out.ordinal.sum() == 12
    assert out.value.tobytes() == np.array([r.value for r in readings]).tobytes()


@pytest.mark.parametrize("name", FILES)
def test_tennessee_eastman_comes_through_complete(name: str) -> None:
    """Every value of the file comes out once, bit-equal, in its order, and none of them is BAD."""
    data = load(DIRECTORY / name)
    readings = [
        Reading(tag=tag, unit=unit, source_ns=row.source_time_ns, value=value)
        for row in data.rows
        for tag, unit, value in zip(data.tags, data.units, row.values, strict=True)
    ]
    _, (out,) = run("validation", [frame_of(readings)], Plant())
    assert out.value.tobytes() == np.array([r.value for r in readings]).tobytes()
    assert not np.isin(out.flag, (Flag.FAIL, Flag.MISSING)).any()
