"""What must survive a kill -9 of the connector: the session it may take over, and up to when each tag is in Kafka.

Everything stands in two files, so that damage to one of them loses nothing. The times are memory-mapped: the pages
outlive the process (not a power cut; then the gap frame begins earlier than it need). The session's token stands in
files of mode 0600.
"""

import json
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from connectors.opcua_slots import UNKNOWN, Slots, fill, write
from connectors.opcua_values import Item

_FORMAT = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumable:
    """A session and subscription that the server may still hold for us. `item_ids` and `queue_sizes` (values that the
    server queues) follow the items' order."""

    url: str
    token: str
    nonce: str
    subscription: int
    item_ids: tuple[int, ...]
    queue_sizes: tuple[int, ...]
    publishing_ms: float
    keepalive_count: int


class Memory:
    """State of one connector in a directory. `bind` comes first; handles are the items' positions then."""

    def __init__(self, directory: Path, connector_id: str) -> None:
        directory = directory.expanduser()
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._directory, self._connector_id = directory, connector_id
        self._files = [directory / f"{connector_id}.opcua.json", directory / f"{connector_id}.opcua.copy.json"]
        self._keys: list[list[str]] = []
        self._number = 0  # of the files with the times
        self._slots: Slots | None = None
        self.resumable: Resumable | None = None
        self._load()

    @property
    def assets(self) -> list[str]:
        """Assets of the remembered items."""
        return [key[2] for key in self._keys]

    @property
    def sequence(self) -> int:
        """Sequence number of the last notification whose readings are in Kafka; 0 for a new subscription."""
        return self._bound[0]

    @sequence.setter
    def sequence(self, number: int) -> None:
        self._bound[0] = number

    def last_ns(self, handle: int) -> int | None:
        """Source time of the item's last reading in Kafka; None where there never was one."""
        time_ns = self._bound[handle + 1]
        return None if time_ns == UNKNOWN else time_ns

    def remember(self, handle: int, time_ns: int) -> None:
        """The item's last reading in Kafka has this source time; it goes back where a device's clock is set back."""
        self._bound[handle + 1] = time_ns

    def same_items(self, items: Sequence[Item]) -> bool:
        """Whether these are the items of the remembered subscription."""
        return self._keys == [list(item.key) for item in items]

    def bind(self, items: Sequence[Item]) -> None:
        """From now on handle i is items[i]. What was remembered of a tag (asset and tag) is carried over."""
        if self.same_items(items) and self._slots is not None:
            return
        before = {(key[2], key[3]): self._bound[i + 1] for i, key in enumerate(self._keys)}
        times = [0, *(before.get((item.asset, item.tag), UNKNOWN) for item in items)]
        old = self._times if self._slots is not None else []
        self._number += 1
        fill(self._times, times)
        self._keys = [list(item.key) for item in items]
        self.resumable = None
        self._slots = Slots(self._times, len(times))
        self._store()
        for path in old:
            path.unlink(missing_ok=True)

    def keep(self, resumable: Resumable | None) -> None:
        """Note the session to take over; None: there is none. A new one begins with sequence number 0."""
        if self._slots is not None and (
            resumable is None or self.resumable is None or resumable.subscription != self.resumable.subscription
        ):
            self.sequence = 0
        self.resumable = resumable
        self._store()

    @property
    def _bound(self) -> Slots:
        if self._slots is None:
            raise RuntimeError("no items are bound")
        return self._slots

    @property
    def _times(self) -> list[Path]:
        stem = f"{self._connector_id}.opcua-{self._number}"
        return [self._directory / f"{stem}.times", self._directory / f"{stem}.copy.times"]

    def _store(self) -> None:
        content = {
            "format": _FORMAT,
            "times": self._number,
            "items": self._keys,
            "session": asdict(self.resumable) if self.resumable else None,
        }
        for path in self._files:
            write(path, json.dumps({**content, "checksum": _checksum(content)}).encode())

    def _load(self) -> None:
        """Read what an earlier process left; what cannot be read counts as nothing remembered."""
        content = next((found for path in self._files if (found := _content(path)) is not None), None)
        if content is None:
            return
        self._keys, self._number = content["items"], content["times"]
        self._slots = Slots(self._times, len(self._keys) + 1)
        session = content["session"]
        if session is not None and self.sequence != UNKNOWN:
            ids, sizes = tuple(session["item_ids"]), tuple(session["queue_sizes"])
            self.resumable = Resumable(**{**session, "item_ids": ids, "queue_sizes": sizes})


def _content(path: Path) -> dict[str, Any] | None:
    """What `_store` wrote into a file; None where it is not there, or damaged, or of another version."""
    try:
        content = json.loads(path.read_text("utf-8"))
        checksum = content.pop("checksum")
        return content if content["format"] == _FORMAT and checksum == _checksum(content) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _checksum(content: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(content).encode())
