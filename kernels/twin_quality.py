"""How well the model follows the estimates: residual, rolling RMSE, MAE and R², and an alarm that a residual stays.

A sample is a pair (estimate, model) at a reading of a tag that measures a state of the model. The last `quality_window`
pairs are kept, so the figures are exact and do not drift. May not know: frames, settings. Jitted functions call only
those of this file.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.jit import jit

Floats = NDArray[np.float64]
I64 = NDArray[np.int64]

# Memory of an observed state: samples so far, since when the residual has been on the other side of the limit than the
# alarm says (−1: it is not), the alarm (0 or 1), state row of the tag the samples came from (−1: none yet).
COUNT, SINCE_NS, ALARM, ROW = range(4)
MEMORY = 4


@jit
def score(index: I64, row: I64, observed: I64, entry: I64, entry_rank: I64, rank: I64, time_ns: I64, estimate: Floats,
          std: Floats, model: Floats, limit: float, lasting_ns: int, memory: I64, pairs: Floats, residual: Floats,
          event: I64) -> int:  # fmt: skip
    """Takes events in order into the samples. Returns the number of alarm events.

    In, one per event: `index` (what `event` names it by), `row` (of the tag), `observed` (which observed state, −1:
    none), `entry`, `entry_rank` (input and rank, as in `kernels.models.model`), `time_ns`, `estimate`, `std`, `model`
    (its value, in the unit of the estimate). `rank` (inputs,) as before the events, changed in place as `Model.fold`
    does. An alarm: |residual| > `limit` · std (NaN: never), for `lasting_ns`. Changed in place: `memory` (observed,
    MEMORY), `pairs` (observed, window, 2), `residual` (observed,). Out: `event` (m, 3: index, row, 1 on or 0 off).
    """
    n = 0
    for i in range(len(index)):
        if entry[i] < 0 or entry_rank[i] > rank[entry[i]]:
            continue
        rank[entry[i]] = entry_rank[i]
        o = observed[i]
        if o < 0:
            continue
        m = memory[o]
        slot = m[COUNT] % pairs.shape[1]
        pairs[o, slot, 0], pairs[o, slot, 1] = estimate[i], model[i]
        m[COUNT] += 1
        m[ROW] = row[i]
        residual[o] = estimate[i] - model[i]
        # an alarm comes, and goes, only after the residual has been on the other side of the limit for that long
        beyond = 1 if abs(residual[o]) > limit * std[i] else 0
        if beyond == m[ALARM]:
            m[SINCE_NS] = -1
            continue
        if m[SINCE_NS] < 0:
            m[SINCE_NS] = time_ns[i]
        if time_ns[i] - m[SINCE_NS] >= lasting_ns:
            event[n, 0], event[n, 1], event[n, 2] = i, row[i], beyond
            m[ALARM], m[SINCE_NS] = beyond, -1
            n += 1
    return n


@jit
def figures(pairs: Floats, count: int, out: Any) -> None:
    """RMSE, MAE and R² of model against estimate over `pairs` (window, 2), of which `count` were written; R² is NaN
    where the estimates do not vary. R² = 1 − Σ(estimate − model)² / Σ(estimate − their mean)².
    """
    n = min(count, len(pairs))
    out[:] = np.nan
    if n == 0:
        return
    squares, absolutes, total = 0.0, 0.0, 0.0
    for i in range(n):
        e = pairs[i, 0] - pairs[i, 1]
        squares += e * e
        absolutes += abs(e)
        total += pairs[i, 0]
    mean, spread = total / n, 0.0
    for i in range(n):
        spread += (pairs[i, 0] - mean) * (pairs[i, 0] - mean)
    out[0], out[1] = np.sqrt(squares / n), absolutes / n
    if n > 1 and spread > 1e-12 * n * (1.0 + mean * mean):
        out[2] = 1.0 - squares / spread
