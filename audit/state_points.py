"""The points of twins in InfluxDB against the topic of states: one per asset and event time, with every number of the
state, bit for bit. Pure but for the questions to InfluxDB.

Of several states of one event time the last one stands, with what only earlier ones had beside it. How fields are
called is looked at loosely, since names may have to make room for each other: the field of a variable's value begins
with the variable's name, that of its deviation has `_std` behind it, and so on. So what must hold is

- every finite number of a state stands in a field that may be called so
- every number of the point is one of the state's, or of an earlier one's of that time

Windows are judged when all states have been read: of each the last that was told.

States wait here until there are some hundreds of an asset, and are compared then: what remains are times and faults.
"""

import struct
from array import array
from collections.abc import Iterator, Set
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain
from math import isfinite, nan
from typing import NamedTuple

from audit.patience import Patience
from audit.store import MAX_TIME_NS, MIN_TIME_NS, Database, Fields
from audit.tally import Tally
from schemas.records import TwinState, Window

#: States of an asset that are compared at a time.
PAGE = 500
WINDOWS_PAGE = 20_000
#: Numbers of a variable, and what stands behind its name in the field's.
_KINDS = {
    "value": "",
    **{kind: f"_{kind}" for kind in ("rate", "std", "residual", "rmse", "mae", "r2", "age_s", "flag")},
}

Place = tuple[str, int, int]  # topic, partition, offset
_Windows = dict[int, tuple[Window, Place]]


@dataclass(slots=True)
class _Told:
    """A state, and where it stands."""

    state: TwinState
    place: Place


@dataclass(slots=True)
class _Asset:
    waiting: list[_Told] = field(default_factory=list)
    times: "array[int]" = field(default_factory=lambda: array("q"))  # compared already
    until_ns: int | None = None
    faults: dict[int, tuple[str, str]] = field(default_factory=dict)  # by time: kind and words
    strangers: set[int] = field(default_factory=set)
    windows: dict[tuple[str, str], _Windows] = field(default_factory=dict)


class StatePoints:
    """Takes in all states of the topic in order of their offsets, then `judge`. `refused`: places of states that the
    sink rejected; `refused_windows`: of those of which it rejected a window. Raises StoreError.
    """

    def __init__(
        self, database: Database, refused: Set[Place], refused_windows: Set[Place], patience: Patience, tally: Tally
    ) -> None:
        self._database, self._patience, self._tally = database, patience, tally
        self._refused, self._refused_windows = refused, refused | refused_windows
        self._assets: dict[str, _Asset] = {}

    def add(self, state: TwinState, place: Place) -> None:
        """Take in one state."""
        asset = self._assets.setdefault(state.asset, _Asset())
        for window in state.windows:
            of_tag = asset.windows.setdefault((window.tag, f"{window.window_s:g}s"), {})
            of_tag[window.start_ns] = window, place
        waiting = asset.waiting
        if len(waiting) >= PAGE and waiting[-1].state.time_ns != state.time_ns:
            self._compare(state.asset, asset)
        waiting.append(_Told(state, place))

    def judge(self) -> None:
        """Compare what is left, and say what is wrong."""
        for name, asset in sorted(self._assets.items()):
            self._compare(name, asset)
            for time_ns, (kind, words) in sorted(asset.faults.items()):
                self._tally.fault(kind, f"{name} at {time_ns}: {words}")
            for time_ns in sorted(asset.strangers.difference(asset.times)):
                self._tally.fault("states_unasked", f"{name} at {time_ns}: no state says so")
            for (tag, window), told in sorted(asset.windows.items()):
                self._judge_windows(name, tag, window, told)

    def _compare(self, name: str, asset: _Asset) -> None:
        """Compare those that wait; nothing waits then."""
        by_time: dict[int, list[_Told]] = {}
        for told in asset.waiting:
            by_time.setdefault(told.state.time_ns, []).append(told)
        asset.waiting.clear()
        if not by_time:
            return
        first_ns, last_ns = max(min(by_time), MIN_TIME_NS), min(max(by_time), MAX_TIME_NS)
        from_ns = first_ns if asset.until_ns is None else min(first_ns, asset.until_ns + 1)
        while True:
            points = self._database.states(name, from_ns, last_ns)
            wrong = {time_ns: found for time_ns, several in by_time.items()
                     if (found := self._looked_at(several, points.get(time_ns), asset))}  # fmt: skip
            if not wrong or not self._patience.left():
                break
        for time_ns in by_time:
            asset.faults.pop(time_ns, None)  # of an earlier state, which this one has replaced
        asset.faults |= wrong
        asset.strangers.update(points.keys() - by_time.keys())
        asset.times.extend(by_time)
        asset.until_ns = last_ns if asset.until_ns is None else max(last_ns, asset.until_ns)
        self._tally.figure("states", len(by_time))

    def _looked_at(self, several: list[_Told], point: Fields | None, asset: _Asset) -> tuple[str, str] | None:
        """What is wrong with the point of the states of one time."""
        if any(told.place in self._refused for told in several):
            return None
        state = several[-1].state
        if point is None:
            return "states_missing", f"seq {state.seq} of {state.source}"
        older = asset.until_ns is not None and state.time_ns <= asset.until_ns
        earlier = None if older else [told.state for told in several[:-1]]
        altered = difference(state, point, earlier)
        return ("states_altered", altered) if altered else None

    def _judge_windows(self, name: str, tag: str, window: str, told: _Windows) -> None:
        times = sorted(told)
        where = f"{name}/{tag}, window {window}"
        self._tally.figure("windows", len(times))
        for begin in range(0, len(times), WINDOWS_PAGE):
            page = times[begin : begin + WINDOWS_PAGE]
            while True:
                points = self._database.windows(name, tag, window, page[0], page[-1])
                wrong = [(t, fault) for t in page if (fault := self._window_difference(*told[t], points.get(t)))]
                if not wrong or not self._patience.left():
                    break
            for time_ns, (kind, words) in wrong:
                self._tally.fault(kind, f"{where} at {time_ns}: {words}")
            for time_ns in sorted(points.keys() - set(page)):
                self._tally.fault("windows_unasked", f"{where} at {time_ns}: no state says so")

    def _window_difference(self, window: Window, place: Place, point: Fields | None) -> tuple[str, str] | None:
        if place in self._refused_windows:
            return None
        if point is None:
            return "windows_missing", f"{window.count} readings"
        wanted = {"count": window.count, "mean": window.mean, "min": window.min, "max": window.max}
        for name, number in wanted.items():
            if isfinite(number) and _bits(number) != _bits(_number(point.get(name, ""))):
                return "windows_altered", f"{name} {number!r} became {point.get(name)}"
        return None


def difference(state: TwinState, point: Fields, earlier: list[TwinState] | None) -> str:
    """What differs between a state and its point, in words; empty where nothing does. `earlier`: states of the same
    time, of which the point may have more; None: there may be any.
    """
    wanted: dict[str, int | str] = {
        "model": state.model, "source": state.source, "epoch": state.epoch, "seq": state.seq,
        "readings": state.readings, "connected": int(all(state.connections.values())),
    }  # fmt: skip
    for name, value in wanted.items():
        if point.get(name, "") != str(value):
            return f"{name} {value!r} became {point.get(name)!r}"
    fields: dict[bytes, list[str]] = {}
    for name, cell in point.items():
        if name not in wanted:
            fields.setdefault(_bits(_number(cell)), []).append(name)
    known = set()
    for key in _numbers(state):
        bits = _bits(key.number)
        known.add(bits)
        if not any(map(key.fits, fields.get(bits, ()))):
            return f"{key.words} {key.number!r} is not there: {_near(key, point)}"
    if earlier is not None and fields.keys() - known:
        known |= {_bits(key.number) for key in chain.from_iterable(map(_numbers, earlier))}
        for strange in fields.keys() - known:
            return f"{fields[strange][0]} is {point[fields[strange][0]]}, which no state says"
    return ""


class _Number(NamedTuple):
    """A number of a state, and what its field may be called: `begin`…`middle`…`end`."""

    words: str
    number: float
    begin: str
    middle: str = ""
    end: str = ""

    def fits(self, name: str) -> bool:
        """Whether it may stand in a field of this name."""
        return name.startswith(self.begin) and self.middle in name[len(self.begin) :] and name.endswith(self.end)


def _numbers(state: TwinState) -> Iterator[_Number]:
    """Every number of a state that is written."""
    for name, variable in state.variables.items():
        if not _writable(name):
            continue
        for kind, infix in _KINDS.items():
            number = getattr(variable, kind)
            if number is not None and isfinite(number):
                yield _Number(f"{kind} of {name}", number, name, infix)
    for name, number in state.model_states.items():
        if isfinite(number):
            yield _Number(name, number, "", end=name)
    for name, number in state.prediction.items():
        if isfinite(number):
            yield _Number(f"{name} predicted", number, name.split("_")[0], f"_{state.horizon_s:g}s")
    for name in ("horizon_s", "newest_age_s", "coverage", "latency_ms"):
        number = getattr(state, name)
        if number is not None and isfinite(number):
            yield _Number(name, number, name)


@lru_cache(maxsize=65_536)
def _writable(name: str) -> bool:
    """Whether InfluxDB's line protocol has a way to write a name; where it has none, the readings were rejected."""
    control = any(ord(c) < 32 or ord(c) == 127 for c in name)
    return bool(name) and not (control or name.endswith("\\") or any(f"\\{c}" in name for c in ",= "))


def _near(key: _Number, point: Fields) -> str:
    fitting = [f"{name} {cell}" for name, cell in point.items() if key.fits(name)]
    return ", ".join(fitting[:3]) or "no such field"


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return nan


def _bits(number: float) -> bytes:
    return struct.pack("<d", number)
