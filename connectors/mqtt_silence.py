"""Notices that a broker sends nothing at all, although it has granted the subscription.

A broker may grant what its access rules then withhold: mosquitto 2.0 with an `acl_file` answers every subscription with
success and drops what the user may not read, without a word to anybody. All that can be seen here is the silence, of
every filter together; what it cost is told by gaps once it ends. May not know what a message says.
"""

import time

from runtime.config import Mqtt
from runtime.health import Health

PART = "messages"


class Silence:
    """Of one connector. `look` once a second or so, `ended` for every message."""

    def __init__(self, config: Mqtt, health: Health) -> None:
        self._config = config
        self._health = health
        self._since_s: float | None = None  # monotonic, when waiting for a message began

    def look(self, waits: bool) -> None:
        """`waits`: we are subscribed and could take a message, so that it is the broker who is silent."""
        limit_s = self._config.silence_s
        if not waits or limit_s is None:
            self._since_s = None
            return
        now_s = time.monotonic()
        self._since_s = now_s if self._since_s is None else self._since_s
        if now_s - self._since_s > limit_s:
            host, port = self._config.address
            user = self._config.username or "nobody in particular"
            self._health.ill(
                PART,
                f"nothing has come from {host}:{port} for more than {limit_s:g} s. Do devices publish what matches "
                f"{', '.join(self._config.filters)}, and do the broker's rules let {user} read it?",
            )

    def ended(self) -> bool:
        """A message has come. Whether it ends a silence that was too long."""
        self._since_s = None
        too_long = bool(self._health.reason(PART))
        if too_long:
            self._health.well(PART, "coming")
        return too_long
