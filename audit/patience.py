"""How long to wait in all for what InfluxDB does not show yet."""

import time

POLL_S = 1.0


class Patience:
    """Shared by all questions of one audit."""

    def __init__(self, seconds: float) -> None:
        self._left_s = seconds

    def left(self) -> bool:
        """Whether to ask once more; waits a moment before."""
        if self._left_s <= 0:
            return False
        time.sleep(min(POLL_S, self._left_s))
        self._left_s -= POLL_S
        return True
