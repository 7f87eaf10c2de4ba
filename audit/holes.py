"""The holes that gap frames tell of: which losses they excuse, and whether they say exactly what is missing. Pure.

A hole excuses a reading of its asset (and tags) that was measured or sent in it, ends included, and would have come
by the hole's own source. A hole of which one of these does not hold is inexact:

- One that says how many readings are lost says as many as are missing in it: no more, and no fewer but where other
  holes tell of the rest.
- One that names tags lies between two readings of each tag that follow each other: the last before the gap frame and
  the first behind it, or two behind it. A connector that was killed may not know yet what its last frame had.
- One that names none begins at the asset's last reading by this source (or what was the last one `UNKNOWN_NS` ago, for
  a connector that was killed), and ends when the gap frame was made.
- One of the spool ends at the latest when the gap frame was made; when it began only the spool knows.
"""

from array import array
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from audit.journal import Sent
from schemas.frames import Column, Frame

#: What came in this time before a connector was killed it may not have noted.
UNKNOWN_NS = 5_000_000_000
#: Clocks of a connector are read one after the other.
SLACK_NS = 1_000_000_000
SPOOL = "spool"  # causes begin so


@dataclass(slots=True)
class Told:
    """A hole that a gap frame tells of. `tags` empty: all of the asset's. `missing` counts the journal's readings
    inside that are not in raw, `alone` those of them that no other hole tells of, `present` those that are in raw and
    strictly inside. `told_ns` is when the frame was made, `place` where it stands among the frames of raw.
    """

    asset: str
    source: str
    tags: tuple[str, ...]
    from_ns: int
    to_ns: int
    cause: str
    lost: int | None
    told_ns: int
    place: int
    missing: int = 0
    alone: int = 0
    present: int = 0
    readings: dict[str, int] = field(default_factory=dict)

    @property
    def of_spool(self) -> bool:
        """Whether it stands for what a spool gave up or lost: frames of several tags, between which others may lie."""
        return self.cause.startswith(SPOOL)

    def concerns(self, tag: str) -> bool:
        """Whether readings of this tag may be missing."""
        return not self.tags or tag in self.tags

    def covers(self, sent: Sent) -> bool:
        """Whether a reading belongs into the hole: by its own time, or by when it was sent."""
        return self.from_ns <= sent.time_ns <= self.to_ns or self.from_ns <= sent.sent_ns <= self.to_ns

    def miscounted(self) -> str:
        """What is wrong with the number it tells, once all tags were counted; empty where nothing is."""
        if self.lost is None or self.alone <= self.lost <= self.missing:
            return ""
        return f"{self.lost} are told, {self.missing} are missing"

    def __str__(self) -> str:
        names = ", ".join(self.tags) or "all tags"
        return f"{self.asset} ({names}) by {self.source}, {self.from_ns} to {self.to_ns}, {self.cause}"


class Heard:
    """When the last reading of each frame of one asset and source was measured, and when it arrived."""

    def __init__(self) -> None:
        self._arrival_ns, self._time_ns = array("q"), array("q")

    def add(self, frame: Frame) -> None:
        """Take in a frame with readings."""
        arrival_ns = int(frame.arrival_time_ns[-1])
        self._arrival_ns.append(arrival_ns)
        self._time_ns.append(min(int(frame.source_time_ns[-1]), arrival_ns))

    def judge(self, hole: Told) -> str:
        """What is wrong with the ends of a hole that comes now, and names no tags or is of the spool; empty where
        nothing is.
        """
        if hole.of_spool and hole.lost is not None:
            return ""  # it reaches from the first lost reading to the last, by their devices' clocks
        if hole.to_ns > max(hole.told_ns, hole.from_ns) + SLACK_NS:
            return f"it reaches beyond the time of its frame, {hole.told_ns}"
        if hole.of_spool:
            return ""
        if not self._time_ns:
            return "no reading came before it"
        first = max(bisect_right(self._arrival_ns, self._arrival_ns[-1] - UNKNOWN_NS) - 1, 0)
        least_ns = min(self._time_ns[first:])
        return f"it begins before {least_ns}, the time of what came last" if hole.from_ns < least_ns else ""


def reaches_too_far(hole: Told, times: Column, places: Column) -> str:
    """What is wrong with the ends of a hole in a tag, of which the hole's source brought readings of these times (ns),
    in frames at these places of raw, in this order; empty where nothing is.
    """
    after = int(np.searchsorted(places, hole.place, "right"))
    if not after:
        return "no reading of the tag came before it"
    last_frame = int(np.searchsorted(places, places[after - 1]))
    before = times[max(last_frame - 1, 0) : after]
    next_ns = int(times[after]) if after < len(times) else hole.told_ns + SLACK_NS
    if min(int(before.min()), next_ns) <= hole.from_ns and hole.to_ns <= max(int(before[-1]), next_ns):
        return ""
    here, following = times[after - 1 : -1], times[after:]
    if ((np.minimum(here, following) <= hole.from_ns) & (hole.to_ns <= np.maximum(here, following))).any():
        return ""
    return f"it reaches beyond the neighbouring readings, {before[-1]} and {next_ns}"


def told_as_dict(told: Sequence[Told]) -> list[Mapping[str, object]]:
    """The holes for JSON."""
    return [{name: getattr(hole, name) for name in Told.__slots__} for hole in told]
