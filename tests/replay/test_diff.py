"""Two runs over the same readings, with settings that differ: what changed is what was made to change."""

import json
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from cli.main import app
from kernels import kalman
from replay.diff.diffing import diff_runs, matched
from replay.results import finished as results
from replay.results.finished import ResultError
from replay.score.scores import Against
from replay.score.truth import Line, Truth
from tests.replay.made_runs import SECOND_NS, START_NS, Floats, frames, settings, write

N = 500
TRUTH = 80.0 + np.linspace(0.0, 5.0, N)
REACTOR = {"*": {"model": "batch_reactor"}}


def tags(**estimation: float) -> dict[str, object]:
    """Settings of the temperatures."""
    return {"*/temperature": {"unit": "degC", "estimation": estimation}}


def made(path: Path, value: Floats, per_frame: int = 50, **changed: object) -> Path:
    """A run over one reactor with a temperature; `changed`: tables of the settings."""
    raw = frames("R101", {"temperature": value}, units={"temperature": "degC"}, per_frame=per_frame)
    given = {"tags": tags(measurement_noise=0.25), "assets": REACTOR, **changed}
    return write(path, {"R101": raw}, settings(**given), params=path.name)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def value() -> Floats:
    """A slow rise with a noise of 0.5 K and a spike at 200 s."""
    found = TRUTH + np.random.default_rng(4).normal(0.0, 0.5, N)
    found[200] += 30.0
    return found


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, value: Floats) -> dict[str, Path]:
    """A as it is; the same in other frames; with four times the noise; without tests; faster kinetics."""
    folder = tmp_path_factory.mktemp("runs")
    limits = {"validation": {"spike_percent": None, "zscore_limit": None}, "estimation": {"gate_nis": None}}
    faster = {"*": {"model": "batch_reactor", "parameters": {"frequency_factor_per_s": 2e10}}}
    loose = {"*/temperature": {"unit": "degC", **limits, "estimation": {"measurement_noise": 0.25, "gate_nis": None}}}
    return {
        "a": made(folder / "a", value),
        "cut": made(folder / "cut", value, per_frame=7),
        "noise": made(folder / "noise", value, tags=tags(measurement_noise=1.0, process_noise=0.005)),
        "limits": made(folder / "limits", value, tags=loose),
        "model": made(folder / "model", value, assets=faster),
    }


def against(truth: bool = True) -> Against:
    """The settings of run a, and the truth."""
    line = Line(START_NS + np.arange(N) * SECOND_NS, TRUTH)
    known = Truth({("R101", "temperature"): line}) if truth else None
    return Against(settings=settings(tags(measurement_noise=0.25)), truth=known)


def test_a_run_does_not_differ_from_itself_however_its_frames_were_cut(runs: dict[str, Path]) -> None:
    """Nothing changed, nothing moved, nothing is only in one of them."""
    for other in ("a", "cut"):
        found = diff_runs(results.load(runs["a"]), results.load(runs[other]), against())
        (tag,) = found.tags
        assert (tag.matched, tag.only, tag.changed, tag.tests) == (N, (0, 0), 0, {})
        assert (tag.moved_max, tag.times_std_max, found.largest) == (0.0, 0.0, [])
        assert tag.estimate[0] == tag.estimate[1]


def test_moved_figures_are_those_of_the_written_columns(runs: dict[str, Path]) -> None:
    """RMSE of both against the truth, differences of estimates over the first's deviation, by numpy over the files."""
    found = diff_runs(results.load(runs["a"]), results.load(runs["noise"]), against())
    (tag,) = found.tags
    a, b = (pq.read_table(runs[name] / "readings").to_pandas() for name in ("a", "noise"))
    moved = np.abs(b["estimate"] - a["estimate"]).to_numpy()
    assert tag.moved_max == pytest.approx(moved.max())
    assert tag.moved_rms == pytest.approx(math.sqrt(np.mean(moved**2)))
    assert tag.times_std_max == pytest.approx((moved / a["std"]).max())
    for errors, table in zip(tag.estimate, (a, b), strict=True):
        assert errors.rmse == pytest.approx(math.sqrt(np.mean((table["estimate"] - TRUTH) ** 2)))
    assert tag.nis[1].mean < 0.5 * tag.nis[0].mean


def test_largest_differences_come_first_and_not_from_one_place(runs: dict[str, Path]) -> None:
    """Sorted by difference over deviation, at least 20 readings apart, the first one the very largest."""
    found = diff_runs(results.load(runs["a"]), results.load(runs["limits"]), against())
    ratios = [place.times_std for place in found.largest]
    assert ratios == sorted(ratios, reverse=True)
    assert ratios[0] == found.tags[0].times_std_max
    times = sorted(place.time_ns for place in found.largest)
    assert all(b - a > 20 * SECOND_NS for a, b in pairwise(times))
    # without its limits the spike moves the estimate at its own time the most
    assert found.largest[0].time_ns == START_NS + 200 * SECOND_NS


def test_changed_flags_are_counted_and_shown(runs: dict[str, Path]) -> None:
    """With the tests off what was suspect is good; the spike is among the examples with both flags and tests."""
    found = diff_runs(results.load(runs["a"]), results.load(runs["limits"]), against())
    (tag,) = found.tags
    a, b = (pq.read_table(runs[name] / "readings").to_pandas() for name in ("a", "limits"))
    assert tag.changed == int((a["flag"] != b["flag"]).sum()) > 0
    assert sum(tag.flags.values()) == tag.changed
    assert tag.flags["suspect → good"] >= 1
    assert tag.tests["spike"][0] == 0
    assert tag.tests["spike"][1] >= 1
    place = next(p for p in tag.examples if p.time_ns == START_NS + 200 * SECOND_NS)
    assert place.flags == ("suspect", "good")
    assert "spike" in place.tests[0]
    assert "spike" not in place.tests[1]


def test_conversion_moves_with_the_kinetics(runs: dict[str, Path]) -> None:
    """A pre-exponential factor twice as large makes more conversion at the end, and the difference is told."""
    found = diff_runs(results.load(runs["a"]), results.load(runs["model"]), against())
    conversion = next(s for s in found.states if s.name == "conversion")
    assert conversion.last[1] > conversion.last[0] > 0.0
    a, b = (results.load(runs[name]).asset("R101").states["model_states"] for name in ("a", "model"))
    moved = np.array([after["conversion"] - before["conversion"] for before, after in zip(a, b, strict=True)])
    assert conversion.moved_max == pytest.approx(moved.max())
    assert conversion.moved_rms == pytest.approx(math.sqrt(np.mean(moved**2)))
    assert found.tags[0].moved_max == 0.0


def test_readings_are_matched_by_occurrence_and_left_overs_are_counted() -> None:
    """The same tag, time and ordinal twice: first with first, second with second; the third is only in one."""

    def rows(values: list[float]) -> pd.DataFrame:
        table = {name: [0.0] * len(values) for name in ("estimate", "std", "innovation", "nis")}
        whole = {name: [0] * len(values) for name in ("epoch", "ordinal", "arrival_time_ns", "mark", "flag", "tests")}
        names = {name: ["x"] * len(values) for name in ("source", "tag", "unit")}
        return pd.DataFrame({**table, **whole, **names, "source_time_ns": [5] * len(values), "value": values})

    both = matched(rows([1.0, 2.0, 3.0]), rows([1.5, 2.5]))
    assert both["side"].tolist() == ["both", "both", "left_only"]
    assert both["value_b"].tolist()[:2] == [1.5, 2.5]


def test_without_truth_both_are_against_one_smoother(runs: dict[str, Path]) -> None:
    """A run compared with itself has equal errors; the reference is named."""
    (tag,) = diff_runs(results.load(runs["a"]), results.load(runs["noise"]), against(truth=False)).tags
    assert tag.reference == "smoother"
    assert tag.estimate[0].count == tag.estimate[1].count == N
    assert tag.estimate[0].rmse != tag.estimate[1].rmse
    assert kalman.R == 1


def test_runs_without_anything_in_common_are_refused(runs: dict[str, Path], tmp_path: Path, value: Floats) -> None:
    """Other assets, an unknown one, or another span: one sentence each."""
    other = write(tmp_path / "other", {"R9": frames("R9", {"temperature": value})}, settings())
    a = results.load(runs["a"])
    with pytest.raises(ResultError, match="do not both have any asset"):
        diff_runs(a, results.load(other), against())
    with pytest.raises(ResultError, match="no readings of asset 'R7'; there are R101"):
        diff_runs(a, a, against(), ["R7"])
    early = results.load(runs["a"], None, START_NS + SECOND_NS)
    late = results.load(runs["a"], START_NS + SECOND_NS, None)
    with pytest.raises(ResultError, match="no reading in common"):
        diff_runs(early, late, against())


def test_command_writes_page_and_json(runs: dict[str, Path], tmp_path: Path) -> None:
    """Both files carry both provenances; the page has plots and fetches nothing; the table says what moved."""
    files = ["--json", str(tmp_path / "d.json"), "--html", str(tmp_path / "d.html")]
    result = CliRunner().invoke(app, ["diff", str(runs["a"]), str(runs["limits"]), *files])
    assert result.exit_code == 0, result.output
    assert "params: a in A, limits in B" in result.output
    told = json.loads((tmp_path / "d.json").read_text("utf-8"))
    assert told["tags"][0]["tag"] == "temperature"
    assert [p["params"] for p in told["provenance"]] == ["a", "limits"]
    text = (tmp_path / "d.html").read_text("utf-8")
    assert text.count("<svg") >= 2
    assert 'src="' not in text
    assert "http-equiv" not in text
