"""Faults of sensors and lines, injected into samples by a script. Pure: times are passed in, nothing is random.

A fault changes the samples of one tag while it lasts and nothing else. Every sample it touched carries its kind.
"""

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

from plant.samples import Protocol, Sample
from schemas.quality import STATUS_BAD, STATUS_UNCERTAIN

#: What a line that is no JSON can look like; sent one after the other.
GARBAGE = (b'{"value": 85.', b"\xff\xfe\x00", b"[[[[", b'{"value": 85.3, "unit": "degC"')
TEXTS = ("Bad", "Inp OutRange")
SKEW_NS = 907_043_211_000  # ahead by 15 min, off the grid so that no later reading has the same time


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing that goes wrong with one tag, from `start_s` for `duration_s` (0: with one reading).

    `size` by kind: spike — relative change; step, drift — change in the tag's unit, which drift reaches at its end,
    when the sensor is set right; out_of_range — the value itself; late — delay in s; clock_skew — s ahead. Others
    ignore it.
    `every`: only each so many-th reading of the span is touched.
    """

    kind: str
    asset: str
    tag: str
    start_s: float
    duration_s: float = 0.0
    size: float = 0.0
    every: int = 1


@dataclass(slots=True)
class _Episode:
    """A fault while it happens."""

    fault: Fault
    touched: int = 0
    seen: int = 0
    from_ns: int = 0
    to_ns: int = 0
    held: float | None = None
    done: bool = False


Touch = Callable[[_Episode, Sample, float], list[Sample]]


def _spike(e: _Episode, s: Sample, _: float) -> list[Sample]:
    return [replace(s, value=_number(s) * (1.0 + e.fault.size))]


def _step(e: _Episode, s: Sample, _: float) -> list[Sample]:
    return [replace(s, value=_number(s) + e.fault.size)]


def _out_of_range(e: _Episode, s: Sample, _: float) -> list[Sample]:
    return [replace(s, value=e.fault.size)]


def _stuck(e: _Episode, s: Sample, _: float) -> list[Sample]:
    if e.held is None:
        e.held = _number(s)
    return [replace(s, value=e.held)]


def _drift(e: _Episode, s: Sample, elapsed_s: float) -> list[Sample]:
    return [replace(s, value=_number(s) + e.fault.size * elapsed_s / max(e.fault.duration_s, 1e-9))]


def _text(e: _Episode, s: Sample, _: float) -> list[Sample]:
    return [replace(s, value=None, text=TEXTS[e.touched % len(TEXTS)])]


def _clock_skew(e: _Episode, s: Sample, _: float) -> list[Sample]:
    ahead_ns = round(e.fault.size * 1e9) if e.fault.size else SKEW_NS
    return [replace(s, source_time_ns=s.source_time_ns + ahead_ns)]


def _repeat(_e: _Episode, s: Sample, _: float) -> list[Sample]:
    return [s, replace(s, repeat=True)]


def _status(code: int) -> Touch:
    bad = code >= STATUS_BAD
    return lambda _e, s, _: [replace(s, status=code, value=None if bad else s.value)]


def _garbage(e: _Episode, s: Sample, _: float) -> list[Sample]:
    return [s, replace(s, value=None, garbage=GARBAGE[e.touched % len(GARBAGE)])]


def _number(s: Sample) -> float:
    if s.value is None:
        raise ValueError(f"{s.asset}/{s.tag}: a sample without a number cannot be changed")
    return s.value


#: Kinds that change or add samples. `late` and `dropout` also need the injector's memory, see there.
TOUCHES: Mapping[str, Touch] = {
    "spike": _spike,
    "step": _step,
    "out_of_range": _out_of_range,
    "stuck": _stuck,
    "drift": _drift,
    "text": _text,
    "clock_skew": _clock_skew,
    "repeat": _repeat,
    "garbage": _garbage,
    "status_uncertain": _status(STATUS_UNCERTAIN | 0x00900000),  # UncertainLastUsableValue
    "status_bad": _status(STATUS_BAD | 0x008C0000),  # BadSensorFailure
    "late": lambda _e, s, _: [s],
    "dropout": lambda _e, _s, _: [],
}
#: Kinds that only one protocol can have: a Double node takes no text, an equal write is no data change.
ONLY: Mapping[str, Protocol] = {
    "text": "mqtt",
    "repeat": "mqtt",
    "garbage": "mqtt",
    "status_uncertain": "opcua",
    "status_bad": "opcua",
}


@dataclass(slots=True)
class Injector:
    """Applies a script to samples, tick by tick; with `cycle_s` the script starts again after so long."""

    faults: tuple[Fault, ...]
    cycle_s: float | None = None
    _queues: dict[tuple[str, str], list[_Episode]] = field(init=False)
    _late: list[tuple[float, int, Sample]] = field(default_factory=list)
    _order: Iterator[int] = field(default_factory=count)
    _cycle: int = 0
    _events: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._queues = self._fresh()

    def apply(self, samples: Iterable[Sample], elapsed_s: float) -> list[Sample]:
        """What is sent at `elapsed_s` after the start: these samples with their faults, and late ones now due."""
        sent: list[Sample] = []
        while self._late and self._late[0][0] <= elapsed_s:
            sent.append(heapq.heappop(self._late)[2])
        phase_s = self._phase(elapsed_s)
        for sample in samples:
            queue = self._queues.get((sample.asset, sample.tag))
            if not queue:
                sent.append(sample)
                continue
            sent += self._with_fault(queue, sample, phase_s, elapsed_s)
        return sent

    def rest(self) -> list[Sample]:
        """Late samples not yet sent when the run ends; episodes still open end here."""
        left = [item[2] for item in sorted(self._late, key=lambda item: item[:2])]
        self._late.clear()
        for queue in self._queues.values():
            for episode in queue:
                self._finish(episode)
        return left

    def events(self) -> list[dict[str, Any]]:
        """Episodes that ended since the last call, as lines for the journal."""
        found, self._events = self._events, []
        return found

    def _fresh(self) -> dict[tuple[str, str], list[_Episode]]:
        queues: dict[tuple[str, str], list[_Episode]] = {}
        for fault in sorted(self.faults, key=lambda f: f.start_s):
            queues.setdefault((fault.asset, fault.tag), []).append(_Episode(fault))
        return queues

    def _phase(self, elapsed_s: float) -> float:
        if self.cycle_s is None:
            return elapsed_s
        cycle = int(elapsed_s // self.cycle_s)
        if cycle != self._cycle:
            for episode in (e for queue in self._queues.values() for e in queue):
                self._finish(episode)
            self._cycle, self._queues = cycle, self._fresh()
        return elapsed_s - cycle * self.cycle_s

    def _with_fault(self, queue: list[_Episode], sample: Sample, phase_s: float, elapsed_s: float) -> list[Sample]:
        episode, fault = queue[0], queue[0].fault
        since_s = phase_s - fault.start_s
        if since_s < 0.0:
            return [sample]
        if since_s >= fault.duration_s and episode.seen:
            self._finish(queue.pop(0))
            return self._with_fault(queue, sample, phase_s, elapsed_s) if queue else [sample]
        episode.seen += 1
        if (episode.seen - 1) % fault.every:
            return [sample]
        return self._touched(episode, replace(sample, fault=fault.kind), since_s, elapsed_s)

    def _touched(self, episode: _Episode, sample: Sample, since_s: float, elapsed_s: float) -> list[Sample]:
        episode.from_ns = episode.from_ns or sample.source_time_ns
        episode.to_ns = sample.source_time_ns
        touched = TOUCHES[episode.fault.kind](episode, sample, since_s)
        episode.touched += 1
        if episode.fault.kind == "late":
            for late in touched:
                heapq.heappush(self._late, (elapsed_s + episode.fault.size, next(self._order), late))
            return []
        return touched

    def _finish(self, episode: _Episode) -> None:
        if episode.done or not episode.touched:
            return
        episode.done = True
        fault = episode.fault
        event = "dropout" if fault.kind == "dropout" else "fault"
        self._events.append(
            {
                "event": event,
                "kind": fault.kind,
                "asset": fault.asset,
                "tag": fault.tag,
                "from_ns": episode.from_ns,
                "to_ns": episode.to_ns,
                "readings": episode.touched,
            }
        )


def check(faults: Iterable[Fault], tags: Mapping[tuple[str, str], Protocol]) -> None:
    """Raises ValueError that names the fault if the plant has no such tag, the kind is unknown or two overlap."""
    ends: dict[tuple[str, str], float] = {}
    for fault in sorted(faults, key=lambda f: f.start_s):
        key = (fault.asset, fault.tag)
        if key not in tags:
            raise ValueError(f"{fault}: the plant has no tag {fault.asset}/{fault.tag}")
        if fault.kind not in TOUCHES:
            raise ValueError(f"{fault}: unknown kind, allowed are {', '.join(sorted(TOUCHES))}")
        if ONLY.get(fault.kind, tags[key]) != tags[key]:
            raise ValueError(f"{fault}: only possible over {ONLY[fault.kind]}, the tag comes over {tags[key]}")
        if fault.start_s < ends.get(key, 0.0):
            raise ValueError(f"{fault}: overlaps with the fault before it on the same tag")
        if fault.every < 1:
            raise ValueError(f"{fault}: every must be at least 1")
        ends[key] = fault.start_s + fault.duration_s
