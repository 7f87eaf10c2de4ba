"""Readings of one asset as the events of its model, with the measured states left out to be compared with.

A model run over them is free: inputs are what was measured, states only begin where the readings do. Between two
readings an input is their mean, which has the integral of the straight line between them; a fit looks back, so it may
use the later one. Where a tag that is used is silent for long, nothing is compared and the measured states begin anew.
Knows plain arrays; no files, no configuration.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kernels.models.model import NO_INPUT, Model
from replay.fit.interval import TooFewReadings

Floats = NDArray[np.float64]
I64 = NDArray[np.int64]

#: Silence longer than this many median intervals of a tag, and than HOLE_MIN_S, is a hole.
HOLE_INTERVALS = 20.0
HOLE_MIN_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Signal:
    """Good readings of one tag in the order of time, in the unit of its model input `entry`.

    `rank`: how good the tag is for that input, 0 is best. `state`: the state that it measures, None for a mere input.
    `std`: of a reading's noise.
    """

    tag: str
    entry: int
    rank: int
    state: int | None
    time_ns: I64
    value: Floats
    std: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Span:
    """Events in order of time, shape (events,): `dt_s` before each, `entry` (NO_INPUT: only compared).

    Input events take the mean of readings `left` and `right` of `raw` (with noise `raw_std`). Readings of states:
    `at` (event), `state`, `observed`, `std`, shape (readings,). `starts`: the events at which measured states begin
    anew, the first is 0; `begin`: (starts, measured states) first readings; `measured`: numbers of those states.
    `inputs`: (inputs,), what inputs are before the first event, NaN where nothing is measured.
    """

    asset: str
    dt_s: Floats
    entry: I64
    left: I64
    right: I64
    raw: Floats
    raw_std: Floats
    at: I64
    state: I64
    observed: Floats
    std: Floats
    starts: I64
    begin: Floats
    measured: tuple[int, ...]
    inputs: Floats
    from_ns: int
    to_ns: int

    def values(self, raw: Floats) -> Floats:
        """What each event sets its input to; 0 where it sets none."""
        return np.where(self.entry == NO_INPUT, 0.0, 0.5 * (raw[self.left] + raw[self.right]))


def span_of(asset: str, model: Model, signals: Sequence[Signal]) -> Span:
    """Events of an asset. Raises TooFewReadings where no state of the model is measured."""
    used = _best(signals)
    measured = tuple(sorted({s.state for s in used if s.state is not None}))
    if not measured:
        names = ", ".join(model.inputs[i].name for i, _ in model.observed())
        raise TooFewReadings(f"{asset}: no good readings of what model {model.name} is measured by ({names})")
    from_ns = max(int(s.time_ns[0]) for s in used)
    to_ns = min(int(s.time_ns[-1]) for s in used)
    holes = _holes(used, from_ns, to_ns)
    table = _events(used, holes, from_ns, to_ns)
    at = np.flatnonzero(table.state >= 0)
    if len(at) < 2 or to_ns <= from_ns:
        raise TooFewReadings(f"{asset}: no time in which all of {', '.join(s.tag for s in used)} have readings")
    ends = np.array([end for _, end in holes], np.int64)
    starts = np.unique(np.r_[0, np.searchsorted(table.time_ns, ends)])
    starts = np.array([s for s, e in zip(starts, [*starts[1:], len(table.time_ns)], strict=True)
                       if s == 0 or np.any((at >= s) & (at < e))], np.int64)  # fmt: skip
    inputs = np.full(len(model.inputs), np.nan)
    for s in used:
        if s.state is None:
            inputs[s.entry] = s.value[0]
    return Span(
        asset=asset,
        dt_s=np.diff(table.time_ns, prepend=table.time_ns[0]) / 1e9,
        entry=table.entry,
        left=table.left,
        right=table.right,
        raw=table.raw,
        raw_std=table.raw_std,
        at=at,
        state=table.state[at],
        observed=table.raw[table.left[at]],
        std=table.raw_std[table.left[at]],
        starts=starts,
        begin=_begin(table, at, starts, measured),
        measured=measured,
        inputs=inputs,
        from_ns=from_ns,
        to_ns=to_ns,
    )


def _best(signals: Sequence[Signal]) -> list[Signal]:
    """One tag for each input: the best of those with readings."""
    best: dict[int, Signal] = {}
    for s in sorted(signals, key=lambda s: s.rank):
        if len(s.value) >= 2:
            best.setdefault(s.entry, s)
    return list(best.values())


def _holes(used: Sequence[Signal], from_ns: int, to_ns: int) -> list[tuple[int, int]]:
    """Times in which a tag is silent, joined where they overlap."""
    found: list[tuple[int, int]] = []
    for s in used:
        step = np.diff(s.time_ns)
        longest = max(HOLE_INTERVALS * float(np.median(step)), HOLE_MIN_S * 1e9)
        found += [(int(s.time_ns[i]), int(s.time_ns[i + 1])) for i in np.flatnonzero(step > longest)]
    joined: list[tuple[int, int]] = []
    for low, high in sorted((max(a, from_ns), min(b, to_ns)) for a, b in found if b > from_ns and a < to_ns):
        if joined and low <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(high, joined[-1][1])
        else:
            joined.append((low, high))
    return joined


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Table:
    time_ns: I64
    entry: I64
    state: I64
    left: I64
    right: I64
    raw: Floats
    raw_std: Floats


def _events(used: Sequence[Signal], holes: Sequence[tuple[int, int]], from_ns: int, to_ns: int) -> _Table:
    columns: list[tuple[I64, ...]] = []
    begin = 0
    for s in used:
        n = len(s.value)
        keep = (s.time_ns >= from_ns) & (s.time_ns <= to_ns)
        if s.state is not None:
            for low, high in holes:
                keep &= (s.time_ns <= low) | (s.time_ns >= high)
        index = np.flatnonzero(keep)
        whole = np.ones(len(index), np.int64)
        entry = whole * (NO_INPUT if s.state is not None else s.entry)
        state = whole * (-1 if s.state is None else s.state)
        right = index if s.state is not None else np.minimum(index + 1, n - 1)
        columns.append((s.time_ns[index], entry, state, begin + index, begin + right))
        begin += n
    time_ns, entry, state, left, right = (np.concatenate(c) for c in zip(*columns, strict=True))
    order = np.argsort(time_ns, kind="stable")
    return _Table(
        time_ns=time_ns[order],
        entry=entry[order],
        state=state[order],
        left=left[order],
        right=right[order],
        raw=np.concatenate([s.value for s in used]),
        raw_std=np.concatenate([np.full(len(s.value), s.std) for s in used]),
    )


def _begin(table: _Table, at: I64, starts: I64, measured: tuple[int, ...]) -> Floats:
    """First reading of every measured state after every start; the last one before where there is none."""
    out = np.empty((len(starts), len(measured)))
    for j, state in enumerate(measured):
        mine = at[table.state[at] == state]
        first = np.minimum(np.searchsorted(mine, starts), len(mine) - 1)
        out[:, j] = table.raw[table.left[mine[first]]]
    return out
