"""What estimates are measured against: files of truth, and the smoother where there is none."""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from kernels import kalman
from kernels.estimation_params import EstimationParams
from plant.journal import Journal
from plant.samples import Sample
from replay.results.finished import ResultError
from replay.score import truth
from replay.score.moments import moment_ns, shown
from replay.score.truth import Line, smoothed
from tests.replay.made_runs import SECOND_NS, START_NS, settings

ROW = EstimationParams(settings()).table("R101", ("temperature",), ("degC",))[0]


def test_truth_is_exact_at_its_points_and_straight_between_them() -> None:
    """Also at times that a float64 cannot tell apart; nothing before the first nor after the last point."""
    line = Line(np.array([START_NS, START_NS + 100]), np.array([1.0, 2.0]))
    assert line.at(np.array([START_NS, START_NS + 25, START_NS + 100])).tolist() == [1.0, 1.25, 2.0]
    assert np.isnan(line.at(np.array([START_NS - 1, START_NS + 101]))).all()
    assert np.isnan(Line(np.empty(0, np.int64), np.empty(0)).at(np.array([START_NS]))).all()


def test_truth_is_read_from_csv_parquet_and_journal_alike(tmp_path: Path) -> None:
    """The same points from each; of two truths of one time the last counts, and one without a number not at all."""
    rows = pd.DataFrame(
        {
            "asset": ["R1"] * 4,
            "tag": ["t"] * 4,
            "time": ["2023-11-14T22:13:21Z", "2023-11-14 22:13:20", "2023-11-14T22:13:20.000000000Z", "1700000002"],
            "value": [2.0, 9.0, 1.0, math.nan],
        }
    )
    rows.to_csv(tmp_path / "truth.csv", index=False)
    stamps = pd.to_datetime([moment_ns(text) for text in rows["time"]], utc=True)
    rows.assign(time=stamps).to_parquet(tmp_path / "truth.parquet")
    with Journal(tmp_path / "journal.jsonl") as journal:
        journal.event({"event": "started"})
        for text, value in zip(rows["time"], rows["value"], strict=True):
            known = None if math.isnan(value) else value
            sample = Sample(
                asset="R1", tag="t", unit="", protocol="mqtt", source_time_ns=moment_ns(text), value=5.0, truth=known
            )
            journal.reading(sample, START_NS)
    for name in ("truth.csv", "truth.parquet", "journal.jsonl"):
        line = truth.read(tmp_path / name).lines["R1", "t"]
        assert line.time_ns.tolist() == [START_NS, START_NS + SECOND_NS], name
        assert line.value.tolist() == [1.0, 2.0], name


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("asset,tag,value\nR1,t,1\n", "columns missing: time"),
        ("asset,tag,time,value\nR1,t,soon,1\n", "time 'soon'"),
        ("asset,tag,time,value\nR1,t,1700000000,warm\n", "warm"),
        ("", "is empty"),
    ],
)
def test_what_is_no_truth_is_told(tmp_path: Path, text: str, said: str) -> None:
    """One sentence with the file and what is wrong."""
    (tmp_path / "truth.csv").write_text(text, "utf-8")
    with pytest.raises(ResultError, match=said):
        truth.read(tmp_path / "truth.csv")


def test_times_keep_their_nanoseconds() -> None:
    """ISO with nine digits, any zone, and numbers by magnitude."""
    assert moment_ns("2023-11-14T22:13:20.123456789Z") == START_NS + 123_456_789
    assert moment_ns("2023-11-14T23:13:20,5+01:00") == START_NS + SECOND_NS // 2
    for number in ("1700000000", "1700000000000", "1700000000000000", "1700000000000000000", "1.7e9"):
        assert moment_ns(number) == START_NS
    assert shown(START_NS) == "2023-11-14 22:13:20"


def test_smoother_is_the_kernels_own() -> None:
    """On readings without a gap: what `filter_series` and `smooth` give, whatever the order they come in."""
    rng = np.random.default_rng(5)
    n = 40
    time_ns = START_NS + np.cumsum(rng.integers(1, 5 * SECOND_NS, n))
    value = 80.0 + rng.normal(0.0, 0.7, n)
    dt_s = np.diff(time_ns, prepend=time_ns[0]) / 1e9
    z = np.concatenate(([math.nan], value[1:]))
    q, r, x, p = ROW[kalman.Q], ROW[kalman.R], np.array([value[0], 0.0]), np.eye(2) * ROW[kalman.INITIAL]
    expected = kalman.smooth(dt_s, kalman.filter_series(dt_s, z, q, r, False, x, p), q, False)
    shuffled = rng.permutation(n)
    found = smoothed(time_ns[shuffled], value[shuffled], np.ones(n, np.bool_), ROW)
    np.testing.assert_allclose(found.value, expected[shuffled, 0], rtol=1e-12)
    np.testing.assert_allclose(found.std, np.sqrt(expected[shuffled, 2]), rtol=1e-12)


def test_smoother_bridges_what_was_not_accepted_and_has_nothing_before_the_first() -> None:
    """A spike that was not accepted does not move it; its own time has a value; before any accepted there is none."""
    time_ns = START_NS + np.arange(30) * SECOND_NS
    value = np.full(30, 5.0)
    value[[0, 12]] = 1e6
    accepted = np.ones(30, np.bool_)
    accepted[[0, 12]] = False
    found = smoothed(time_ns, value, accepted, ROW)
    assert math.isnan(found.value[0])
    np.testing.assert_allclose(found.value[1:], 5.0, rtol=1e-9)
    assert found.std[12] > found.std[6]
    nothing = smoothed(time_ns, value, np.zeros(30, np.bool_), ROW)
    assert np.isnan(nothing.value).all()
    assert smoothed(time_ns[:0], value[:0], accepted[:0], ROW).value.shape == (0,)


def test_a_set_point_is_its_own_reference() -> None:
    """It is known exactly and holds until it changes."""
    row = EstimationParams(settings()).table("R101", ("temperature.sv",), ("degC",))[0]
    value = np.array([80.0, 85.0, math.nan, 90.0])
    found = smoothed(START_NS + np.arange(4) * SECOND_NS, value, np.isfinite(value), row)
    assert found.value.tolist() == [80.0, 85.0, 85.0, 90.0]
    assert found.std.tolist() == [0.0] * 4


def test_a_broken_journal_is_told(tmp_path: Path) -> None:
    """A line that is no JSON."""
    (tmp_path / "j.jsonl").write_text(json.dumps({"event": "x"}) + "\n{", "utf-8")
    with pytest.raises(ResultError, match="cannot be read"):
        truth.read(tmp_path / "j.jsonl")
