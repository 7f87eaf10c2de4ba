"""The points of alerts in InfluxDB against the topic of alerts: what each says, at its time. Pure but for the questions
to InfluxDB.

A point may stand a little behind the alert's time, where it had to make room for another one. Alerts that say the same
at the same time may share a point.
"""

from bisect import bisect_left
from collections.abc import Sequence, Set
from hashlib import blake2b
from math import isfinite

from audit.patience import Patience
from audit.state_points import Place
from audit.store import EMPTY_TAG, MAX_TIME_NS, MIN_TIME_NS, AlertWords, Database
from audit.tally import Tally
from schemas.records import Alert

#: How far behind the alert's time its point may stand.
TOLERANCE_NS = 1_000_000


class AlertPoints:
    """Takes in all alerts of the topic, then `judge`. `refused`: places of records that the sink rejected."""

    def __init__(self, refused: Set[Place]) -> None:
        self._refused = refused
        self._times: dict[str, dict[bytes, list[int]]] = {}  # by asset and digest of the words
        self._excused: set[tuple[str, bytes, int]] = set()

    def add(self, alert: Alert, place: Place) -> None:
        """Take in one alert."""
        value = alert.value if alert.value is not None and isfinite(alert.value) else None
        words = _digest(
            AlertWords(alert.kind or EMPTY_TAG, alert.tag or EMPTY_TAG, alert.severity, alert.message, value)
        )
        self._times.setdefault(alert.asset, {}).setdefault(words, []).append(alert.time_ns)
        if place in self._refused:
            self._excused.add((alert.asset, words, alert.time_ns))

    def judge(self, database: Database, patience: Patience, tally: Tally) -> None:
        """Compare with InfluxDB. Raises StoreError."""
        for asset, told in sorted(self._times.items()):
            times = [time_ns for of_words in told.values() for time_ns in of_words]
            from_ns, to_ns = max(min(times), MIN_TIME_NS), min(max(times) + TOLERANCE_NS, MAX_TIME_NS)
            tally.figure("alerts", len(times))
            while True:
                found = _found(database, asset, from_ns, to_ns)
                missing = [(words, time_ns) for words, of_words in told.items() for time_ns in of_words
                           if not _near(time_ns, found.get(words, ()))]  # fmt: skip
                missing = [(words, time_ns) for words, time_ns in missing
                           if (asset, words, time_ns) not in self._excused]  # fmt: skip
                if not missing or not patience.left():
                    break
            for _, time_ns in missing:
                tally.fault("alerts_missing", f"{asset} at {time_ns}: no point says what this alert says")
            for words, of_words in told.items():
                for at_ns, sentence in found.get(words, [])[len(of_words) :]:
                    tally.fault("alerts_repeated", f"{asset} at {at_ns}: {sentence}")


def _near(time_ns: int, points: Sequence[tuple[int, str]]) -> bool:
    """Whether one of the points (by time) stands at this time or a little behind."""
    first = bisect_left(points, (time_ns, ""))
    return first < len(points) and points[first][0] <= time_ns + TOLERANCE_NS


def _found(database: Database, asset: str, from_ns: int, to_ns: int) -> dict[bytes, list[tuple[int, str]]]:
    """Time and message of the points by the digest of what they say."""
    found: dict[bytes, list[tuple[int, str]]] = {}
    for time_ns, words in database.alerts(asset, from_ns, to_ns):
        found.setdefault(_digest(words), []).append((time_ns, words.message[:200]))
    return found


def _digest(words: AlertWords) -> bytes:
    return blake2b(repr(tuple(words)).encode("utf-8", "surrogatepass"), digest_size=16).digest()
