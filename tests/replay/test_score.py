"""Scores of runs that the kernels made, and the page that shows them."""

import json
import math
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from cli.main import app
from replay.results import finished as results
from replay.results.finished import ResultError
from replay.score.figures import errors
from replay.score.labels import Window
from replay.score.scores import Against, pooled
from replay.score.scoring import model_of, score_run
from replay.score.signals import Choice, choice
from replay.score.truth import Line, Truth
from schemas.quality import Test
from tests.replay.made_runs import SECOND_NS, START_NS, frames, settings, write

N = 600
STEPS = np.arange(N)
TRUTH = 80.0 + 3.0 * np.sin(STEPS / 80.0)
SETTINGS = settings({"*/temperature": {"unit": "degC"}})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two assets: one calm, one with a spike of 40 K at 300 s and a bad reading at 400 s."""
    rng = np.random.default_rng(11)
    calm = TRUTH + rng.normal(0.0, 0.5, N)
    hit = TRUTH + rng.normal(0.0, 0.5, N)
    hit[300] += 40.0
    hit[400] = math.nan
    units = {"temperature": "degC"}
    path = tmp_path_factory.mktemp("runs") / "made"
    both = {"R101": {"temperature": calm, "<b>level</b>": TRUTH / 2.0}, "R102": {"temperature": hit}}
    made = {asset: frames(asset, series, units=units) for asset, series in both.items()}
    return write(path, made, SETTINGS, code="1.2.3", params="a" * 8)


def truth() -> Truth:
    """The truth of the temperatures."""
    line = Line(START_NS + STEPS * SECOND_NS, TRUTH)
    return Truth({("R101", "temperature"): line, ("R102", "temperature"): line})


def test_errors_against_truth_are_those_of_the_written_columns(folder: Path) -> None:
    """RMSE, MAE, R² by numpy over the Parquet file, tag by tag; readings are worse than estimates."""
    found = score_run(results.load(folder), Against(settings=SETTINGS, truth=truth()))
    table = pq.read_table(folder / "readings").to_pandas()
    for score in found.tags:
        rows = table[(table["asset"] == score.asset) & (table["tag"] == score.tag)]
        if score.tag != "temperature":
            assert score.reference == "smoother"
            continue
        error = rows["estimate"].to_numpy() - TRUTH
        assert score.reference == "truth"
        assert score.estimate.rmse == pytest.approx(float(np.sqrt(np.mean(error**2))))
        assert score.estimate.mae == pytest.approx(float(np.mean(np.abs(error))))
        assert score.estimate.r2 == pytest.approx(1.0 - np.sum(error**2) / np.sum((TRUTH - TRUTH.mean()) ** 2))
        assert score.reading.rmse > score.estimate.rmse


def test_a_smoother_as_reference_is_nearly_as_good_as_the_truth(folder: Path) -> None:
    """The estimate's error against it is within a third of that against the truth."""
    run = results.load(folder)
    by_truth = score_run(run, Against(settings=SETTINGS, truth=truth()), ["R101"]).tags[1]
    by_smoother = score_run(run, Against(settings=SETTINGS), ["R101"]).tags[1]
    assert by_smoother.reference == "smoother"
    assert by_smoother.estimate.rmse == pytest.approx(by_truth.estimate.rmse, rel=0.33)
    assert by_smoother.reference_std > 0.0


def test_flags_tests_latency_and_coverage_are_counted(folder: Path) -> None:
    """The spike and the NaN, each once and by its test; every reading arrived 250 ms late; states had full coverage."""
    found = score_run(results.load(folder), Against(settings=SETTINGS))
    hit = next(t for t in found.tags if t.asset == "R102")
    assert hit.tests["finite"] == 1
    assert hit.tests["spike"] >= 1
    assert hit.flags["fail"] == 1
    assert sum(hit.flags.values()) == hit.readings == N
    assert (hit.latency_ms.p50, hit.latency_ms.p99) == (250.0, 250.0)
    asset = next(a for a in found.assets if a.asset == "R102")
    assert asset.readings == N
    assert asset.coverage_mean == 1.0
    assert asset.state_latency_ms.p95 == 250.0


def test_detection_counts_the_tests_that_were_chosen(folder: Path) -> None:
    """The spike at 300 s lies in the window: found by the spike test without delay, not by the range test."""
    windows = [Window(start_ns=START_NS + 300 * SECOND_NS, end_ns=START_NS + 310 * SECOND_NS, asset="R102")]
    run = results.load(folder)
    by_spike = score_run(run, Against(settings=SETTINGS, labels=windows, choice=choice(["spike"])), ["R102"])
    found = by_spike.tags[0].detection
    assert found is not None
    assert (found.detected, found.false_alarms, found.windows[0].delay_s) == (1, 0, 0.0)
    assert by_spike.assets[0].detection == found
    by_range = score_run(run, Against(settings=SETTINGS, labels=windows, choice=choice(["range"])), ["R102"])
    assert by_range.tags[0].detection is not None
    assert by_range.tags[0].detection.recall == 0.0
    calm = score_run(run, Against(settings=SETTINGS, labels=windows), ["R101"]).assets[0].detection
    assert calm is not None
    assert not calm.windows


def test_alerts_detect_where_they_are_chosen(folder: Path) -> None:
    """The bad reading at 400 s raises the alert bad_quality; that it is over is no signal."""
    windows = [Window(start_ns=START_NS + 399 * SECOND_NS, end_ns=START_NS + 500 * SECOND_NS)]
    against = Against(settings=SETTINGS, labels=windows, choice=choice(["alert:bad_quality"]))
    found = score_run(results.load(folder), against, ["R102"])
    assert found.assets[0].alerts["bad_quality"] == 1
    assert found.assets[0].detection is not None
    assert found.assets[0].detection.windows[0].delay_s == 1.0
    assert found.assets[0].detection.false_alarms == 0


def test_words_of_a_choice() -> None:
    """Names of tests are bits, alerts are kinds, and an unknown one is told with all that are allowed."""
    assert choice([]) == Choice()
    assert choice(["drift", "zscore"]).tests == int(Test.DRIFT | Test.ZSCORE)
    assert choice(["alert:residual"]) == Choice(tests=0, alerts=frozenset({"residual"}))
    with pytest.raises(ResultError, match=r"signal 'sound': allowed are tests, alerts, status.*alert:residual"):
        choice(["sound"])


def test_model_is_compared_once_per_reading() -> None:
    """A state between two readings of a tag shows the last comparison again, older; it counts once."""
    rows = pd.DataFrame(
        {
            "time_ns": [START_NS, START_NS + SECOND_NS, START_NS + 2 * SECOND_NS, START_NS + 3 * SECOND_NS],
            "value": [5.0, 5.0, 6.0, 7.0],
            "age_s": [0.0, 1.0, 0.0, 0.0],
            "residual": [0.5, 0.5, 0.5, np.nan],
        }
    )
    found = model_of(rows)
    assert found.time_ns.tolist() == [START_NS, START_NS + 2 * SECOND_NS]
    assert found.value.tolist() == [4.5, 5.5]


def test_pooled_errors_are_those_of_the_standardised_tags() -> None:
    """Each tag divided by its reference's standard deviation, then taken together; a constant reference is left out."""
    rng = np.random.default_rng(2)
    one, two = rng.normal(0, 3.0, 50), rng.normal(0, 700.0, 20)
    e1, e2 = rng.normal(0, 1.0, 50), rng.normal(0, 100.0, 20)
    parts = [errors(one + e1, one), errors(two + e2, two), errors(np.ones(9), np.zeros(9))]
    together = np.concatenate([e1 / one.std(), e2 / two.std()])
    found = pooled(parts)
    assert found.count == 70
    assert found.rmse == pytest.approx(float(np.sqrt(np.mean(together**2))))
    assert found.mae == pytest.approx(float(np.mean(np.abs(together))))
    assert pooled([]).count == 0


class References(HTMLParser):
    """Collects every attribute that a browser would fetch, and ids."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.ids: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what the tag refers to."""
        self.tags.add(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "data", "action", "srcset", "poster") and value:
                self.found.append(value)
            if name == "id" and value:
                self.ids.append(value)


def test_page_is_self_contained_and_always_the_same(folder: Path, tmp_path: Path) -> None:
    """No script, no link, nothing to fetch; ids are unique and every reference has its target; names are escaped."""
    labels = tmp_path / "labels.csv"
    labels.write_text("start,end,name\n1700000300,1700000310,<script>\n", "utf-8")
    pages = []
    for name in ("one.html", "two.html"):
        arguments = ["score", str(folder), "--labels", str(labels), "--html", str(tmp_path / name)]
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output
        pages.append((tmp_path / name).read_text("utf-8"))
    assert pages[0] == pages[1]
    parser = References()
    parser.feed(pages[0])
    assert all(target.startswith("#") for target in parser.found)
    assert {target.removeprefix("#") for target in parser.found} <= set(parser.ids)
    assert len(parser.ids) == len(set(parser.ids))
    assert not parser.tags & {"script", "link", "img", "iframe", "object", "b"}
    assert not re.search(r"@import|url\((?!#)", pages[0])
    assert "svg" in parser.tags
    assert "1.2.3" in pages[0]


def test_json_has_every_tag_and_no_nan(folder: Path, tmp_path: Path) -> None:
    """The file parses strictly, says what counted as a signal, and carries the run's provenance."""
    result = CliRunner().invoke(app, ["score", str(folder), "--json", str(tmp_path / "s.json"), "--signals", "spike"])
    assert result.exit_code == 0, result.output

    def refused(text: str) -> None:
        raise AssertionError(text)

    told = json.loads((tmp_path / "s.json").read_text("utf-8"), parse_constant=refused)
    assert {(t["asset"], t["tag"]) for t in told["tags"]} == {
        ("R101", "temperature"), ("R101", "<b>level</b>"), ("R102", "temperature"),
    }  # fmt: skip
    assert told["provenance"]["code"] == "1.2.3"
    assert told["signals"]["tests"] == int(Test.SPIKE)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--assets", "R9"], "no readings of asset 'R9'; there are R101, R102"),
        (["--assets", "R1*,S*"], "no readings of asset 'S*'; there are R101, R102"),
        (["--tags", "nothing*"], "no readings of tags nothing*"),
        (["--from", "2030-01-01"], "no readings"),
        (["--signals", "sound"], "signal 'sound'"),
        (["--labels", "no.csv"], "no.csv"),
    ],
)
def test_what_is_not_there_is_said_in_one_line(folder: Path, arguments: list[str], said: str) -> None:
    """Exit code 1 and the reason, no trace."""
    result = CliRunner().invoke(app, ["score", str(folder), *arguments])
    assert result.exit_code == 1
    assert said in result.output
    assert "Traceback" not in result.output


def test_a_run_without_a_column_or_without_files_is_refused(folder: Path, tmp_path: Path) -> None:
    """The message names folder and column."""
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    for part in (broken / "readings").glob("*.parquet"):
        pq.write_table(pq.read_table(part).drop_columns(["nis"]), part)
    with pytest.raises(ResultError, match="columns missing: nis"):
        results.load(broken)
    shutil.rmtree(broken / "readings")
    with pytest.raises(ResultError, match="no Parquet files"):
        results.load(broken)
    with pytest.raises(ResultError, match="no such folder"):
        results.load(tmp_path / "nowhere")


def test_a_run_that_did_not_end_is_refused(folder: Path, tmp_path: Path) -> None:
    """What a killed run had finished is not judged as if it were all: who reads it learns what to do."""
    killed = tmp_path / "killed"
    shutil.copytree(folder, killed)
    (killed / "run.json").unlink()
    with pytest.raises(ResultError, match=r"killed: there is no run\.json.* did not end.* again under a new name"):
        results.load(killed)


def test_a_span_takes_only_its_readings(folder: Path) -> None:
    """From start on, before stop."""
    run = results.load(folder, START_NS + 100 * SECOND_NS, START_NS + 110 * SECOND_NS)
    assert run.counts() == {"R101": 20, "R102": 10}
    (asset,) = run.by_asset(["R102"])
    assert asset.readings["source_time_ns"].tolist() == [START_NS + s * SECOND_NS for s in range(100, 110)]


def test_assets_are_chosen_by_patterns(folder: Path) -> None:
    """As in the other commands; one that is matched twice comes once."""
    run = results.load(folder)
    assert [a.asset for a in run.by_asset(["R*1", "R101"])] == ["R101"]
    assert [a.asset for a in run.by_asset(["R10?"])] == ["R101", "R102"]


def test_assets_beyond_a_batch_are_read_in_several(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same tables, whatever is read together."""
    together = {a.asset: a.readings for a in results.load(folder).by_asset()}
    monkeypatch.setattr(results, "BATCH_READINGS", 1)
    for one in results.load(folder).by_asset():
        pd.testing.assert_frame_equal(
            one.readings.astype({"tag": str, "unit": str, "asset": str, "source": str}),
            together[one.asset].astype({"tag": str, "unit": str, "asset": str, "source": str}),
        )
