"""Queries against a real InfluxDB filled by the sink."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from queries.api import Queries, QueryError
from queries.moments import duration_ns, moment_ns
from runtime.config import Influxdb
from schemas.quality import Mark
from services.influxdb import InfluxDB
from store.influx_writer import InfluxWriter

START_NS = 1_760_000_000_000_000_000
COUNT = 5000
VALUES = np.random.default_rng(11).normal(85.0, 1.0, COUNT)


@pytest.fixture(scope="module")
def filled(influx: InfluxDB, tmp_path_factory: pytest.TempPathFactory) -> Influxdb:
    """A measurement with 5,000 readings of one tag, one per 10 ms, every hundredth BAD; and a few of others."""
    token_file: Path = tmp_path_factory.mktemp("queries") / "token"
    token_file.write_text(influx.token)
    settings = Influxdb(url=influx.url, org=influx.org, bucket=influx.bucket, token_file=token_file)

    def line(tag: str, unit: str, time_ns: int, fields: str) -> str:
        return f"reactor_sensor,reactor_id=Q1,sensor_type={tag},unit={unit} {fields} {time_ns}"

    common = 'tests=0i,status=0i,mark=0i,estimate=1.5,arrival_ns=7i,source="mqtt-1",seq=3i'
    lines = [
        line(
            "temperature",
            "degC",
            START_NS + n * 10_000_000,
            f"quality={4 if n % 100 == 0 else 1}i,value={v!r},{common}",
        )
        for n, v in enumerate(VALUES.tolist())
    ]
    lines += [
        line("moved", unit, START_NS, f"quality=1i,value={v!r},{common}") for unit, v in (("K", 1.0), ("degC", 2.0))
    ]
    lines += _corrected_lines()
    lines.append('reactor_twin,reactor_id=Q1 conversion_60s=0.5,model="cstr",seq=3i 5')
    asyncio.run(_store(settings, lines))
    return settings


def _corrected_lines() -> list[str]:
    """Readings at 10, 20 and 29 s with a row for a missing one at 15 s; correction 1 of 10 to 20 s has one at 14 s."""
    live = [(10, 0, "value=1.0,"), (15, int(Mark.IMPUTED), ""), (20, 0, "value=3.0,"), (29, 0, "value=4.0,")]
    newer = [(10, 0, "value=1.0,"), (14, 0, "value=2.0,"), (20, 0, "value=3.0,")]
    return [
        f"reactor_sensor,reactor_id=Q2,sensor_type=ph,unit=none{run} {value}quality=1i,mark={mark}i {second * 10**9}"
        for run, rows in (("", live), (",run=corrected-1", newer))
        for second, mark, value in rows
    ]


async def _store(settings: Influxdb, lines: list[str]) -> None:
    async def fail(sentence: str) -> None:
        raise AssertionError(sentence)

    writer = InfluxWriter(settings, 10.0, fail)
    assert await writer.write(lines) == []
    await writer.close()


@pytest.fixture
def queries(filled: Influxdb) -> Iterator[Queries]:
    """A client."""
    with Queries(filled) as client:
        yield client


def test_a_range_is_exact(queries: Queries) -> None:
    """A range has every value to the bit and every time to the nanosecond, with quality and estimate beside it."""
    found = queries.range("Q1", "temperature", START_NS, START_NS + COUNT * 10_000_000)
    assert found["value"].to_numpy().tobytes() == VALUES.tobytes()
    assert (np.diff(found.index.astype("int64")) == 10_000_000).all()
    assert str(found.index.dtype) == "datetime64[ns, UTC]"
    assert list(found["grade"][:2]) == ["BAD", "GOOD"]
    assert list(found["flag"][:2]) == [4, 1]
    assert found["text"].isna().all()
    assert set(found["estimate"]) == {1.5}
    assert found["innovation"].isna().all()


def test_start_belongs_to_a_range_and_stop_does_not(queries: Queries) -> None:
    """A range is start <= time < stop, to the nanosecond."""
    step = 10_000_000
    assert len(queries.range("Q1", "temperature", START_NS, START_NS + step)) == 1
    assert len(queries.range("Q1", "temperature", START_NS, START_NS + step + 1)) == 2
    assert len(queries.range("Q1", "temperature", START_NS + 1, START_NS + step)) == 0


def test_pages_together_are_the_range(filled: Influxdb, queries: Queries) -> None:
    """A large range comes in pages that together are exactly the range, in order."""
    with Queries(filled, page_rows=1000) as paged:
        pages = list(paged.pages("Q1", "temperature", 0))
    assert len(pages) == 6
    assert all(a.index[-1] < b.index[0] for a, b in pairwise(p for p in pages if len(p)))
    pd.testing.assert_frame_equal(pd.concat(pages), queries.range("Q1", "temperature", 0))


def test_a_corrected_range_is_a_piece_of_every_wider_one(queries: Queries) -> None:
    """A row for a missing reading that a correction took out is gone in a range without a reading of it, too."""
    wide = queries.corrected("Q2", "ph", 0, 30 * 10**9)
    assert [(t.second, v) for t, v in zip(wide.index, wide["version"], strict=True)] == [
        (10, 1),
        (14, 1),
        (20, 1),
        (29, 0),
    ]
    for start in range(9, 22):
        for stop in (start + 1, start + 5):
            narrow = queries.corrected("Q2", "ph", start * 10**9, stop * 10**9)
            pd.testing.assert_frame_equal(narrow, wide[(wide.index >= _at(start)) & (wide.index < _at(stop))])


def _at(second: int) -> pd.Timestamp:
    return pd.Timestamp(second, unit="s", tz="UTC")


def test_the_latest_reading_of_a_tag(queries: Queries) -> None:
    """The latest is the one with the newest source time, with its unit."""
    latest = queries.latest("Q1", "temperature")
    assert latest["value"] == VALUES[-1]
    assert latest["unit"] == "degC"
    assert pd.Timestamp(str(latest.name)).value == START_NS + (COUNT - 1) * 10_000_000


@pytest.mark.parametrize("aggregate", ["mean", "max", "min"])
def test_windows_agree_with_pandas(queries: Queries, aggregate: str) -> None:
    """Windowed mean, max, min and count are those of the readings in each window."""
    stop_ns = START_NS + COUNT * 10_000_000
    found = queries.window("Q1", "temperature", START_NS, stop_ns, every="7s", aggregate=aggregate)  # type: ignore[arg-type]
    readings = queries.range("Q1", "temperature", START_NS, stop_ns)["value"]
    starts = pd.DatetimeIndex(readings.index.astype("int64") // 7_000_000_000 * 7_000_000_000, tz="UTC")
    wanted = readings.groupby(starts).agg([aggregate, "count"])
    np.testing.assert_allclose(found[aggregate], wanted[aggregate], rtol=1e-12)
    assert list(found["count"]) == list(wanted["count"])
    assert list(found.index) == list(wanted.index)


def test_a_tag_that_changed_its_unit_has_both(queries: Queries) -> None:
    """Readings of one tag and time in two units are two rows."""
    assert sorted(queries.range("Q1", "moved", 0)["unit"]) == ["K", "degC"]


def test_the_state_of_the_twin(queries: Queries) -> None:
    """The newest twin state is numbers by name."""
    assert queries.state("Q1") == {"conversion_60s": 0.5, "seq": 3.0}


def test_nothing_found_is_an_empty_frame_of_the_same_shape(queries: Queries) -> None:
    """A range and windows without readings are empty DataFrames with the usual columns."""
    full = queries.range("Q1", "temperature", 0)
    empty = queries.range("Q1", "no such tag", 0)
    assert list(empty.columns) == list(full.columns)
    assert len(empty) == 0
    assert list(queries.window("Q1", "no such tag", 0, "now", every="1h").columns) == ["mean", "count"]


def test_names_are_data_and_never_part_of_the_query(queries: Queries) -> None:
    """A tag name that looks like a query finds nothing and harms nothing."""
    for name in ("' OR 1=1 --", '" OR 1=1 --', "'; DROP MEASUREMENT reactor_sensor", "$asset", "/.*/"):
        assert queries.range("Q1", name, 0).empty
        assert queries.range(name, "temperature", 0).empty
    assert len(queries.range("Q1", "temperature", 0)) == COUNT


def test_bad_questions_get_a_clear_answer(filled: Influxdb, queries: Queries) -> None:
    """What cannot be answered raises QueryError that says what is wrong and what is allowed."""
    with pytest.raises(QueryError, match="its tags are: moved, temperature"):
        queries.latest("Q1", "temperatur")
    with pytest.raises(QueryError, match="asset is unknown"):
        queries.latest("nobody", "temperature")
    with pytest.raises(QueryError, match="no state of asset 'nobody'"):
        queries.state("nobody")
    with pytest.raises(QueryError, match="is not before stop"):
        queries.range("Q1", "temperature", "now", 0)
    with pytest.raises(QueryError, match="allowed is mean, max, min"):
        queries.window("Q1", "temperature", 0, 1, every="1s", aggregate="median")  # type: ignore[arg-type]
    with pytest.raises(QueryError, match="allowed is 1000 or more"):
        Queries(filled, page_rows=1)


def test_a_statement_that_fails_while_executing_says_why(queries: Queries) -> None:
    """What InfluxDB finds wrong only as it executes is an error with its words, not an answer without rows."""
    with pytest.raises(QueryError, match="unsupported mean iterator type"):
        queries._client.texts('SELECT mean("source") FROM "reactor_sensor"', {})


def test_a_refused_token_and_an_absent_database_are_named(filled: Influxdb, tmp_path: Path) -> None:
    """A wrong token and an address where nobody listens are said so."""
    wrong = tmp_path / "wrong"
    wrong.write_text("wrong")
    with Queries(filled.model_copy(update={"token_file": wrong})) as queries, pytest.raises(QueryError, match="401"):
        queries.tags("Q1")
    nobody = filled.model_copy(update={"url": "http://127.0.0.1:9"})
    with Queries(nobody) as queries, pytest.raises(QueryError, match="does not answer"):
        queries.tags("Q1")


def test_moments_can_be_written_in_many_ways() -> None:
    """Ns, ISO 8601 with ns, datetimes (no zone means UTC), "now" and "-15min" are all understood, exactly."""
    exact = 1_761_474_615_123_456_789
    assert moment_ns(exact, 0) == exact
    assert moment_ns("2025-10-26T10:30:15.123456789Z", 0) == exact
    assert moment_ns("2025-10-26 12:30:15.123456789+02:00", 0) == exact
    assert moment_ns("2025-10-26T10:30:15", 0) == exact // 10**9 * 10**9
    assert moment_ns(datetime(2025, 10, 26, 10, 30, 15, tzinfo=UTC), 0) == exact // 10**9 * 10**9
    assert moment_ns(pd.Timestamp(exact, tz="UTC"), 0) == exact
    assert moment_ns("now", 77) == 77
    assert moment_ns("-15min", 10**12) == 10**12 - 900 * 10**9
    assert (duration_ns("10s"), duration_ns(timedelta(hours=1)), duration_ns(5)) == (10**10, 3600 * 10**9, 5)


@pytest.mark.parametrize("moment", ["yesterday or so", "", None, True, 2**63, "-", "-x", 1.5, "NaT"])
def test_what_is_no_moment_is_refused(moment: object) -> None:
    """Anything else as a time says what is allowed."""
    with pytest.raises(QueryError, match=r"allowed is|range is"):
        moment_ns(moment, 10**12)  # type: ignore[arg-type]


@pytest.mark.parametrize("duration", ["0s", "-1s", "", "fast", None, False, 0, "NaT"])
def test_what_is_no_duration_is_refused(duration: object) -> None:
    """Anything else as a duration says what is allowed."""
    with pytest.raises(QueryError, match="allowed is"):
        duration_ns(duration)  # type: ignore[arg-type]
