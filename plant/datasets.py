"""Data sets that can be played: Tennessee Eastman (Braatz's simulation files) and NAB (one temperature).

A data set is rows in the order of its file; every row arrives, also where the file's times repeat or go back (NAB's
hour of 2014-01-07 02:00 is there twice, with other values). Knows files, no protocol and no clock.
"""

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

DIRECTORY = Path(__file__).parent / "data"
SECOND_NS = 1_000_000_000

#: Downs and Vogel, A plant-wide industrial process control problem (1993), tables 4 and 5. "kPag": kPa gauge.
XMEAS_UNITS = (
    *("kscmh", "kg/h", "kg/h", "kscmh", "kscmh", "kscmh", "kPag", "%", "degC", "kscmh"),
    *("degC", "%", "kPag", "m3/h", "%", "kPag", "m3/h", "degC", "kg/h", "kW", "degC", "degC"),
    *["mol%"] * 19,
)
TE_TAGS = (*(f"xmeas_{i:02d}" for i in range(1, 42)), *(f"xmv_{i:02d}" for i in range(1, 12)))
TE_UNITS = (*XMEAS_UNITS, *["%"] * 11)
TE_INTERVAL_S = 180.0
TE_START_NS = 1_735_689_600 * SECOND_NS  # 2025-01-01T00:00:00Z; the files have no times of their own
TE_FAULT_ROW = 161  # counted from 1: the first row with the fault that the file's name tells

NAB_INTERVAL_S = 300.0
#: Windows in which NAB's authors labelled anomalies, both ends included, in UTC like all of the file's times.
NAB_WINDOWS = (
    ("2013-12-10 06:25:00", "2013-12-12 05:35:00"),
    ("2013-12-15 17:50:00", "2013-12-17 17:00:00"),
    ("2014-01-27 14:20:00", "2014-01-29 13:30:00"),
    ("2014-02-07 14:55:00", "2014-02-09 14:05:00"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row: a time in ns since 1970, one value per tag, and what the data set says was wrong then."""

    source_time_ns: int
    values: tuple[float, ...]
    fault: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSet:
    """A whole file. `interval_s` is the time between rows where the process ran undisturbed."""

    asset: str
    tags: tuple[str, ...]
    units: tuple[str, ...]
    interval_s: float
    rows: Sequence[Row]


def load(path: Path, asset: str | None = None) -> DataSet:
    """Read a file; `asset` replaces the name made from the file's. Raises ValueError for one that is neither kind."""
    if path.suffix == ".dat":
        return _tennessee_eastman(path, asset)
    if path.suffix == ".csv":
        return _nab(path, asset)
    raise ValueError(f"{path}: allowed are .dat (Tennessee Eastman) and .csv (timestamp,value)")


def _tennessee_eastman(path: Path, asset: str | None) -> DataSet:
    named = re.search(r"d(\d\d)", path.stem)
    number = named[1] if named else "00"
    rows = []
    for i, text in enumerate(path.read_text("ascii").splitlines()):
        values = tuple(float(cell) for cell in text.split())
        if len(values) != len(TE_TAGS):
            raise ValueError(f"{path}: line {i + 1} has {len(values)} columns, allowed is {len(TE_TAGS)}")
        fault = f"idv_{number}" if number != "00" and i + 1 >= TE_FAULT_ROW else None
        time_ns = TE_START_NS + round(i * TE_INTERVAL_S) * SECOND_NS
        rows.append(Row(source_time_ns=time_ns, values=values, fault=fault))
    return DataSet(asset=asset or f"TE{number}", tags=TE_TAGS, units=TE_UNITS, interval_s=TE_INTERVAL_S, rows=rows)


def _nab(path: Path, asset: str | None) -> DataSet:
    windows = [(_utc_ns(start), _utc_ns(end)) for start, end in NAB_WINDOWS]
    with path.open(newline="", encoding="ascii") as file:
        reader = csv.reader(file)
        header = next(reader, [])
        if header != ["timestamp", "value"]:
            raise ValueError(f"{path}: columns {header}, allowed is timestamp,value")
        rows = []
        for text, value in reader:
            time_ns = _utc_ns(text)
            fault = "anomaly" if any(start <= time_ns <= end for start, end in windows) else None
            rows.append(Row(source_time_ns=time_ns, values=(float(value),), fault=fault))
    return DataSet(asset=asset or "NAB", tags=("temperature",), units=("",), interval_s=NAB_INTERVAL_S, rows=rows)


def _utc_ns(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * SECOND_NS
