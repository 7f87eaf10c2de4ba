"""What the report of `bench.detection` says in words, of scores whose truth is known."""

import math
from types import SimpleNamespace
from typing import Any

from bench import detection_report as report
from replay.score.labels import Detection, Found

HOUR_S = 3600.0
DRIFT, SPIKE = ("drift",), ("spike",)


def window(name: str, delay_s: float, *, already_on: bool = False) -> Found:
    """A window of ten hours, met after some time or not at all."""
    return Found(name=name, start_ns=0, end_ns=int(10 * HOUR_S * 1e9), delay_s=delay_s, already_on=already_on)


def scored(*windows: Found, by_chance: float = 0.01, false_alarms: int = 1) -> Any:
    """Scores of one asset, with nothing but its detection."""
    detected = sum(math.isfinite(w.delay_s) for w in windows)
    detection = Detection(
        windows=windows, detected=detected, false_alarms=false_alarms, outside_days=4.0, false_alarms_per_day=0.25,
        by_chance=by_chance,
    )  # fmt: skip
    return SimpleNamespace(assets=[SimpleNamespace(asset="R1", detection=detection)], tags=[])


def test_each_window_is_told_with_the_first_signal_that_is_no_luck() -> None:
    """The soonest signal counts; one that was on already, or of a way that meets all by chance, does not."""
    drift = scored(window("step", 2 * HOUR_S), window("ramp", math.nan), window("old", 0.0, already_on=True))
    spike = scored(window("step", HOUR_S * 2.5), window("ramp", 9.5 * HOUR_S), window("old", math.nan))
    said = report.in_words({"configured": {DRIFT: drift, SPIKE: spike}})
    assert said == [
        "configured, detected by some signal: R1 step after 2.0 h by drift; "
        "R1 ramp after 9.5 h by spike, when it was nearly over.",
        "configured, detected by no signal: R1 old.",
        "configured, drift alone does not detect: R1 ramp; R1 old (met by luck).",
        "configured, spike alone does not detect: R1 old.",
    ]
    lucky = report.in_words({"fitted": {DRIFT: scored(window("step", 60.0), by_chance=0.5)}})
    assert lucky[:2] == [
        "fitted, detected by some signal: nothing.",
        "fitted, detected by no signal: R1 step.",
    ]


def test_all_ways_together_prove_nothing_of_one() -> None:
    """What several ways find together is in the tables, and in no sentence."""
    both = scored(window("step", 60.0))
    scores: report.Scores = {"configured": {DRIFT: scored(window("step", math.nan)), (*DRIFT, *SPIKE): both}}
    assert report.in_words(scores)[1] == "configured, detected by no signal: R1 step."
    assert [row[0] for row in report.summary(scores).rows] == ["drift", "drift + spike"]


def test_tables_have_both_parameters_side_by_side() -> None:
    """The summary counts per set of parameters; a window has a cell per way with the delays of both."""
    scores: report.Scores = {
        "configured": {DRIFT: scored(window("step", math.nan), false_alarms=0)},
        "fitted": {DRIFT: scored(window("step", 900.0, already_on=True))},
    }
    summary, windows = report.summary(scores), report.windows(scores)
    assert [row[:6] for row in summary.rows] == [
        ["drift", "R1", "configured", "0 of 1", "–", "0"],
        ["drift", "R1", "fitted", "1 of 1", "15.0 min*", "1"],
    ]
    assert windows.rows == [["R1", "step", "10.0 h", "– / 15.0 min*"]]
    text = report.markdown(scores, [summary, windows], "# Version 1\n[tags]\n", merge_h=1.0)
    assert "| R1 | step | 10.0 h | – / 15.0 min* |" in text
    assert "# Version" not in text
