"""What must survive a kill -9 of the connector: the session it may take over, and up to when each tag is in Kafka.

The times are a memory-mapped file: storing one is a store to memory, and the pages outlive the process (not a power
cut; then the gap frame begins earlier than it need). The session's token stands in a file of mode 0600.
"""

import json
import mmap
import os
from array import array
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from connectors.opcua_values import Item

_NEVER = -(2**63)
_SLOT_BYTES = 8
_FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumable:
    """A session and subscription that the server may still hold for us. `item_ids` follow the items' order."""

    url: str
    token: str
    nonce: str
    subscription: int
    item_ids: tuple[int, ...]
    publishing_ms: float
    keepalive_count: int


class Memory:
    """State of one connector in a directory. `bind` comes first; handles are the items' positions then."""

    def __init__(self, directory: Path, connector_id: str) -> None:
        directory = directory.expanduser()
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._file = directory / f"{connector_id}.opcua.json"
        self._connector_id = connector_id
        self._keys: list[list[str]] = []
        self._times_file: Path | None = None
        self._map: mmap.mmap | None = None
        self._slots = memoryview(bytearray(_SLOT_BYTES)).cast("q")
        self.resumable: Resumable | None = None
        self._load()

    @property
    def assets(self) -> list[str]:
        """Assets of the remembered items."""
        return [key[2] for key in self._keys]

    @property
    def sequence(self) -> int:
        """Sequence number of the last notification whose readings are in Kafka; 0 for a new subscription."""
        return self._slots[0]

    @sequence.setter
    def sequence(self, number: int) -> None:
        self._slots[0] = number

    def last_ns(self, handle: int) -> int | None:
        """Source time of the item's newest reading in Kafka; None where there never was one."""
        time_ns = self._slots[handle + 1]
        return None if time_ns == _NEVER else time_ns

    def remember(self, handle: int, time_ns: int) -> None:
        """The item is in Kafka up to this source time. Times do not go back."""
        self._slots[handle + 1] = max(self._slots[handle + 1], time_ns)

    def same_items(self, items: Sequence[Item]) -> bool:
        """Whether these are the items of the remembered subscription."""
        return self._keys == [list(item.key) for item in items]

    def bind(self, items: Sequence[Item]) -> None:
        """From now on handle i is items[i]. What was remembered of a tag (asset and tag) is carried over."""
        if self.same_items(items) and self._map is not None:
            return
        before = {(key[2], key[3]): self._slots[i + 1] for i, key in enumerate(self._keys)}
        times = [0, *(before.get((item.asset, item.tag), _NEVER) for item in items)]
        old = self._times_file
        number = int(old.stem.rpartition("-")[2]) + 1 if old else 0
        new = self._file.with_name(f"{self._connector_id}.opcua-{number}.times")
        new.write_bytes(array("q", times).tobytes())
        self._keys = [list(item.key) for item in items]
        self.resumable = None
        self._open(new)
        self._store()
        if old is not None and old != new:
            old.unlink(missing_ok=True)

    def keep(self, resumable: Resumable | None) -> None:
        """Note the session to take over; None: there is none. A new one begins with sequence number 0."""
        if resumable is None or self.resumable is None or resumable.subscription != self.resumable.subscription:
            self.sequence = 0
        self.resumable = resumable
        self._store()

    def _open(self, path: Path) -> None:
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 0)
        self._slots = memoryview(self._map).cast("q")
        self._times_file = path

    def _store(self) -> None:
        content = {
            "format": _FORMAT,
            "times": self._times_file.name if self._times_file else None,
            "items": self._keys,
            "session": asdict(self.resumable) if self.resumable else None,
        }
        partial = self._file.with_suffix(".partial")
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(content, file)
        partial.replace(self._file)

    def _load(self) -> None:
        """Read what an earlier process left; what cannot be read counts as nothing remembered."""
        try:
            content = json.loads(self._file.read_text("utf-8"))
            keys = content["items"]
            times = self._file.with_name(content["times"])
            if content["format"] != _FORMAT or times.stat().st_size != (len(keys) + 1) * _SLOT_BYTES:
                return
            self._open(times)
            self._keys = keys
            session = content["session"]
            if session is not None:
                self.resumable = Resumable(**{**session, "item_ids": tuple(session["item_ids"])})
        except (OSError, ValueError, KeyError, TypeError):
            return
