"""Queries of the time series store: latest value of a tag, a range as a DataFrame, windows, the twin's state.

    with Queries(plant.influxdb) as queries:
        frame = queries.range("R101", "temperature", "-1h", "now")

Values are exact to the bit, times to the nanosecond. Rule: reads only, and knows nothing of Kafka.
"""

import time
from collections.abc import Iterator
from typing import Literal, Self, get_args

import pandas as pd

from queries.influxql import InfluxQL, Parameter, QueryError
from queries.moments import Duration, Moment, duration_ns, moment_ns
from queries.versions import version_of
from runtime.config import Influxdb
from schemas.quality import GRADES, Flag, Mark

__all__ = ["Aggregate", "Queries", "QueryError"]

Aggregate = Literal["mean", "max", "min"]

_STORED = {
    "value": "float",
    "unit": "str",
    "quality": "int",
    "tests": "int",
    "status": "int",
    "mark": "int",
    "reason": "str",
    "estimate": "float",
    "rate": "float",
    "std": "float",
    "innovation": "float",
    "nis": "float",
    "arrival_ns": "int",
    "source": "str",
    "seq": "int",
}
_COLUMNS = ", ".join(f'"{name}"' for name in _STORED)
_OF_ASSET = '"reactor_id" = $asset AND "run" = $run'  # an empty text is what InfluxQL compares with an absent tag
_OF_CORRECTED = '"reactor_id" = $asset AND "sensor_type" = $tag AND "run" =~ /^corrected-/'
_OF_TAG = f'{_OF_ASSET} AND "sensor_type" = $tag'
_BETWEEN = f"{_OF_TAG} AND time >= $start AND time < $stop"


class Queries:
    """Questions to one bucket of InfluxDB, as a context manager. Every method raises QueryError.

    `run` names the replay whose points are asked for; without it they are those of the live system, and only those.

    A DataFrame of readings has the index `time` (UTC, ns) and the columns `value` (unit), `unit`, `flag` (QARTOD),
    `grade` (GOOD, UNCERTAIN, BAD), `tests`, `status`, `mark` (bits of `schemas.quality`), `text` (what came instead of
    a number, else None), `estimate` (unit), `rate` (unit/s), `std`, `innovation` (unit), `nis` (1), `arrival_time`,
    `source`, `seq`. Numbers that are not there are NaN. Rows with the mark IMPUTED stand for readings that never came.
    """

    def __init__(self, influxdb: Influxdb, *, run: str = "", timeout_s: float = 60.0, page_rows: int = 200_000) -> None:
        if page_rows < 1000:
            raise QueryError(f"page_rows {page_rows}: allowed is 1000 or more")
        self._client = InfluxQL(influxdb, timeout_s)
        self._page_rows = page_rows
        self._run = run

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def tags(self, asset: str) -> list[str]:
        """Names of the tags that have readings of an asset; empty where the asset is unknown."""
        query = f'SHOW TAG VALUES FROM "reactor_sensor" WITH KEY = "sensor_type" WHERE {_OF_ASSET}'
        return sorted(row["value"] for row in self._client.texts(query, {"asset": asset, "run": self._run}))

    def has_run(self, run: str) -> bool:
        """Whether there are points of a run of this name."""
        return bool(self._client.texts('SHOW TAG VALUES WITH KEY = "run" WHERE "run" = $run', {"run": run}))

    def runs(self) -> list[str]:
        """Names of all runs that there are points of."""
        return sorted({row["value"] for row in self._client.texts('SHOW TAG VALUES WITH KEY = "run"', {})})

    def latest(self, asset: str, tag: str) -> pd.Series:
        """The reading with the newest source time; the Series is one row of `range`, its name the time."""
        # Only constants of ours are put into queries; what a user says goes in as a bound parameter.
        query = f'SELECT {_COLUMNS} FROM "reactor_sensor" WHERE {_OF_TAG} ORDER BY time DESC LIMIT 1'
        found = _readings(self._client.select(query, self._bound(asset, tag), _STORED))
        if found.empty:
            known = ", ".join(self.tags(asset)) or "none, the asset is unknown"
            raise QueryError(f"no readings of tag {tag!r} of asset {asset!r}; its tags are: {known}")
        return found.iloc[0]

    def range(self, asset: str, tag: str, start: Moment, stop: Moment = "now") -> pd.DataFrame:
        """All readings with start <= time < stop, by time."""
        return pd.concat(self.pages(asset, tag, start, stop))

    def corrected(self, asset: str, tag: str, start: Moment, stop: Moment = "now") -> pd.DataFrame:
        """The same as `range`, each reading as the newest correction of it has it; `version` 0: as it was written.

        Rows for missing readings are those of the newest correction of their time, if there is one.
        """
        start_ns, stop_ns = _span(start, stop)
        query = f'SHOW TAG VALUES FROM "reactor_sensor" WITH KEY = "run" WHERE {_OF_CORRECTED}'
        names = {row["value"] for row in self._client.texts(query, {"asset": asset, "tag": tag})}
        found = self.range(asset, tag, start_ns, stop_ns).assign(version=0)
        for run in sorted(filter(version_of, names), key=version_of):
            newer = pd.concat(self._pages(run, asset, tag, start_ns, stop_ns)).assign(version=version_of(run))
            found = _overlaid(found, newer, *(self._end(run, asset, tag, order) for order in ("ASC", "DESC")))
        return found

    def pages(self, asset: str, tag: str, start: Moment, stop: Moment = "now") -> Iterator[pd.DataFrame]:
        """The same as `range` in pieces, for a range that should not be in memory as a whole; at least one piece."""
        yield from self._pages(self._run, asset, tag, *_span(start, stop))

    def _pages(self, run: str, asset: str, tag: str, start_ns: int, stop_ns: int) -> Iterator[pd.DataFrame]:
        query = f'SELECT {_COLUMNS} FROM "reactor_sensor" WHERE {_BETWEEN} ORDER BY time LIMIT {self._page_rows}'
        while True:
            parameters: dict[str, Parameter] = {"asset": asset, "tag": tag, "run": run}
            parameters |= {"start": start_ns, "stop": stop_ns}
            rows = self._client.select(query, parameters, _STORED)
            if len(rows) < self._page_rows:
                yield _readings(rows)
                return
            # The last time may have further rows (the tag in another unit): leave it to the next page.
            start_ns = int(rows["time"].iloc[-1])
            yield _readings(rows[rows["time"] < start_ns])

    def window(
        self, asset: str, tag: str, start: Moment, stop: Moment, *, every: Duration, aggregate: Aggregate = "mean"
    ) -> pd.DataFrame:
        """Mean, max or min of the values, and their `count`, per window of length `every`.

        Windows are multiples of `every` since 1970, the index is their start, empty ones are left out. Values that
        are BAD count like all others as long as they are numbers.
        """
        if aggregate not in get_args(Aggregate):
            raise QueryError(f"aggregate {aggregate!r}: allowed is {', '.join(get_args(Aggregate))}")
        start_ns, stop_ns = _span(start, stop)
        length = {"duration": f"{duration_ns(every)}ns"}
        query = (
            f'SELECT {aggregate}("value") AS "{aggregate}", count("value") AS "count" FROM "reactor_sensor" '
            f"WHERE {_BETWEEN} GROUP BY time($every) fill(none)"
        )
        parameters = self._bound(asset, tag) | {"start": start_ns, "stop": stop_ns}
        found = self._client.select(query, parameters | {"every": length}, {aggregate: "float", "count": "int"})
        return _indexed(found).astype({"count": "int64"})

    def state(self, asset: str) -> dict[str, float]:
        """The newest state of an asset's twin, number by name (`store/twin_lines.py` lists the names)."""
        query = f'SELECT * FROM "reactor_twin" WHERE {_OF_ASSET} ORDER BY time DESC LIMIT 1'
        found = self._client.texts(query, {"asset": asset, "run": self._run})
        if not found:
            raise QueryError(f"no state of asset {asset!r}")
        texts = ("name", "tags", "time", "reactor_id", "model", "source", "run")
        return {name: float(cell) for name, cell in found[0].items() if cell and name not in texts}

    def _end(self, run: str, asset: str, tag: str, order: str) -> pd.Timestamp:
        """The first time (ASC) or the last (DESC) that a run has a reading of a tag at."""
        query = f'SELECT "quality" FROM "reactor_sensor" WHERE {_OF_TAG} ORDER BY time {order} LIMIT 1'
        found = self._client.select(query, {"asset": asset, "tag": tag, "run": run}, {"quality": "int"})
        return pd.Timestamp(int(found["time"].iloc[0]), unit="ns", tz="UTC")

    def _bound(self, asset: str, tag: str) -> dict[str, Parameter]:
        return {"asset": asset, "tag": tag, "run": self._run}


def _span(start: Moment, stop: Moment) -> tuple[int, int]:
    now_ns = time.time_ns()
    start_ns, stop_ns = moment_ns(start, now_ns), moment_ns(stop, now_ns)
    if start_ns >= stop_ns:
        raise QueryError(f"start {start!r} is not before stop {stop!r}")
    return start_ns, stop_ns


def _overlaid(found: pd.DataFrame, newer: pd.DataFrame, first: pd.Timestamp, last: pd.Timestamp) -> pd.DataFrame:
    """Readings with those of a newer version, which goes from `first` to `last`, in place of them."""
    imputed = (found["mark"].to_numpy("int64") & int(Mark.IMPUTED)) != 0
    replaced = found.index.isin(newer.index) | (imputed & (found.index >= first) & (found.index <= last))
    both: pd.DataFrame = pd.concat([found[~replaced], newer])
    return both.sort_index(kind="stable")


def _indexed(rows: pd.DataFrame) -> pd.DataFrame:
    index = pd.DatetimeIndex(pd.to_datetime(rows["time"], unit="ns", utc=True), name="time")
    return rows.drop(columns="time").set_index(index)


def _readings(rows: pd.DataFrame) -> pd.DataFrame:
    """Stored fields as the columns that `Queries` promises; other writers' points may lack some."""
    rows = rows.fillna(
        {"quality": int(Flag.NOT_EVALUATED), "tests": 0, "status": 0, "mark": 0, "arrival_ns": 0, "seq": 0}
    )
    is_text = (rows["mark"].to_numpy("int64") & int(Mark.TEXT)) != 0
    infinite = rows["reason"].isin(("inf", "-inf")).to_numpy() & ~is_text
    value = rows["value"].to_numpy(copy=True)
    value[infinite] = rows["reason"].to_numpy()[infinite].astype("float64")
    rows = rows.assign(
        value=value,
        flag=rows["quality"].astype("int64"),
        grade=rows["quality"].map({int(flag): grade for flag, grade in GRADES.items()}),
        text=rows["reason"].astype(object).where(is_text, None),
        arrival_time=pd.to_datetime(rows["arrival_ns"].astype("int64"), unit="ns", utc=True),
    )
    order = ["value", "unit", "flag", "grade", "tests", "status", "mark", "text", "estimate", "rate", "std"]
    whole = dict.fromkeys(("tests", "status", "mark", "seq"), "int64")
    return _indexed(rows).astype(whole)[[*order, "innovation", "nis", "arrival_time", "source", "seq"]]
