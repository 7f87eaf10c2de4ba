"""Aggregates over windows of event time: mean, min, max and count of a tag's accepted readings (flag 1 or 2, in time).

A window is closed by the tag's first accepted reading after it, at the latest when the asset's event time is one
window beyond its end. What comes for a closed window later on (a tag far behind the asset's other tags) is left out.
May not know: frames, settings. Jitted functions call only those of this file.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.jit import jit

Floats = NDArray[np.float64]
I64 = NDArray[np.int64]

# A tag's window per size: start in ns, readings in it (0: the window at START is closed); both NONE before the first.
START, COUNT = range(2)
NONE = -1
SUM, MIN, MAX = range(3)

# A closed window, i64 and f64 part.
ROW, SIZE, BEGIN, NUMBER = range(4)
MEAN, LOWEST, HIGHEST = range(3)


@jit
def aggregate(row: I64, accepted: Any, time_ns: I64, asset_ns: I64, value: Floats, sizes_ns: I64, open_n: I64,
              open_v: Floats, grid: I64, closed_n: I64, closed_v: Floats) -> int:  # fmt: skip
    """Takes readings in order into their tags' windows. Returns how many windows were closed.

    In, one per reading: state row, whether it counts, source time, the asset's event time after it, value; `sizes_ns`
    (w,). Changed in place: `open_n` (tags, w, 2), `open_v` (tags, w, 3), `grid` (w,: the asset's event time in
    windows). Out: `closed_n` (m, 4), `closed_v` (m, 3); m of (tags + readings) · w is enough for any readings.
    """
    n = 0
    for i in range(len(row)):
        for w in range(len(sizes_ns)):
            size = sizes_ns[w]
            if accepted[i] and time_ns[i] >= 0:
                start = time_ns[i] - time_ns[i] % size
                r = row[i]
                if start > open_n[r, w, START]:
                    n = close(r, w, size, open_n, open_v, closed_n, closed_v, n)
                    open_n[r, w, START] = start
                    open_v[r, w, SUM], open_v[r, w, MIN], open_v[r, w, MAX] = 0.0, value[i], value[i]
                    open_n[r, w, COUNT] = 0
                    include(open_n[r, w], open_v[r, w], value[i])
                elif start == open_n[r, w, START] and open_n[r, w, COUNT] > 0:
                    include(open_n[r, w], open_v[r, w], value[i])
            if asset_ns[i] // size > grid[w]:
                grid[w] = asset_ns[i] // size
                for other in range(len(open_n)):
                    if open_n[other, w, COUNT] > 0 and open_n[other, w, START] <= asset_ns[i] - 2 * size:
                        n = close(other, w, size, open_n, open_v, closed_n, closed_v, n)
    return n


@jit
def include(counts: I64, sums: Floats, value: float) -> None:
    """One more reading in a window."""
    counts[COUNT] += 1
    sums[SUM] += value
    sums[MIN] = min(sums[MIN], value)
    sums[MAX] = max(sums[MAX], value)


@jit
def close(r: int, w: int, size: int, open_n: I64, open_v: Floats, closed_n: I64, closed_v: Floats, n: int) -> int:
    """Closes a window if it is open. Returns how many are closed now."""
    count = open_n[r, w, COUNT]
    if count <= 0:
        return n
    closed_n[n, ROW], closed_n[n, SIZE], closed_n[n, BEGIN], closed_n[n, NUMBER] = r, size, open_n[r, w, START], count
    closed_v[n, MEAN] = open_v[r, w, SUM] / count
    closed_v[n, LOWEST], closed_v[n, HIGHEST] = open_v[r, w, MIN], open_v[r, w, MAX]
    open_n[r, w, COUNT] = 0
    return n + 1
