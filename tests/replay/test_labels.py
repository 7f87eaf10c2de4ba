"""Labelled windows against what was signalled: every edge of a window and of a run."""

import math
from pathlib import Path

import numpy as np
import pytest

from plant.datasets import DIRECTORY, NAB_WINDOWS, load
from replay.results.finished import ResultError
from replay.score import labels
from replay.score.labels import Signalled, Window, detect, merged, runs_of
from replay.score.moments import shown

S = 1_000_000_000
SPAN = (0, 100 * S)


def signalled(*seconds: int, every: int = 1) -> Signalled:
    """Readings once per second from 0 to 100 s, those at `seconds` signal."""
    time_ns = np.arange(0, 101, every, dtype=np.int64) * S
    on = np.isin(time_ns, np.array(seconds, np.int64) * S)
    return Signalled(time_ns[on], runs_of(time_ns, on))


def window(start_s: float, end_s: float, tag: str = "") -> Window:
    """A window in seconds."""
    return Window(start_ns=round(start_s * S), end_ns=round(end_s * S), tag=tag)


def test_runs_are_neighbours_and_those_that_are_near_merge() -> None:
    """A reading that does not signal ends a run; runs at most `merge_ns` apart are one."""
    time_ns = np.arange(8, dtype=np.int64) * S
    on = np.array([1, 1, 0, 1, 0, 0, 0, 1], np.bool_)
    assert runs_of(time_ns, on).tolist() == [[0, S], [3 * S, 3 * S], [7 * S, 7 * S]]
    assert runs_of(time_ns, on, 2 * S).tolist() == [[0, 3 * S], [7 * S, 7 * S]]
    assert runs_of(time_ns, np.zeros(8, np.bool_)).shape == (0, 2)
    assert merged(np.array([[5, 9], [0, 20], [30, 31]], np.int64)).tolist() == [[0, 20], [30, 31]]


def test_delay_is_the_first_signal_inside_minus_the_start_and_both_ends_belong_to_the_window() -> None:
    """Signals at the very start and at the very end of a window are inside; a nanosecond later is not."""
    found = detect({"t": signalled(10, 40)}, [window(10, 20), window(35, 40), window(40.000000001, 50)], SPAN)
    assert [w.delay_s for w in found.windows[:2]] == [0.0, 5.0]
    assert math.isnan(found.windows[2].delay_s)
    assert (found.detected, found.false_alarms) == (2, 0)
    assert found.recall == pytest.approx(2 / 3)
    assert found.precision == 1.0


def test_a_run_that_began_before_the_window_is_a_false_alarm_and_the_window_says_so() -> None:
    """It still is a detection, with `already_on`; one that begins inside and lasts beyond the end is no false alarm."""
    found = detect({"t": signalled(8, 9, 10, 11, 20, 21, 22)}, [window(10, 20)], SPAN)
    assert found.windows[0].delay_s == 0.0
    assert found.windows[0].already_on
    assert found.false_alarms == 1
    late = detect({"t": signalled(20, 21, 22)}, [window(10, 20)], SPAN)
    assert late.false_alarms == 0
    assert not late.windows[0].already_on


def test_false_alarms_per_day_count_only_the_time_outside_of_windows() -> None:
    """Overlapping windows are not counted twice, and what of a window lies beyond the data is not counted at all."""
    found = detect({"t": signalled(90)}, [window(-50, 20), window(10, 30), window(200, 300)], SPAN)
    assert found.outside_days == pytest.approx(70 / 86_400)
    assert found.false_alarms_per_day == pytest.approx(86_400 / 70)
    assert (len(found.windows), found.beyond) == (2, 1)
    assert found.recall == 0.0


def test_recall_by_chance_is_that_of_a_poisson_process() -> None:
    """Alarms as often as the false ones, at random: 1 − exp(−rate · length), over the windows that the data reach."""
    found = detect({"t": signalled(60, 70, 80, 90)}, [window(0, 20), window(20, 50), window(200, 300)], SPAN)
    rate = 4 / 50
    assert found.by_chance == pytest.approx((2 - math.exp(-20 * rate) - math.exp(-30 * rate)) / 2)
    assert detect({"t": signalled()}, [window(0, 20)], SPAN).by_chance == 0.0


def test_labels_of_the_data_sets_are_what_their_readers_know() -> None:
    """NAB's windows, and from row 161 to the last of a file with a fault."""
    (nab,) = DIRECTORY.glob("nab/labels.csv")
    times = [(shown(w.start_ns), shown(w.end_ns)) for w in labels.read(nab)]
    assert times == [tuple(pair) for pair in NAB_WINDOWS]
    (eastman,) = DIRECTORY.glob("tennessee_eastman/labels.csv")
    for window_ in labels.read(eastman):
        (path,) = (DIRECTORY / "tennessee_eastman").glob(f"d{window_.asset.removeprefix('TE')}_te.dat")
        faulty = [row.source_time_ns for row in load(path).rows if row.fault is not None]
        assert (window_.start_ns, window_.end_ns) == (faulty[0], faulty[-1])


def test_a_window_of_one_tag_is_not_detected_by_another_nor_excuses_it() -> None:
    """Of an asset: only the tag's own signals, and alerts that name no tag, detect a tag's window."""
    windows = [window(10, 20, tag="a")]
    other = detect({"a": signalled(), "b": signalled(15)}, windows, SPAN)
    assert (other.detected, other.false_alarms) == (0, 1)
    own = detect({"a": signalled(15), "b": signalled(15)}, windows, SPAN)
    assert (own.detected, own.false_alarms) == (1, 1)
    nobody = detect({"a": signalled(), "": signalled(15)}, windows, SPAN)
    assert (nobody.detected, nobody.false_alarms) == (1, 0)


def test_alarms_of_several_tags_at_the_same_time_are_one_of_the_asset() -> None:
    """Runs that overlap count once."""
    assert detect({"a": signalled(1, 2, 3), "b": signalled(2, 3, 4), "c": signalled(50)}, [], SPAN).false_alarms == 2


def test_nothing_signalled_and_no_windows_give_no_figures() -> None:
    """Shares of nothing are NaN, not 0 and not 1; data of one moment have no days."""
    found = detect({"t": signalled()}, [], (5, 5))
    assert all(math.isnan(x) for x in (found.precision, found.recall, found.false_alarms_per_day))
    assert found.false_alarms == 0


def test_windows_are_read_with_any_of_the_optional_columns(tmp_path: Path) -> None:
    """ISO with and without zone, numbers of any magnitude; empty asset and tag mean all."""
    file = tmp_path / "labels.csv"
    file.write_text(
        "name,start,end,tag\nx,1970-01-01 00:00:10,1970-01-01T01:00:20.5+01:00,\ny, 10 ,1700000000123,t\n", "utf-8"
    )
    first, second = labels.read(file)
    assert (first.start_ns, first.end_ns, first.tag, first.name) == (10 * S, 20 * S + S // 2, "", "x")
    assert (second.start_ns, second.end_ns, second.tag) == (10 * S, 1_700_000_000_123_000_000, "t")
    assert labels.of([first, second], "R1", "other") == (first,)
    assert labels.of([first, second], "R1") == (first, second)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("begin,end\n", "columns missing: start"),
        ("", "columns missing: start, end"),
        ("start,end\n2020-01-02,2020-01-01\n", "line 2: end 2020-01-01 is before start 2020-01-02"),
        ("start,end\nsoon,2020-01-01\n", "line 2: time 'soon'"),
    ],
)
def test_what_is_no_label_file_is_told_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    """The message names file, line and what is allowed."""
    file = tmp_path / "labels.csv"
    file.write_text(text, "utf-8")
    with pytest.raises(ResultError, match=said):
        labels.read(file)
