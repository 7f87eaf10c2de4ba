"""Which assets an MQTT connector has heard, and when last: what a restarted process must know to miss them.

Without it, an asset that fell silent while the connector was down would get no heartbeats, and readings that a broker
lost together with the session would leave no gap. A small JSON file, replaced as a whole, at most `SAVE_S` old. It says
that an asset was heard only up to what is safe: the rest dies with the process, and has to lie in the gap.
"""

import json
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

from connectors.framer import Reading

log = logging.getLogger(__name__)

SAVE_S = 2.0
OLDEST_S = 86_400.0  # a device that is behind by more has lost its clock
FORGET_S = 30 * 86_400.0  # an asset that was not heard for so long is gone for good


class Memory:
    """`heard_until_ns`: per asset, what may be missing if nothing comes any more is not older than this. A file that
    cannot be used is told once.
    """

    def __init__(self, directory: Path, connector_id: str, now_ns: int) -> None:
        self._path = directory.expanduser() / f"{connector_id}.assets.json"
        self._saved_ns = now_ns
        self._complained = False
        self.heard_until_ns = self._load(now_ns)

    def hear(self, asset: str, arrival_ns: int, readings: Sequence[Reading]) -> int:
        """A message has come. Those behind it may have been measured at the same time and long before it arrived: so
        it is the message's own time that counts, unless its device has no idea of the time. Gives the oldest time in
        it, from which on readings are missing if it is lost.
        """
        times = [r.source_time_ns for r in readings if arrival_ns - r.source_time_ns < OLDEST_S * 1e9]
        self.heard_until_ns[asset] = min(arrival_ns, max(times, default=arrival_ns))
        return min(arrival_ns, min(times, default=arrival_ns))

    def save(self, now_ns: int, unsafe: Iterable[tuple[str, int]], at_once: bool = False) -> None:
        """Write the file if it is time to. `unsafe`: asset and oldest time of what is only in memory."""
        if not at_once and 0 <= now_ns - self._saved_ns < SAVE_S * 1e9:
            return
        self._saved_ns = now_ns
        until_ns = dict(self.heard_until_ns)
        for asset, since_ns in unsafe:
            until_ns[asset] = min(until_ns[asset], since_ns)
        try:
            _replace(self._path, until_ns)
        except OSError as error:
            self._complain(f"cannot be written ({error.strerror})")

    def _load(self, now_ns: int) -> dict[str, int]:
        try:
            plain = json.loads(self._path.read_text("utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            self._complain(f"cannot be read ({error})")
            return {}
        if not isinstance(plain, dict) or not all(isinstance(ns, int) for ns in plain.values()):
            self._complain("does not map assets to times")
            return {}
        return {asset: ns for asset, ns in plain.items() if now_ns - ns < FORGET_S * 1e9}

    def _complain(self, what: str) -> None:
        if not self._complained:
            self._complained = True
            log.warning("%s %s; after a restart silent assets will not be missed", self._path, what)


class Filters:
    """Which filters the broker has subscriptions for in our session: it keeps them, wanted or not, until they are taken
    back. A file that cannot be used is told, and filters of an earlier configuration are not known then.
    """

    def __init__(self, directory: Path, connector_id: str) -> None:
        self._path = directory.expanduser() / f"{connector_id}.filters.json"

    def load(self) -> list[str]:
        """Those of the last `save`."""
        try:
            plain = json.loads(self._path.read_text("utf-8"))
        except FileNotFoundError:
            return []
        except (OSError, ValueError) as error:
            log.warning("%s cannot be read (%s)", self._path, error)
            return []
        return [text for text in plain if isinstance(text, str)] if isinstance(plain, list) else []

    def save(self, filters: Sequence[str]) -> None:
        """Remember these instead of the earlier ones."""
        try:
            _replace(self._path, list(filters))
        except OSError as error:
            log.warning("%s cannot be written (%s); filters may stay subscribed", self._path, error.strerror)


def _replace(path: Path, plain: object) -> None:
    """Write a JSON file as a whole. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(plain), "utf-8")
    fresh.replace(path)
