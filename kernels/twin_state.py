"""What the twin remembers of an asset: the columns of its state, and a writable copy of them for one step.

May not know: what the numbers do.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels import alerts, twin_quality, windows
from kernels.rows import NO_ROW
from kernels.stage import ColumnSpec, clock_of, with_clock, writable
from kernels.twin_params import AssetModel, TwinParams
from schemas.quality import Flag
from schemas.states import StageState

Floats = NDArray[np.float64]
I64 = NDArray[np.int64]

#: No time yet.
NONE_NS = -1
#: No tag has given this input yet: any rank is better.
NO_RANK = np.iinfo(np.int64).max

# Column `event`: newest source time that moved the twin (NONE_NS: none), the arrival clock then, how long that reading
# was on its way (all ns), and the number of readings seen.
TIME, CLOCK_THEN, DELAY, READINGS = range(4)

#: Longest unit and source id kept.
UNIT, SOURCE = "<U16", "<U64"

TAG_COLUMNS = {
    "estimate": ColumnSpec("<f8", (3,), np.nan),  # value, rate, std of the newest reading that could be used
    "used_ns": ColumnSpec("<i8", (), NONE_NS),  # its source time
    "flag": ColumnSpec("u1", (), Flag.NOT_EVALUATED),  # of the newest reading in time
    "memory": ColumnSpec("<i8", (alerts.MEMORY,)),
    "nis_sum": ColumnSpec("<f8"),
}


#: Columns that only make sense together, and for the model and the window of samples that they were made with.
SCORE_COLUMNS = ("score", "pairs", "residual")
MODEL_COLUMNS = ("model_states", "model_inputs", "model_ranks")


@dataclass(slots=True, kw_only=True)
class Memory:
    """The twin's state while a step works on it: every array is a copy that may be written."""

    state: StageState
    clock_ns: int
    event: I64
    units: NDArray[np.str_]
    sources: dict[str, bool]
    x: Floats
    u: Floats
    rank: I64
    score: I64
    pairs: Floats
    residual: Floats
    grid: I64

    def of_tags(self, name: str) -> NDArray[Any]:
        """A per-tag column."""
        return self.state.columns[name]


def initial(asset: str) -> StageState:
    """Nothing seen yet."""
    return writable(StageState(stage="twin", asset=asset), (), TAG_COLUMNS)


def opened(state: StageState, tags: tuple[str, ...], asset: AssetModel, params: TwinParams) -> Memory:
    """A copy to work on, with rows for new `tags`. What was kept for another model or other windows starts anew."""
    state = writable(state, tags, _columns(len(params.windows_ns)))
    fresh = _start(asset, params)
    old = {**fresh, **state.columns}
    for together in (MODEL_COLUMNS, SCORE_COLUMNS):
        complete = all(name in state.columns and old[name].shape == fresh[name].shape for name in together)
        if not complete or old["model"] != fresh["model"]:
            old.update({name: fresh[name] for name in together})
    if not np.array_equal(old["windows_ns"], params.windows_ns):
        old["window_grid"] = fresh["window_grid"]
        old["window_counts"][:] = windows.NONE
    units = np.zeros(len(state.tags), UNIT)
    units[: len(old["unit"])] = old["unit"]
    memory = Memory(
        state=state,
        clock_ns=clock_of(state),
        event=old["event"].copy(),
        units=units,
        sources=dict(zip(old["sources"].tolist(), old["connected"].tolist(), strict=False)),
        x=old["model_states"].copy(),
        u=old["model_inputs"].copy(),
        rank=old["model_ranks"].copy(),
        score=old["score"].copy(),
        pairs=old["pairs"].copy(),
        residual=old["residual"].copy(),
        grid=old["window_grid"].copy(),
    )
    unmeasured = memory.rank == NO_RANK
    if unmeasured.any():
        memory.u[:, unmeasured] = asset.inputs[:, unmeasured]
    return memory


@lru_cache
def _columns(sizes: int) -> dict[str, ColumnSpec]:
    """Per-tag columns with this many window sizes."""
    windowed = {
        "window_counts": ColumnSpec("<i8", (sizes, 2), windows.NONE),
        "window_sums": ColumnSpec("<f8", (sizes, 3)),
    }
    return {**TAG_COLUMNS, **windowed}


@lru_cache(maxsize=4096)
def _start(asset: AssetModel, params: TwinParams) -> dict[str, NDArray[Any]]:
    """Asset-wide columns before the first frame. Nobody writes to them."""
    observed = len(asset.observed)
    score = np.zeros((observed, twin_quality.MEMORY), np.int64)
    score[:, twin_quality.SINCE_NS], score[:, twin_quality.ROW] = NONE_NS, NO_ROW
    return {
        "event": np.array([NONE_NS, 0, 0, 0], np.int64),
        "unit": np.zeros(0, UNIT),
        "sources": np.zeros(0, SOURCE),
        "connected": np.zeros(0, np.bool_),
        "model": np.array([asset.name], SOURCE),
        "model_states": asset.states,
        "model_inputs": asset.inputs,
        "model_ranks": np.full(asset.inputs.shape[1], NO_RANK),
        "score": score,
        "pairs": np.zeros((observed, params.quality_window, 2)),
        "residual": np.full(observed, np.nan),
        "windows_ns": params.windows_ns,
        "window_grid": np.full(len(params.windows_ns), NONE_NS, np.int64),
    }


def closed(memory: Memory, asset: AssetModel, params: TwinParams) -> StageState:
    """The state after a step."""
    columns = {
        **memory.state.columns,
        "event": memory.event,
        "unit": memory.units,
        "sources": np.array(list(memory.sources), SOURCE),
        "connected": np.array(list(memory.sources.values()), np.bool_),
        "model": _start(asset, params)["model"],
        "model_states": memory.x,
        "model_inputs": memory.u,
        "model_ranks": memory.rank,
        "score": memory.score,
        "pairs": memory.pairs,
        "residual": memory.residual,
        "windows_ns": params.windows_ns,
        "window_grid": memory.grid,
    }
    return with_clock(replace(memory.state, columns=columns), memory.clock_ns)
