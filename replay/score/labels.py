"""Windows in which something was wrong, as somebody labelled them, and what was signalled inside and outside of them.

A *signal* is a flagged reading or an alert; a *run* is signals that follow each other. A run that begins inside a
window, or outside of all, belongs there whole. May not know: which tests signal.
"""

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from replay.results.finished import ResultError
from replay.score.moments import moment_ns

I64 = NDArray[np.int64]
DAY_NS = 86_400_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """From start to end, both included, in ns since 1970. `asset`, `tag`: empty for all."""

    start_ns: int
    end_ns: int
    asset: str = ""
    tag: str = ""
    name: str = ""


def read(path: Path) -> tuple[Window, ...]:
    """Windows of a CSV file with the columns start, end and optionally asset, tag, name. Raises ResultError."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            missing = [name for name in ("start", "end") if name not in (reader.fieldnames or ())]
            if missing:
                raise ResultError(f"{path}: columns missing: {', '.join(missing)}; start,end[,asset,tag,name]")
            return tuple(_window(path, reader.line_num, row) for row in reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ResultError(f"{path}: cannot be read ({error})") from error


def _window(path: Path, line: int, row: dict[str, str | None]) -> Window:
    cells = {key: (row.get(key) or "").strip() for key in ("start", "end", "asset", "tag", "name")}
    try:
        start_ns, end_ns = moment_ns(cells["start"]), moment_ns(cells["end"])
    except ValueError as error:
        raise ResultError(f"{path}: line {line}: {error}") from error
    if end_ns < start_ns:
        raise ResultError(f"{path}: line {line}: end {cells['end']} is before start {cells['start']}")
    return Window(start_ns=start_ns, end_ns=end_ns, asset=cells["asset"], tag=cells["tag"], name=cells["name"])


def of(windows: Iterable[Window], asset: str, tag: str | None = None) -> tuple[Window, ...]:
    """Windows that concern an asset, or with `tag` one tag of it, by their start."""
    found = [w for w in windows if w.asset in ("", asset) and (tag is None or w.tag in ("", tag))]
    return tuple(sorted(found, key=lambda w: (w.start_ns, w.end_ns)))


def runs_of(time_ns: I64, on: NDArray[np.bool_], merge_ns: int = 0) -> I64:
    """Runs of readings that signal, shape (m, 2): times of first and last. Times ascend.

    A reading that does not signal ends a run; runs not more than `merge_ns` apart are one.
    """
    if not on.any():
        return np.empty((0, 2), np.int64)
    edges = np.diff(np.concatenate(([0], on.astype(np.int8), [0])))
    first, last = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1) - 1
    return merged(np.stack([time_ns[first], time_ns[last]], axis=1), merge_ns)


def merged(runs: I64, merge_ns: int = 0) -> I64:
    """Runs that overlap or are not more than `merge_ns` apart made one, shape (m, 2), ascending. With 0, runs that
    touch or overlap only.
    """
    found: list[list[int]] = []
    for first, last in sorted(runs.tolist()):
        if found and first <= found[-1][1] + merge_ns:
            found[-1][1] = max(found[-1][1], last)
        else:
            found.append([first, last])
    return np.array(found, np.int64).reshape(-1, 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What became of one window. `delay_s`: of the first signal inside it after its start; NaN: not detected.
    `already_on`: a run that began before the window was still on, so that the detection may be luck.
    """

    name: str
    start_ns: int
    end_ns: int
    delay_s: float
    already_on: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Detection:
    """Signals against windows. `false_alarms`: runs that began outside of all windows, over `outside_days`.

    `precision` = windows detected / (detected + false alarms); `recall` = detected / windows; NaN of nothing.
    `by_chance`: recall to be expected of alarms that come at random as often as the false ones do. `beyond`: windows
    that the data do not reach, which count nowhere.
    """

    windows: tuple[Found, ...] = ()
    detected: int = 0
    false_alarms: int = 0
    outside_days: float = math.nan
    false_alarms_per_day: float = math.nan
    precision: float = math.nan
    recall: float = math.nan
    by_chance: float = math.nan
    beyond: int = 0


class Signalled(NamedTuple):
    """What was signalled about one tag: times of all signals, ascending, and their runs, shape (m, 2)."""

    time_ns: I64
    runs: I64


def detect(
    parts: Mapping[str, Signalled], windows: Sequence[Window], span: tuple[int, int], merge_ns: int = 0
) -> Detection:
    """Compares what was signalled per tag ("" for no tag in particular) with windows, over data from span[0] to
    span[1] (ns). A window of a tag is detected by signals of that tag, and does not excuse those of others.
    """
    there = [w for w in windows if w.end_ns >= span[0] and w.start_ns <= span[1]]
    found = tuple(_found(w, [part for tag, part in parts.items() if _meant(w, tag)]) for w in there)
    outside = [_outside(part.runs, [w for w in there if _meant(w, tag)]) for tag, part in parts.items()]
    false_alarms = len(merged(np.concatenate([np.empty((0, 2), np.int64), *outside]), merge_ns))
    detected = sum(math.isfinite(f.delay_s) for f in found)
    days = _outside_ns(there, span) / DAY_NS
    per_day = false_alarms / days if days > 0 else math.nan
    chances = [-math.expm1(-per_day * (w.end_ns - w.start_ns) / DAY_NS) for w in there]
    return Detection(
        windows=found,
        detected=detected,
        false_alarms=false_alarms,
        outside_days=days,
        false_alarms_per_day=per_day,
        precision=detected / (detected + false_alarms) if detected + false_alarms else math.nan,
        recall=detected / len(found) if found else math.nan,
        by_chance=sum(chances) / len(chances) if chances else math.nan,
        beyond=len(windows) - len(there),
    )


def _meant(window: Window, tag: str) -> bool:
    return window.tag in ("", tag) or not tag


def _outside(runs: I64, windows: Sequence[Window]) -> I64:
    """Runs that begin in none of the windows."""
    begins = runs[:, 0]
    inside = np.zeros(len(begins), np.bool_)
    for w in windows:
        inside |= (begins >= w.start_ns) & (begins <= w.end_ns)
    return runs[~inside]


def _found(window: Window, parts: Sequence[Signalled]) -> Found:
    firsts = []
    for part in parts:
        place = int(np.searchsorted(part.time_ns, window.start_ns))
        firsts += [int(t) for t in part.time_ns[place : place + 1] if t <= window.end_ns]
    on = [((part.runs[:, 0] < window.start_ns) & (part.runs[:, 1] >= window.start_ns)).any() for part in parts]
    return Found(
        name=window.name,
        start_ns=window.start_ns,
        end_ns=window.end_ns,
        delay_s=(min(firsts) - window.start_ns) / 1e9 if firsts else math.nan,
        already_on=any(on),
    )


def _outside_ns(windows: Sequence[Window], span: tuple[int, int]) -> int:
    """Length of the span that lies in no window."""
    clipped = [(max(w.start_ns, span[0]), min(w.end_ns, span[1])) for w in windows]
    covered = merged(np.array(clipped, np.int64).reshape(-1, 2))
    return span[1] - span[0] - int(np.sum(covered[:, 1] - covered[:, 0]))
