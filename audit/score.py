"""Scores over matched readings: were faults seen, is the estimate nearer to the truth than the reading. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from audit.journal import Episode, Sent, TagName
from audit.match import Matches
from audit.store import Stored
from schemas.quality import Flag, Test, grade

#: Kinds of faults that validation defines a test for; others (repetitions, garbage) are accounted for elsewhere.
QUALITY_KINDS = frozenset({
    "spike", "step", "out_of_range", "stuck", "drift", "text", "clock_skew", "status_uncertain", "status_bad", "late",
    "dropout",
})  # fmt: skip
_ALARMS = (Flag.SUSPECT, Flag.FAIL)
_ACCEPTED = (Flag.GOOD, Flag.NOT_EVALUATED)


class Fault(NamedTuple):
    """One fault and whether any of its readings, or the silence it caused, was flagged."""

    asset: str
    tag: str
    kind: str
    flagged: bool


@dataclass(slots=True)
class Errors:
    """Sums over readings without fault: squared errors of readings and estimates against the truth, NIS."""

    unit: str
    count: int = 0
    raw: float = 0.0
    estimate: float = 0.0
    nis: list[float] = field(default_factory=list)

    def add(self, sent: Sent, stored: Stored) -> None:
        """Take in a reading that was accepted and of which the truth is known."""
        if sent.truth is None or sent.value is None or stored.estimate is None:
            return
        self.count += 1
        self.raw += (sent.value - sent.truth) ** 2
        self.estimate += (stored.estimate - sent.truth) ** 2
        if stored.nis is not None:
            self.nis.append(stored.nis)


@dataclass(slots=True)
class Scores:
    """Accumulates tag after tag. `settle_ns`: how long after a fault its tag may still be flagged for it."""

    settle_ns: int
    grades: dict[str, int] = field(default_factory=lambda: {"good": 0, "uncertain": 0, "bad": 0})
    faults: list[Fault] = field(default_factory=list)
    false_alarms: list[tuple[TagName, Sent, Stored]] = field(default_factory=list)
    errors: dict[TagName, Errors] = field(default_factory=dict)

    def add(self, name: TagName, matches: Matches, episodes: Sequence[Episode]) -> None:
        """Take in all readings of one tag."""
        for _, stored in matches.pairs:
            self.grades[grade(stored.quality).lower()] += 1
        calm = _calm([sent for sent, _ in matches.pairs], episodes, self.settle_ns)
        for (sent, stored), undisturbed in zip(matches.pairs, calm, strict=True):
            if not undisturbed:
                continue
            if stored.quality in _ALARMS:
                self.false_alarms.append((name, sent, stored))
            elif stored.quality in _ACCEPTED:
                self.errors.setdefault(name, Errors(sent.unit)).add(sent, stored)
        for episode, until_ns in _with_ends(_all_episodes(matches, episodes)):
            self.faults.append(Fault(*name, episode.kind, _seen(episode, until_ns, matches, self.settle_ns)))

    def mse(self, unit: str) -> tuple[float | None, float | None, float | None]:
        """Mean squared error of readings and of estimates, and mean NIS, over all tags with this unit."""
        chosen = [e for e in self.errors.values() if e.unit == unit and e.count]
        count = sum(e.count for e in chosen)
        if not count:
            return None, None, None
        nis = [value for e in chosen for value in e.nis]
        return (
            sum(e.raw for e in chosen) / count,
            sum(e.estimate for e in chosen) / count,
            sum(nis) / len(nis) if nis else None,
        )


def _calm(sent: Sequence[Sent], episodes: Sequence[Episode], settle_ns: int) -> list[bool]:
    """Which readings were sent outside of every fault and the time after it."""
    spans = [(e.from_ns, e.to_ns + settle_ns) for e in episodes]
    spans += [(s.sent_ns, s.sent_ns + settle_ns) for s in sent if s.fault is not None]
    if not spans:
        return [True] * len(sent)
    starts, ends = np.array(sorted(spans), np.int64).T
    ends = np.maximum.accumulate(ends)
    at = np.array([s.sent_ns for s in sent], np.int64)
    last = np.searchsorted(starts, at, "right") - 1
    inside = (last >= 0) & (at <= ends[np.maximum(last, 0)])
    faulty = np.array([s.fault is not None for s in sent])
    return [not value for value in (inside | faulty).tolist()]


def _all_episodes(matches: Matches, episodes: Sequence[Episode]) -> list[Episode]:
    """The journal's episodes of quality, and one per kind of fault that has readings but no episode."""
    found = [e for e in episodes if e.kind in QUALITY_KINDS]
    known = {e.kind for e in found}
    labelled = {s.fault for s, _ in matches.pairs if s.fault in QUALITY_KINDS} - known
    for kind in sorted(filter(None, labelled)):
        at = [s.sent_ns for s, _ in matches.pairs if s.fault == kind]
        found.append(Episode(kind, min(at), max(at)))
    return found


def _with_ends(episodes: Sequence[Episode]) -> list[tuple[Episode, int]]:
    """Every episode with the start of the next one of its kind: what is sent from there on belongs to that."""
    ordered = sorted(episodes, key=lambda e: e.from_ns)
    return [
        (e, min((later.from_ns for later in ordered[i + 1 :] if later.kind == e.kind), default=2**63))
        for i, e in enumerate(ordered)
    ]


def _seen(episode: Episode, until_ns: int, matches: Matches, settle_ns: int) -> bool:
    if episode.kind == "dropout":
        ends_ns = min(episode.to_ns + settle_ns, until_ns)
        spoke = [p.time_ns for p in matches.imputed] + [p.time_ns for _, p in matches.pairs if p.tests & Test.GAP]
        return any(episode.from_ns <= time_ns <= ends_ns for time_ns in spoke)
    return any(
        stored.quality in _ALARMS
        for sent, stored in matches.pairs
        if sent.fault == episode.kind and episode.from_ns <= sent.sent_ns < until_ns
    )


def percentiles(values: Sequence[float]) -> dict[str, float | None]:
    """Median and 99th percentile."""
    if not values:
        return {"p50": None, "p99": None}
    p50, p99 = np.percentile(np.array(values), (50, 99)).tolist()
    return {"p50": p50, "p99": p99}
