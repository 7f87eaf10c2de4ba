"""Whether this process makes progress: the worst of its parts, as one metric and one log line per change.

May not know what the parts are; a connector has "kafka" and its field's name.
"""

import logging
import threading

from runtime.metrics import CONNECTED, HEALTHY

log = logging.getLogger(__name__)


class Health:
    """Thread-safe. A part counts as well until it says otherwise."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reasons: dict[str, str] = {}
        HEALTHY.set(1)

    def well(self, part: str) -> None:
        """The part works; logs if it did not before."""
        CONNECTED.labels(part).set(1)
        if self._reasons.get(part) == "":  # the usual case, without the lock
            return
        with self._lock:
            before = self._reasons.get(part)
            self._reasons[part] = ""
            self._publish()
        if before != "":
            log.info("%s: connected%s", part, f" again, after: {before}" if before else "")

    def ill(self, part: str, reason: str) -> None:
        """The part does not work, with why, for people; the same reason again is not logged again."""
        CONNECTED.labels(part).set(0)
        with self._lock:
            before = self._reasons.get(part)
            self._reasons[part] = reason
            self._publish()
        if before != reason:
            log.warning("%s: %s", part, reason)

    def reason(self, part: str) -> str:
        """Why a part does not work; empty where it does or has not spoken yet."""
        return self._reasons.get(part, "")

    def _publish(self) -> None:
        HEALTHY.set(0 if any(self._reasons.values()) else 1)
