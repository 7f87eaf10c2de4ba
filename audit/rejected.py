"""What the stages rejected, by stage and reason, and whether everything is there that had to be rejected. Pure.

| fault | meaning |
|---|---|
| missing | a record of raw that no stage can use, or garbage that the plant sent, is not among the rejected |
| unreadable | a record of the topic that is none |
"""

import re
from collections.abc import Mapping

from audit.journal import payload_digest
from audit.kafka import Record
from audit.tally import Tally
from schemas.codec import DecodeError, decode_as
from schemas.records import Rejected

FAULTS = ("missing", "unreadable")
FIGURES = ("records",)
#: Different reasons that are counted one by one; the others count together.
REASONS_MAX = 500
OTHERS = "other reasons"
_CHANGING = re.compile(r"'[^']*'|\"[^\"]*\"|b?'[^']*'|\d+")


class Refused:
    """Takes in all records of the topic, then `judge`."""

    def __init__(self, example_count: int = 10) -> None:
        self.tally = Tally(FAULTS, FIGURES, example_count)
        self.reasons: dict[str, dict[str, int]] = {}
        self._places: set[tuple[str, int, int]] = set()
        self._payloads: set[bytes] = set()

    def add(self, record: Record) -> None:
        """Take in one record."""
        self.tally.figure("records")
        try:
            found = decode_as(record.value, Rejected)
        except DecodeError as error:
            self.tally.fault("unreadable", f"{record.partition}/{record.offset}, key {record.key!r}: {error}")
            return
        reasons = self.reasons.setdefault(found.stage, {})
        reason = reason_class(found.reason)
        if reason not in reasons and len(reasons) >= REASONS_MAX:
            reason = OTHERS
        reasons[reason] = reasons.get(reason, 0) + 1
        if found.offset >= 0:
            self._places.add((found.topic, found.partition, found.offset))
        self._payloads.add(payload_digest(found.payload))

    def judge(self, places: Mapping[tuple[str, int, int], bytes], garbage: Mapping[bytes, str]) -> None:
        """Look for records by their position, and for garbage by its bytes."""
        for place, key in places.items():
            if place not in self._places:
                topic, partition, offset = place
                self.tally.fault("missing", f"{topic} {partition}/{offset}, key {key!r}")
        for digest, words in garbage.items():
            if digest not in self._payloads:
                self.tally.fault("missing", f"garbage sent to {words}")


def reason_class(reason: str) -> str:
    """A reason without what differs from record to record: numbers and quoted words."""
    return _CHANGING.sub("…", reason)[:160]
