"""A run that is finished, read back: a folder of Parquet files as tables per asset, in bounded memory.

`readings/`: one row per reading; `variables/`: one row per frame and tag of the twin; `states/`: one row per frame;
`alerts/`; `run.json`: provenance. May not know: how a run is made, what its figures mean.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as papq

#: Columns that must be there, by table.
READINGS = (
    *("asset", "tag", "unit", "source", "epoch", "seq", "source_time_ns", "arrival_time_ns", "value", "status", "mark"),
    *("flag", "tests", "ordinal", "estimate", "rate", "std", "innovation", "nis"),
)
VARIABLES = ("asset", "tag", "unit", "time_ns", "value", "rate", "std", "age_s", "residual", "flag")
STATES = (
    *("asset", "source", "epoch", "seq", "time_ns", "clock_ns", "model", "coverage", "latency_ms", "newest_age_s"),
    *("readings", "model_states", "prediction"),
)
ALERTS = ("asset", "tag", "kind", "severity", "time_ns", "message", "value")
TABLES = {"readings": READINGS, "variables": VARIABLES, "states": STATES, "alerts": ALERTS}
#: Event time of a row, by table.
TIMES = {"readings": "source_time_ns", "variables": "time_ns", "states": "time_ns", "alerts": "time_ns"}
#: Columns of words, which come as categories.
WORDS = ("asset", "tag", "unit", "source", "model", "kind", "severity")
#: Assets are read together until they have so many readings.
BATCH_READINGS = 2_000_000


class ResultError(ValueError):
    """A run that cannot be read, or that has not what was asked for. The message names what there is."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AssetRun:
    """What a run found about one asset: four tables with the columns of `TABLES`, in the order they were written."""

    asset: str
    readings: pd.DataFrame
    variables: pd.DataFrame
    states: pd.DataFrame
    alerts: pd.DataFrame

    def tags(self) -> tuple[str, ...]:
        """Names of the tags that have readings, sorted."""
        return tuple(sorted(map(str, self.readings["tag"].unique())))

    def of_tag(self, tag: str) -> pd.DataFrame:
        """Readings of one tag, in the order they were written."""
        return self.readings[self.readings["tag"] == tag]

    def variable(self, tag: str) -> pd.DataFrame:
        """The twin's rows of one tag."""
        return self.variables[self.variables["tag"] == tag]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run in `folder`. `start_ns`, `stop_ns`: only event times from start to before stop; None: all."""

    name: str
    folder: Path
    provenance: dict[str, Any] = field(default_factory=dict)
    start_ns: int | None = None
    stop_ns: int | None = None

    def counts(self) -> dict[str, int]:
        """Readings per asset, in the order in which their files have them."""
        counts: dict[str, int] = {}
        source = _dataset(self.folder, "readings")
        where = _where(source, "readings", None, self.start_ns, self.stop_ns)
        for batch in source.to_batches(columns=["asset"], filter=where):
            for pair in batch.column("asset").value_counts().to_pylist():
                counts[pair["values"]] = counts.get(pair["values"], 0) + pair["counts"]
        return counts

    def matching(self, patterns: Sequence[str]) -> dict[str, int]:
        """Readings of each asset that matches one of the patterns (`*`, `?`); without patterns of every asset.

        Raises ResultError for a pattern that no asset matches.
        """
        counts = self.counts()
        found: dict[str, int] = {}
        for pattern in patterns or ("*",):
            matched = {asset: n for asset, n in counts.items() if fnmatchcase(asset, pattern)}
            if patterns and not matched:
                there = ", ".join(sorted(counts)[:20]) or "none"
                raise ResultError(f"run {self.name}: no readings of asset {pattern!r}; there are {there}")
            found |= matched
        return {asset: n for asset, n in counts.items() if asset in found}

    def by_asset(self, patterns: Sequence[str] = ()) -> Iterator[AssetRun]:
        """Asset by asset those that `matching` gives. Raises what that does."""
        chosen = self.matching(patterns)
        for group in _groups(chosen):
            tables = {name: self._table(name, group) for name in TABLES}
            for asset in group:
                parts = {name: _rows_of(table, asset) for name, table in tables.items()}
                yield AssetRun(asset=asset, **parts)

    def asset(self, asset: str) -> AssetRun:
        """One asset, without looking at the others; its tables are empty where the run does not have it."""
        return AssetRun(asset=asset, **{name: _rows_of(self._table(name, [asset]), asset) for name in TABLES})

    def _table(self, name: str, assets: Sequence[str]) -> pd.DataFrame:
        source = _dataset(self.folder, name)
        where = _where(source, name, assets, self.start_ns, self.stop_ns)
        return as_pandas(source.to_table(columns=list(TABLES[name]), filter=where))


def load(folder: Path, start_ns: int | None = None, stop_ns: int | None = None) -> Run:
    """The run in a folder, checked: it ended, its tables are there and have their columns. Raises ResultError."""
    if not folder.is_dir():
        raise ResultError(f"{folder}: no such folder; a run is a folder with readings/, states/ and run.json")
    provenance = _provenance(folder / "run.json")
    for name, needed in TABLES.items():
        missing = [column for column in needed if column not in _dataset(folder, name).schema.names]
        if missing:
            raise ResultError(f"{folder / name}: columns missing: {', '.join(missing)}")
    return Run(name=folder.name, folder=folder, provenance=provenance, start_ns=start_ns, stop_ns=stop_ns)


def as_pandas(table: Any) -> pd.DataFrame:
    """An Arrow table with words as categories and maps as dictionaries."""
    for name in WORDS:
        place = table.schema.get_field_index(name)
        if place >= 0 and not pa.types.is_dictionary(table.schema.field(place).type):
            table = table.set_column(place, name, table.column(place).dictionary_encode())
    frame: pd.DataFrame = table.to_pandas(maps_as_pydicts="lossy")
    return frame


def empty(name: str) -> pd.DataFrame:
    """A table without rows: for what a run has not written."""
    return pd.DataFrame({column: pd.Series(dtype=_empty_type(column)) for column in TABLES[name]})


def _empty_type(column: str) -> str:
    if column in WORDS:
        return "category"
    if column in ("message", "model_states", "prediction"):
        return "object"
    return "int64" if column.endswith("_ns") or column in ("epoch", "seq", "readings", "flag", "tests") else "float64"


def _provenance(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise ResultError(
            f"{path.parent}: there is no {path.name}, which is written last: the run did not end, or it is none; "
            "replay it again under a new name"
        )
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ResultError(f"{path}: cannot be read ({error})") from error
    return found if isinstance(found, dict) else {"run": found}


def _dataset(folder: Path, name: str) -> Any:
    """The files of a table; one without rows where there are none, but readings must be there."""
    files = sorted((folder / name).glob("*.parquet"), key=_numbers)
    if not files:
        if name == "readings":
            raise ResultError(f"{folder / name}: no Parquet files; a run has readings/part-*.parquet")
        return pads.dataset(pa.Table.from_pandas(empty(name), preserve_index=False))
    try:
        return pads.dataset([pads.dataset(str(path), format="parquet", schema=None) for path in files])
    except (pa.ArrowException, OSError) as error:
        raise ResultError(f"{folder / name}: {error}") from error


def _numbers(path: Path) -> list[int]:
    """Partition and number of a part: parts of a partition follow each other by number."""
    return [int(digits) for digits in re.findall(r"\d+", path.name)]


def _where(source: Any, name: str, assets: Iterable[str] | None, start_ns: int | None, stop_ns: int | None) -> Any:
    """The rows to read, as an Arrow expression; None for all."""
    time = pads.field(TIMES[name])
    terms = []
    if assets is not None and len(source.schema):
        terms.append(pads.field("asset").isin(list(assets)))
    if start_ns is not None:
        terms.append(time >= start_ns)
    if stop_ns is not None:
        terms.append(time < stop_ns)
    found = None
    for term in terms:
        found = term if found is None else found & term
    return found


def _groups(counts: dict[str, int]) -> Iterator[list[str]]:
    """Assets to be read together."""
    group: list[str] = []
    size = 0
    for asset, n in counts.items():
        if group and size + n > BATCH_READINGS:
            yield group
            group, size = [], 0
        group.append(asset)
        size += n
    if group:
        yield group


def _rows_of(table: pd.DataFrame, asset: str) -> pd.DataFrame:
    rows: pd.DataFrame = table[(table["asset"] == asset).to_numpy(np.bool_)]
    return rows.reset_index(drop=True)


def rows_written(folder: Path, name: str) -> int:
    """Rows of a table by the files' own footers, without reading them."""
    return sum(papq.ParquetFile(path).metadata.num_rows for path in (folder / name).glob("*.parquet"))
