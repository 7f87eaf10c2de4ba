"""The plant's journal as the auditor needs it: readings by tag in the order sent, faults, and what is no reading.

A line is a reading, or has the key `garbage` (bytes that nobody can parse), or the key `event` (a fault that ended,
with its span). May not know the plant's code.
"""

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from math import isnan, nan
from pathlib import Path
from typing import Any, NamedTuple

import orjson

TagName = tuple[str, str]  # asset, tag


class JournalError(ValueError):
    """A journal that cannot be read. The message names file, line and what is wrong."""


class Sent(NamedTuple):
    """One reading as the plant sent it. `value` is None where no number was sent."""

    time_ns: int
    sent_ns: int
    value: float | None
    text: str | None
    unit: str
    status: int
    fault: str | None
    truth: float | None
    protocol: str


class Episode(NamedTuple):
    """A fault of one tag, in the plant's time (ns since 1970)."""

    kind: str
    from_ns: int
    to_ns: int


class Readings:
    """The readings of one tag in the order sent, as columns: a million of them take some 50 MB, not 500."""

    def __init__(self) -> None:
        self.time_ns, self.sent_ns = array("q"), array("q")
        self.value, self.truth = array("d"), array("d")  # NaN: none
        self.status = array("I")
        self._words = array("I")  # index of unit, fault and protocol
        self.texts: dict[int, str] = {}
        self._known: dict[tuple[str, str | None, str], int] = {}
        self._names: list[tuple[str, str | None, str]] = []

    def __len__(self) -> int:
        return len(self.time_ns)

    def __iter__(self) -> Iterator[Sent]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Sent:
        value, truth = self.value[index], self.truth[index]
        unit, fault, protocol = self._names[self._words[index]]
        return Sent(
            time_ns=self.time_ns[index],
            sent_ns=self.sent_ns[index],
            value=None if isnan(value) else value,
            text=self.texts.get(index),
            unit=unit,
            status=self.status[index],
            fault=fault,
            truth=None if isnan(truth) else truth,
            protocol=protocol,
        )

    def unit(self, index: int) -> str:
        """Unit of a reading."""
        return self._names[self._words[index]][0]

    def protocol(self, index: int) -> str:
        """What a reading was sent over."""
        return self._names[self._words[index]][2]

    def add(self, sent: Sent) -> None:
        """Append one."""
        if sent.text is not None:
            self.texts[len(self)] = sent.text
        names = (sent.unit, sent.fault, sent.protocol)
        code = self._known.setdefault(names, len(self._names))
        if code == len(self._names):
            self._names.append(names)
        self._words.append(code)
        self.status.append(sent.status)
        self.value.append(nan if sent.value is None else sent.value)
        self.truth.append(nan if sent.truth is None else sent.truth)
        self.sent_ns.append(sent.sent_ns)
        self.time_ns.append(sent.time_ns)


def payload_digest(payload: bytes) -> bytes:
    """What a payload is recognised by."""
    return blake2b(payload, digest_size=16).digest()


@dataclass(slots=True)
class Journal:
    """Everything that was sent. `repeats` counts readings sent again on purpose, `garbage` what nobody can parse;
    `garbage_payloads` are the digests of its bytes where the journal has them.
    """

    readings: dict[TagName, Readings] = field(default_factory=dict)
    episodes: dict[TagName, list[Episode]] = field(default_factory=dict)
    protocols: dict[str, int] = field(default_factory=dict)
    repeats: int = 0
    garbage: int = 0
    garbage_payloads: dict[bytes, str] = field(default_factory=dict)
    first_sent_ns: int = 2**63 - 1

    def add(self, entry: dict[str, Any]) -> None:
        """Take in one line. Raises KeyError, ValueError or TypeError where it is not as agreed."""
        if entry.get("event"):
            if "kind" in entry:
                episode = Episode(entry["kind"], entry["from_ns"], entry["to_ns"])
                self.episodes.setdefault((entry["asset"], entry["tag"]), []).append(episode)
            return
        self.first_sent_ns = min(self.first_sent_ns, entry["sent_ns"])
        if entry.get("garbage"):
            self.garbage += 1
            if "bytes" in entry:
                payload = bytes.fromhex(entry["bytes"])
                self.garbage_payloads[payload_digest(payload)] = f"{entry['asset']}/{entry['tag']}: {payload[:60]!r}"
            return
        if entry["repeat"]:
            self.repeats += 1
            return
        protocol = str(entry["protocol"])
        self.protocols[protocol] = self.protocols.get(protocol, 0) + 1
        name = (entry["asset"], entry["tag"])
        readings = self.readings.get(name)
        if readings is None:
            readings = self.readings[name] = Readings()
        readings.add(_sent(entry))


def read(paths: Iterable[Path]) -> Journal:
    """All lines of the journals. Raises JournalError."""
    journal = Journal()
    for path in paths:
        try:
            with path.open("rb") as file:
                for number, text in enumerate(file, 1):
                    _add(journal, text, f"{path}, line {number}")
        except OSError as error:
            raise JournalError(f"{path}: cannot be read ({error.strerror})") from error
    return journal


def _add(journal: Journal, text: bytes, where: str) -> None:
    try:
        journal.add(orjson.loads(text))
    except KeyError as error:
        raise JournalError(f"{where}: the key {error} is not there") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise JournalError(f"{where}: {error}") from error


def _sent(entry: dict[str, Any]) -> Sent:
    value = None if entry["value"] is None else float.fromhex(entry["value"])
    if value is not None and isnan(value):  # in whichever bits, it is stored as the absence of a number
        value = None
    return Sent(
        time_ns=entry["source_time_ns"],
        sent_ns=entry["sent_ns"],
        value=value,
        text=entry["text"],
        unit=entry["unit"] or "",
        status=entry.get("status", 0),
        fault=entry["fault"],
        truth=entry["truth"],
        protocol=str(entry["protocol"]),
    )
