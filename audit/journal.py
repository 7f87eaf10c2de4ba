"""The plant's journal as the auditor needs it: readings by tag in the order sent, faults, and what is no reading.

A line is a reading, or has the key `garbage` (bytes that nobody can parse), or the key `event` (a fault that ended,
with its span). May not know the plant's code.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import isnan
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


@dataclass(slots=True)
class Journal:
    """Everything that was sent. `repeats` counts readings sent again on purpose, `garbage` what nobody can parse."""

    readings: dict[TagName, list[Sent]] = field(default_factory=dict)
    episodes: dict[TagName, list[Episode]] = field(default_factory=dict)
    protocols: dict[str, int] = field(default_factory=dict)
    repeats: int = 0
    garbage: int = 0
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
            return
        if entry["repeat"]:
            self.repeats += 1
            return
        protocol = str(entry["protocol"])
        self.protocols[protocol] = self.protocols.get(protocol, 0) + 1
        self.readings.setdefault((entry["asset"], entry["tag"]), []).append(_sent(entry))


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
