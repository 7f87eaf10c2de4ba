"""What estimates are measured against: the truth where somebody kept it, else a fixed-interval smoother.

Truth is a CSV or Parquet file with the columns asset, tag, time, value, or a journal of the simulated plant
(`.jsonl`). May not know: runs, figures.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from kernels import kalman
from replay.results.finished import ResultError
from replay.score.moments import moments_ns

Floats = NDArray[np.float64]
I64 = NDArray[np.int64]

COLUMNS = ("asset", "tag", "time", "value")


class Line(NamedTuple):
    """A reference of one tag: times in ns, ascending, and values in the unit of its readings."""

    time_ns: I64
    value: Floats

    def at(self, time_ns: I64) -> Floats:
        """Its value at each time, straight between two of its points, NaN before the first and after the last."""
        if not len(self.time_ns):
            return np.full(len(time_ns), math.nan)
        # from the first point on: a float64 has no room for ns since 1970
        origin = self.time_ns[0]
        inside = (time_ns >= origin) & (time_ns <= self.time_ns[-1])
        at = np.where(inside, time_ns, origin) - origin
        found = np.interp(at.astype(np.float64), (self.time_ns - origin).astype(np.float64), self.value)
        return np.where(inside, found, math.nan)


@dataclass(frozen=True, slots=True)
class Truth:
    """Truth by asset and tag."""

    lines: Mapping[tuple[str, str], Line]


def read(path: Path) -> Truth:
    """The truth in a file. Raises ResultError for one that is none."""
    try:
        table = _journal(path) if path.suffix == ".jsonl" else _table(path)
    except (OSError, pa.ArrowException, orjson.JSONDecodeError, pd.errors.ParserError, UnicodeDecodeError) as error:
        raise ResultError(f"{path}: cannot be read ({error})") from error
    except pd.errors.EmptyDataError as error:
        raise ResultError(f"{path}: is empty; columns are {', '.join(COLUMNS)}") from error
    lines = {}
    for (asset, tag), rows in table.groupby(["asset", "tag"], observed=True, sort=True):
        ordered = rows.sort_values("time_ns", kind="stable")
        # of several truths of one time the last counts, as for readings that come again
        ordered = ordered.drop_duplicates("time_ns", keep="last")
        time_ns, value = ordered["time_ns"].to_numpy(np.int64), ordered["value"].to_numpy(np.float64)
        known = np.isfinite(value)
        lines[str(asset), str(tag)] = Line(time_ns[known], value[known])
    return Truth(lines)


def _table(path: Path) -> pd.DataFrame:
    if path.suffix == ".parquet":
        table = pd.read_parquet(path)
    else:
        table = pd.read_csv(path, dtype={"asset": str, "tag": str, "time": str}, keep_default_na=True)
    missing = [name for name in COLUMNS if name not in table.columns]
    if missing:
        raise ResultError(f"{path}: columns missing: {', '.join(missing)}; allowed are {', '.join(COLUMNS)}")
    try:
        time_ns = _times(table["time"])
        value = pd.to_numeric(table["value"]).astype("float64")
    except ValueError as error:
        raise ResultError(f"{path}: {error}") from error
    return pd.DataFrame({"asset": table["asset"], "tag": table["tag"], "time_ns": time_ns, "value": value})


def _times(column: Any) -> I64:
    if pd.api.types.is_datetime64_any_dtype(column):
        utc = pd.to_datetime(column, utc=True)
        return np.asarray(pd.DatetimeIndex(utc).as_unit("ns").asi8, np.int64)
    if pd.api.types.is_integer_dtype(column):
        return np.asarray(column.to_numpy(np.int64))
    return moments_ns([str(text) for text in column])


def _journal(path: Path) -> pd.DataFrame:
    rows = []
    with path.open("rb") as file:
        for text in file:
            line = orjson.loads(text)
            if "event" not in line and line.get("truth") is not None:
                rows.append((line["asset"], line["tag"], int(line["source_time_ns"]), float(line["truth"])))
    return pd.DataFrame(rows, columns=["asset", "tag", "time_ns", "value"])


class Smoothed(NamedTuple):
    """A smoother's value and standard deviation per reading, shape (n,) each, NaN where there is none."""

    value: Floats
    std: Floats


def smoothed(time_ns: I64, value: Floats, accepted: NDArray[np.bool_], settings: Floats) -> Smoothed:
    """Fixed-interval smoother over the accepted readings of one tag, read off at the time of every reading.

    `settings`: the tag's row of `kernels.estimation_params`. It has the same q and r as the filter: where these do not
    fit, it is as wrong about how fast the truth moves as the filter is.
    """
    out = np.full((2, len(value)), math.nan)
    order = np.argsort(time_ns, kind="stable")
    z = np.where(accepted, value, math.nan)[order]
    known = np.flatnonzero(np.isfinite(z))
    if len(known):
        first = int(known[0])
        out[:, order[first:]] = _smoothed(time_ns[order[first:]], z[first:], settings)
    return Smoothed(out[0], out[1])


def _smoothed(time_ns: I64, z: Floats, settings: Floats) -> Any:
    """Value and standard deviation, shape (2, n), of readings in order of time, the first one not NaN."""
    if settings[kalman.EXACT] > 0.0:
        return pd.Series(z).ffill().to_numpy(np.float64), np.zeros(len(z))
    dt_s = np.clip(np.diff(time_ns, prepend=time_ns[0]) / 1e9, 0.0, kalman.DT_MAX_S)
    q, r, white = float(settings[kalman.Q]), float(settings[kalman.R]), bool(settings[kalman.WHITE] > 0.0)
    x, p = np.array([z[0], 0.0]), np.eye(2) * float(settings[kalman.INITIAL])
    rest = np.concatenate(([math.nan], z[1:]))  # the first is in the state at the beginning already
    found = kalman.smooth(dt_s, kalman.filter_series(dt_s, rest, q, r, white, x, p), q, white)
    return found[:, 0], np.sqrt(np.maximum(found[:, 2], 0.0))
