"""Layout of a run's folder of Parquet files, and what writes one. May not know: how results come to be.

    <out>/<name>/readings/part-<partition>-<n>.parquet    one row per reading, as estimation gave it
                 variables/…   one row per twin state and tag     alerts/…    one row per alert of the twin
                 states/…      one row per twin state             run.json    `replay.results.provenance`, written last

Within a partition rows stand in the order of the log; parts of a partition follow each other by n. Times are ns since
1970, missing numbers NaN in readings and null elsewhere. A folder without `run.json` is of a run that did not end.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from replay.fold.joining import Origin
from replay.sources.raw import Raw
from schemas.frames import Column, EstimateFrame
from schemas.records import Alert, TwinState, Variable

NAME, TEXT, I64, F64, U32, U8 = (
    pa.dictionary(pa.int32(), pa.string()),
    pa.string(),
    pa.int64(),
    pa.float64(),
    pa.uint32(),
    pa.uint8(),
)
NUMBERS = pa.map_(TEXT, F64)


def _table(*columns: tuple[str, Any]) -> pa.Schema:
    """Columns from their names in one text, and their type."""
    return pa.schema([(name, kind) for names, kind in columns for name in names.split()])


#: source, epoch and seq are those of the frame that a reading came in, also where frames were joined.
READINGS = _table(
    ("asset tag unit source", NAME),
    ("epoch seq source_time_ns arrival_time_ns", I64),
    ("value", F64),
    ("status", U32),
    ("mark flag", U8),
    ("tests", U32),
    ("ordinal", U8),
    ("estimate rate std innovation nis", F64),
)
VARIABLES = _table(
    ("asset tag unit", NAME), ("time_ns", I64), ("value rate std age_s residual rmse mae r2", F64), ("flag", U8)
)
STATES = _table(
    ("asset source", NAME),
    ("epoch seq time_ns clock_ns", I64),
    ("model", NAME),
    ("coverage latency_ms newest_age_s", F64),
    ("readings", I64),
    ("model_states prediction", NUMBERS),
)
ALERTS = _table(("asset tag kind severity", NAME), ("time_ns", I64), ("message", TEXT), ("value", F64))
#: Folder → columns.
LAYOUT: Mapping[str, pa.Schema] = {"readings": READINGS, "variables": VARIABLES, "states": STATES, "alerts": ALERTS}

#: Columns of `readings` that are columns of the frame.
FROM_FRAME = [name for name in READINGS.names if name not in ("asset", "tag", "unit", "source", "epoch", "seq")]
#: Fields of a state or an alert that are columns of the same name.
OF_STATE = [name for name in STATES.names if not pa.types.is_map(STATES.field(name).type)]
OF_VARIABLE = [name for name in VARIABLES.names if name not in ("asset", "tag", "time_ns")]

ROWS_AT_ONCE = 1 << 18
ROWS_PER_PART = 1 << 25


class Folder:
    """Writes the results of one partition. `close()` ends the files; without it they cannot be read."""

    def __init__(self, folder: Path, partition: int) -> None:
        self._parts = {name: _Parts(folder / name, partition, schema) for name, schema in LAYOUT.items()}
        self._variables: list[tuple[str, int, str, Variable]] = []
        self._states: list[TwinState] = []
        self._alerts: list[Alert] = []

    def readings(self, frame: EstimateFrame, raws: Sequence[Raw]) -> None:
        """Add the readings of a frame that was made of the raw frames `raws`."""
        n = len(frame)
        if n == 0:
            return
        of = Origin(raws, frame)
        columns = {
            "asset": _named(np.zeros(n, np.int32), (frame.asset,)),
            "tag": _named(frame.tag.astype(np.int32), frame.tags),
            "unit": _named(frame.tag.astype(np.int32), frame.units),
            "source": _named(of.source, of.sources),
            "epoch": pa.array(of.epoch),
            "seq": pa.array(of.seq),
            **{name: pa.array(getattr(frame, name)) for name in FROM_FRAME},
        }
        self._parts["readings"].add(pa.RecordBatch.from_arrays(list(columns.values()), schema=READINGS))

    def state(self, state: TwinState) -> None:
        """Add a twin state with its variables and alerts."""
        self._states.append(state)
        self._alerts += state.alerts
        self._variables += [(state.asset, state.time_ns, tag, v) for tag, v in state.variables.items()]
        if len(self._variables) + len(self._states) >= ROWS_AT_ONCE // 8:
            self._convert()

    def alert(self, alert: Alert) -> None:
        """Add an alert that is in no twin state."""
        self._alerts.append(alert)

    def close(self) -> None:
        """Write what is left and end the files."""
        self._convert()
        for parts in self._parts.values():
            parts.close()

    def _convert(self) -> None:
        rows = self._variables
        variables: dict[str, list[Any]] = {
            "asset": [asset for asset, _, _, _ in rows],
            "tag": [tag for _, _, tag, _ in rows],
            "time_ns": [time_ns for _, time_ns, _, _ in rows],
            **{name: [getattr(v, name) for _, _, _, v in rows] for name in OF_VARIABLE},
        }
        states: dict[str, list[Any]] = {name: [getattr(s, name) for s in self._states] for name in OF_STATE}
        for name in ("model_states", "prediction"):
            states[name] = [list(getattr(s, name).items()) for s in self._states]
        alerts = {name: [getattr(a, name) for a in self._alerts] for name in ALERTS.names}
        for name, columns in (("variables", variables), ("states", states), ("alerts", alerts)):
            self._parts[name].add(_batch(columns, LAYOUT[name]))
        self._variables, self._states, self._alerts = [], [], []


class _Parts:
    """The files of one table and partition: one row group per ROWS_AT_ONCE, one file per ROWS_PER_PART rows."""

    def __init__(self, folder: Path, partition: int, schema: pa.Schema) -> None:
        self._folder, self._partition, self._schema = folder, partition, schema
        self._waiting: list[pa.RecordBatch] = []
        self._rows = self._written = self._number = 0
        self._writer: parquet.ParquetWriter | None = None

    def add(self, batch: pa.RecordBatch) -> None:
        """Take rows; writes when there are many."""
        if batch.num_rows == 0:
            return
        self._waiting.append(batch)
        self._rows += batch.num_rows
        if self._rows >= ROWS_AT_ONCE:
            self._flush()

    def close(self) -> None:
        """End the file. There is always one, so a reader finds the columns of a table without rows."""
        self._flush()
        self._opened().close()

    def _flush(self) -> None:
        writer = self._opened()
        if self._waiting:
            writer.write_table(pa.Table.from_batches(self._waiting, self._schema).unify_dictionaries())
        self._written += self._rows
        self._waiting, self._rows = [], 0
        if self._written >= ROWS_PER_PART:
            writer.close()
            self._writer, self._written, self._number = None, 0, self._number + 1

    def _opened(self) -> parquet.ParquetWriter:
        if self._writer is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            path = self._folder / f"part-{self._partition}-{self._number}.parquet"
            names = [f.name for f in self._schema if pa.types.is_dictionary(f.type)]
            self._writer = parquet.ParquetWriter(
                path, self._schema, compression="zstd", compression_level=1, use_dictionary=names
            )
        return self._writer


def _named(index: Column, names: Sequence[str]) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(index, pa.int32()), pa.array(names, pa.string()))


def _batch(columns: Mapping[str, list[Any]], schema: pa.Schema) -> pa.RecordBatch:
    arrays = []
    for field in schema:
        if pa.types.is_dictionary(field.type):
            arrays.append(pa.array(columns[field.name], pa.string()).dictionary_encode())
        else:
            arrays.append(pa.array(columns[field.name], field.type))
    return pa.RecordBatch.from_arrays(arrays, schema=schema)
