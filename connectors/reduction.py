"""Edge reduction per tag: deadband and swinging door. Off until a tag's configuration asks for it.

Pure. What is left out never reaches Kafka; what is kept is unchanged. Always kept: a tag's first reading, a reading
that is no number or whose status differs from the one before, a reading that is not newer than the one before, and
one at least every `reduction_max_s` (so that "unchanged" never looks like "nothing arrives").

The swinging door (Bristol 1990) keeps the end points of straight lines such that every left-out reading lies within the
deviation of the line. To know an end point it holds the newest reading back until the next one, so a process that is
killed may lose that one reading per tag; a clean stop writes it.
"""

import math
from dataclasses import dataclass

from connectors.framer import Reading
from runtime.config import Plant, Tag


@dataclass(slots=True)
class _Trail:
    """What reduction remembers of one tag."""

    deadband: float | None
    door: float | None
    max_ns: int
    newest: Reading | None = None  # the last one seen
    kept: Reading | None = None  # the last one that passed
    held: Reading | None = None  # seen and held back: the end of the line so far
    slope_min: float = -math.inf  # of the lines from `kept` that pass all held-back readings within the deviation
    slope_max: float = math.inf


class Reducer:
    """Reduction of all tags of one connector."""

    def __init__(self, plant: Plant) -> None:
        self._plant = plant
        self._active = any(v.get("deadband") or v.get("swinging_door") for v in plant.tags.values())
        self._trails: dict[tuple[str, str], _Trail | None] = {}

    def keep(self, reading: Reading) -> list[Reading]:
        """The readings to pass on now that this one came: none, itself, or one held back before and itself."""
        if not self._active:
            return [reading]
        key = (reading.asset, reading.tag)
        if key not in self._trails:
            self._trails[key] = _trail(self._plant.tag(*key))
        trail = self._trails[key]
        return [reading] if trail is None else _keep(trail, reading)

    def overdue(self, now_ns: int, everything: bool = False) -> list[Reading]:
        """Readings held back for longer than their tag's `reduction_max_s` (with `everything`: all of them)."""
        found = []
        for trail in self._trails.values():
            if trail is None or trail.held is None:
                continue
            if everything or not 0 <= now_ns - trail.held.arrival_time_ns < trail.max_ns:
                found.append(trail.held)
                _restart(trail, trail.held)
        return found


def _trail(tag: Tag) -> _Trail | None:
    if tag.deadband is None and tag.swinging_door is None:
        return None
    return _Trail(tag.deadband, tag.swinging_door, round(tag.reduction_max_s * 1e9))


def _keep(trail: _Trail, reading: Reading) -> list[Reading]:
    newest, kept = trail.newest, trail.kept
    if (
        newest is None
        or kept is None
        or reading.status != newest.status
        or reading.unit != newest.unit
        or not (math.isfinite(reading.value) and math.isfinite(newest.value))
    ):
        passed = [r for r in (trail.held, reading) if r is not None]
        trail.newest = reading
        _restart(trail, reading)
        return passed
    if reading.source_time_ns <= newest.source_time_ns:
        return [reading]
    trail.newest = reading
    overdue = reading.source_time_ns - kept.source_time_ns >= trail.max_ns
    reference = kept if trail.held is None else trail.held
    if trail.deadband is not None and not overdue and abs(reading.value - reference.value) <= trail.deadband:
        return []
    if trail.door is None or overdue:
        passed = [r for r in (trail.held, reading) if r is not None]
        _restart(trail, reading)
        return passed
    return _swing(trail, kept, reading, trail.door)


def _swing(trail: _Trail, kept: Reading, reading: Reading, deviation: float) -> list[Reading]:
    slope, low, high = _slopes(kept, reading, deviation)
    if trail.held is None or trail.slope_min <= slope <= trail.slope_max:
        trail.slope_min, trail.slope_max = max(trail.slope_min, low), min(trail.slope_max, high)
        trail.held = reading
        return []
    end = trail.held
    _restart(trail, end)
    trail.held = reading
    _, trail.slope_min, trail.slope_max = _slopes(end, reading, deviation)
    return [end]


def _slopes(start: Reading, end: Reading, deviation: float) -> tuple[float, float, float]:
    """Slopes per ns from `start` to `end` and to `end` ± deviation."""
    dt_ns, rise = end.source_time_ns - start.source_time_ns, end.value - start.value
    return rise / dt_ns, (rise - deviation) / dt_ns, (rise + deviation) / dt_ns


def _restart(trail: _Trail, kept: Reading) -> None:
    trail.kept, trail.held = kept, None
    trail.slope_min, trail.slope_max = -math.inf, math.inf
