from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from replay.results.tables import LAYOUT, READINGS, Folder
from replay.sources.raw import Raw
from schemas.frames import EstimateFrame
from schemas.records import TwinState
from tests.kernels.frame_strategies import EVERYTHING, frames_of, random_events, run


def outputs(n: int) -> tuple[list[EstimateFrame], list[TwinState]]:
    """Estimates and twin states of random frames."""
    frames = frames_of(random_events(n, 5), [i % 9 == 0 for i in range(n)])
    return run("estimation", frames, EVERYTHING)[1], run("twin", frames, EVERYTHING)[1]


def read(folder: Path, table: str) -> list[dict[str, Any]]:
    """All rows of a table."""
    return [row for part in sorted((folder / table).iterdir()) for row in pq.read_table(part).to_pylist()]


def test_what_is_written_is_what_was_given(tmp_path: Path) -> None:
    """Every reading, variable, state and alert has its row, in order, with its numbers to the bit."""
    estimates, states = outputs(400)
    folder = Folder(tmp_path, 3)
    for frame, state in zip(estimates, states, strict=True):
        folder.readings(frame, [Raw("twin.raw", 3, 0, b"", frame)])
        folder.state(state)
    folder.close()
    assert {path.name for path in tmp_path.iterdir()} == set(LAYOUT)
    rows = read(tmp_path, "readings")
    for name in ("value", "estimate", "nis"):
        written = np.array([row[name] for row in rows])
        assert written.tobytes() == np.concatenate([getattr(f, name) for f in estimates]).tobytes()
    assert [(r["tag"], r["unit"], r["source"], r["seq"], r["flag"]) for r in rows] == [
        (f.tags[t], f.units[t], f.source, f.seq, flag)
        for f in estimates
        for t, flag in zip(f.tag.tolist(), f.flag.tolist(), strict=True)
    ]
    assert [dict(row["model_states"]) for row in read(tmp_path, "states")] == [s.model_states for s in states]
    variables = [(s.time_ns, tag, v.value, v.flag) for s in states for tag, v in s.variables.items()]
    assert [(r["time_ns"], r["tag"], r["value"], r["flag"]) for r in read(tmp_path, "variables")] == variables
    assert [r["message"] for r in read(tmp_path, "alerts")] == [a.message for s in states for a in s.alerts]


def test_a_table_without_rows_has_its_columns(tmp_path: Path) -> None:
    """A partition without readings still has its files, so that readers need no special case."""
    Folder(tmp_path, 0).close()
    for name, schema in LAYOUT.items():
        assert pq.read_schema(tmp_path / name / "part-0-0.parquet").equals(schema)
    assert pq.read_table(tmp_path / "readings" / "part-0-0.parquet").schema.names == READINGS.names
