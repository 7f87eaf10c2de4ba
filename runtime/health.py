"""Whether this process lives and makes progress: parts that are well or ill, and loops that beat.

Whatever can fail reports here as it counts in `runtime/metrics.py`; `runtime/probes.py` shows it to people and probes,
`runtime/watchdog.py` ends a process whose loops no longer beat. May not know what the parts are.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from runtime.metrics import CONNECTED, HEALTHY

log = logging.getLogger(__name__)

MAIN = "main loop"

Look = Callable[[], Mapping[str, object]]


class Health:
    """Thread-safe. A part counts as well until it says otherwise."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reasons: dict[str, str] = {}
        self._looks: dict[str, Look] = {}
        self._beats: dict[str, float] = {}
        self.patience_s = 60.0
        HEALTHY.set(1)

    def well(self, part: str, word: str = "connected") -> None:
        """The part works; logs this word if it did not before."""
        if self._reasons.get(part) == "":  # the usual case, without the lock
            return
        with self._lock:
            before = self._reasons.get(part)
            self._reasons[part] = ""
            self._publish(part)
        if before != "":
            log.info("%s: %s%s", part, word, f" again, after: {before}" if before else "")

    def ill(self, part: str, reason: str, level: int = logging.WARNING) -> None:
        """The part does not work, with why, for people; the same reason again is not logged again."""
        with self._lock:
            before = self._reasons.get(part)
            self._reasons[part] = reason
            self._publish(part)
        if before != reason:
            log.log(level, "%s: %s", part, reason)

    def reason(self, part: str) -> str:
        """Why a part does not work; empty where it does or has not spoken yet."""
        return self._reasons.get(part, "")

    def describe(self, part: str, look: Look) -> None:
        """What a report says of a part beside well or ill; `look` is called in any thread and must be quick."""
        self._looks[part] = look

    def beat(self, loop: str = MAIN) -> None:
        """A loop comes round. It has to, from its first beat on, every few seconds."""
        self._beats[loop] = time.monotonic()

    def rest(self, loop: str) -> None:
        """A loop ends in its regular way."""
        self._beats.pop(loop, None)

    def forgive(self) -> None:
        """The whole process stood still: no loop could beat."""
        for loop in tuple(self._beats):
            self.beat(loop)

    def silence(self, now: float) -> tuple[str, float]:
        """The loop that beat the longest time ago, and how long ago in s, at monotonic time `now`."""
        beats = dict(self._beats)
        loop = min(beats, key=lambda name: beats[name], default=MAIN)
        return loop, max(0.0, now - beats.get(loop, now))

    def why_not_live(self) -> str:
        """Empty while all loops beat. The watchdog waits twice as long before it ends the process."""
        loop, silent_s = self.silence(time.monotonic())
        return f"the {loop} has been silent for {silent_s:.0f} s" if silent_s > self.patience_s / 2 else ""

    def why_not_ready(self) -> list[str]:
        """One line for each thing that is in the way of progress."""
        ill = [f"{part}: {reason}" for part, reason in sorted(dict(self._reasons).items()) if reason]
        return [line for line in (self.why_not_live(), *ill) if line]

    def report(self) -> dict[str, Any]:
        """Everything, for JSON."""
        reasons, looks = dict(self._reasons), dict(self._looks)
        not_ready = self.why_not_ready()
        now = time.monotonic()
        return {
            "state": "ready" if not not_ready else "stuck" if self.why_not_live() else "not ready",
            "reasons": not_ready,
            "parts": {
                part: {
                    "well": not reasons.get(part),
                    "reason": reasons.get(part, ""),
                    **(looks[part]() if part in looks else {}),
                }
                for part in sorted({*reasons, *looks})
            },
            "loops": {loop: {"silent_s": round(now - beat_s, 3)} for loop, beat_s in sorted(dict(self._beats).items())},
        }

    def _publish(self, part: str) -> None:
        CONNECTED.labels(part).set(0 if self._reasons[part] else 1)
        HEALTHY.set(0 if any(self._reasons.values()) else 1)


#: Of this process. Others are for tests.
HEALTH = Health()


def times(name: str, gauge: Any) -> dict[str, object]:
    """A time of the metrics for a report: when, in s since 1970, and how long ago in s; None where never."""
    at_s = gauge._value.get()
    return {f"{name}_time_s": at_s or None, f"{name}_age_s": round(time.time() - at_s, 3) if at_s else None}
