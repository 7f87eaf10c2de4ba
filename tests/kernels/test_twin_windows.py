"""Closed windows against plain arithmetic over the same readings."""

import numpy as np

from kernels import twin
from kernels.twin_params import TwinParams
from schemas.frames import EstimateFrame, empty_columns
from schemas.quality import Flag, Test
from schemas.records import Window
from tests.kernels.estimation_frames import SECOND_NS, START_NS, R, estimates, heartbeat, settings


def _windows(readings: list[R], sizes: list[float], beat_s: float | None = None) -> list[Window]:
    params = TwinParams(settings(twin={"windows_s": sizes}))
    state, record, _ = twin.STAGE.step(twin.initial("R101"), estimates(readings), params)
    assert record is not None
    found = list(record.windows)
    if beat_s is not None:
        time_ns = heartbeat(beat_s, seq=1).time_ns
        beat = EstimateFrame(
            asset="R101",
            source="mqtt-1",
            epoch=1,
            seq=1,
            kind="heartbeat",
            time_ns=time_ns,
            **empty_columns(EstimateFrame),
        )
        _, record, _ = twin.STAGE.step(state, beat, params)
        assert record is not None
        found += record.windows
    return found


def test_windows_are_those_of_plain_arithmetic() -> None:
    """Mean, min, max and count per tag and size equal numpy's over the readings of each whole window."""
    rng = np.random.default_rng(9)
    times = np.sort(rng.uniform(0.0, 60.0, 400)).round(6)
    tags = rng.choice(["temperature", "level"], 400)
    values = rng.normal(50.0, 3.0, 400)
    readings = [R(t, v, tag) for t, v, tag in zip(times, values, tags, strict=True)]
    found = {(w.tag, w.window_s, w.start_ns): w for w in _windows(readings, [1.0, 5.0])}
    whole_ns = np.array([START_NS + round(t * 1e9) for t in times])
    for tag in ("temperature", "level"):
        for size_s in (1, 5):
            starts = whole_ns - whole_ns % (size_s * SECOND_NS)
            mine = tags == tag
            for start in np.unique(starts[mine])[:-3]:
                inside = values[mine & (starts == start)]
                window = found.pop((tag, float(size_s), int(start)))
                assert window.count == len(inside)
                np.testing.assert_allclose(
                    (window.mean, window.min, window.max), (inside.mean(), inside.min(), inside.max())
                )
    assert all(w.start_ns >= START_NS + 40 * SECOND_NS for w in found.values())


def test_there_are_none_unless_asked_for() -> None:
    """Without `windows_s` no window is closed."""
    assert _windows([R(float(i), 85.0) for i in range(100)], [], beat_s=1000.0) == []


def test_only_accepted_readings_count() -> None:
    """Suspect, bad and late readings are left out."""
    readings = [
        R(0.1, 85.0),
        R(0.2, 200.0, flag=Flag.SUSPECT),
        R(0.3, 500.0, flag=Flag.FAIL),
        R(0.05, 0.0, flag=Flag.SUSPECT, tests=Test.LATE),
        R(0.4, 87.0, flag=Flag.NOT_EVALUATED),
        R(1.0, 85.0),
    ]
    (window,) = _windows(readings, [1.0])
    assert (window.count, window.mean, window.min, window.max) == (2, 86.0, 85.0, 87.0)


def test_a_silent_tag_closes_one_window_later() -> None:
    """A tag that falls silent has its window closed when the asset's time is a whole window beyond its end."""
    silent = [R(0.5, 7.0, "ph", "pH")]
    assert _windows([*silent, R(1.5, 85.0)], [1.0]) == []
    (window,) = _windows([*silent, R(1.5, 85.0), R(2.0, 85.0)], [1.0])[:1]
    assert window.tag == "temperature"
    both = _windows([*silent, R(2.0, 85.0)], [1.0])
    assert [(w.tag, w.count) for w in both] == [("ph", 1)]


def test_time_passing_closes_windows() -> None:
    """A heartbeat closes what is over by then, once; what comes for a closed window does not open it again."""
    found = _windows([R(0.5, 85.0), R(0.6, 86.0)], [1.0], beat_s=30.0)
    assert [(w.start_ns - START_NS, w.count) for w in found] == [(0, 2)]
    readings = [R(0.5, 85.0), R(3.0, 7.0, "ph", "pH"), R(0.9, 86.0), R(1.1, 87.0), R(2.1, 88.0)]
    found = [w for w in _windows(readings, [1.0], beat_s=30.0) if w.tag == "temperature"]
    assert [(w.start_ns - START_NS, w.count) for w in found] == [(0, 1), (SECOND_NS, 1), (2 * SECOND_NS, 1)]


def test_other_sizes_start_anew() -> None:
    """A state made with other window sizes is taken; its open windows are forgotten, not mixed up."""
    before, after = (TwinParams(settings(twin={"windows_s": [size]})) for size in (60.0, 1.0))
    state, _, _ = twin.STAGE.step(twin.initial("R101"), estimates([R(float(i), 85.0) for i in range(5)]), before)
    _, record, _ = twin.STAGE.step(state, estimates([R(5.0, 90.0), R(6.0, 91.0)], seq=1), after)
    assert record is not None
    assert [(w.window_s, w.start_ns - START_NS, w.count, w.mean) for w in record.windows] == [
        (1.0, 5 * SECOND_NS, 1, 90.0)
    ]
