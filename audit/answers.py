"""The outputs of one stage against the raw frames, and against the expected outputs. Pure.

| fault | meaning |
|---|---|
| missing | a raw frame has no output of its identity (where outputs are expected: an expected one is not there) |
| unasked | an output of an identity that raw does not have |
| differing | the output's bytes are not the expected ones |
| conflicting | the same identity came again with other bytes; identical repetitions are legal |
| out_of_order | it stands before an output of its asset whose raw frame came earlier |
| misplaced | it is in another partition than its asset's home, or its key is not its asset |
| unreadable | no record of this topic's type |
| not_finite | an estimate, rate or deviation that is infinite, or one without the others |
"""

from collections.abc import Callable

import numpy as np

from audit.expected import ExpectedStage
from audit.kafka import Record, home
from audit.raw import Raw
from audit.streams import NONE, NOWHERE, Key, Stream, digest, key_of, named
from audit.tally import Tally
from schemas.codec import DecodeError, as_written_now, decode_as, identity_of
from schemas.frames import EstimateFrame, Identity, ValidatedFrame
from schemas.records import TwinState

FAULTS = (
    "missing", "unasked", "differing", "conflicting", "out_of_order", "misplaced", "unreadable", "not_finite",
)  # fmt: skip
FIGURES = ("records", "frames", "repeated_frames")

Look = Callable[[bytes], tuple[Identity, str]]  # identity, and what is wrong with the content


class Answers:
    """Takes in all records of a topic in order of their offsets, then `judge`."""

    def __init__(
        self, raw: Raw, look: Look, partitions: int, expected: ExpectedStage | None, example_count: int = 10
    ) -> None:
        self.tally = Tally(FAULTS, FIGURES, example_count)
        self.last_offset: dict[str, int] = {}
        self.last: dict[str, bytes] = {}
        self._raw, self._look, self._partitions, self._expected = raw, look, partitions, expected
        self._streams: dict[Key, Stream] = {}
        self._last_place: dict[str, int] = {}

    def add(self, record: Record) -> None:
        """Take in one record."""
        tally = self.tally
        tally.figure("records")
        where = f"{record.partition}/{record.offset}"
        try:
            identity, problem = self._look(record.value)
            bytes_digest = digest(as_written_now(record.value))  # another release may have written it
        except DecodeError as error:
            tally.fault("unreadable", f"{where}, key {record.key!r}: {error}")
            return
        key, seq = key_of(identity), identity.seq
        name = f"{named(key, seq)} at {where}"
        at_home = record.key == key.asset.encode() and home(record.key, self._partitions) == record.partition
        if not at_home:
            tally.fault("misplaced", f"{name}, key {record.key!r}")
        asked = self._raw.streams.get(key)
        if asked is None or not asked.seen(seq):
            tally.fault("unasked", name)
            return
        stream = self._streams.setdefault(key, Stream())
        if stream.seen(seq):
            if stream.digest(seq) == bytes_digest:
                tally.figure("repeated_frames")
            else:
                tally.fault("conflicting", name)
            return
        tally.figure("frames")
        place = asked.places[seq]
        stream.put(seq, bytes_digest, place)
        if problem:
            tally.fault("not_finite", f"{name}: {problem}")
        if not at_home:
            return  # order holds within a partition only
        if place < self._last_place.get(key.asset, NOWHERE):
            tally.fault("out_of_order", name)
        else:
            self._last_place[key.asset] = place
            self.last_offset[key.asset] = record.offset
            self.last[key.asset] = as_written_now(record.value)

    def judge(self) -> None:
        """Find what is missing and what is not as expected."""
        for key, asked in self._raw.streams.items():
            stream = self._streams.get(key, Stream())
            for seq in range(len(asked)):
                if self._expected is None:
                    wanted = asked.seen(seq) and (key, seq) not in self._raw.unanswerable
                else:
                    wanted = self._expected.digest(key, seq) != NONE
                if stream.seen(seq):
                    if self._expected is not None and stream.digest(seq) != self._expected.digest(key, seq):
                        words = "differs from the expected one" if wanted else "none is expected"
                        self.tally.fault("differing", f"{named(key, seq)}: {words}")
                elif wanted:
                    self.tally.fault("missing", named(key, seq))


def look_at_validated(data: bytes) -> tuple[Identity, str]:
    """Identity of a validated frame."""
    return identity_of(data, ValidatedFrame), ""


def look_at_estimates(data: bytes) -> tuple[Identity, str]:
    """Identity of a frame of estimates, and which column is not finite where it must be."""
    frame = decode_as(data, EstimateFrame)
    for name in ("estimate", "rate", "std", "innovation", "nis"):
        if np.isinf(getattr(frame, name)).any():
            return frame.identity, f"{name} is infinite"
    known = ~np.isnan(frame.estimate)
    for name in ("rate", "std"):
        if np.isnan(getattr(frame, name)[known]).any():
            return frame.identity, f"{name} is no number where there is an estimate"
    return frame.identity, ""


def look_at_state(data: bytes) -> tuple[Identity, str]:
    """Identity of a twin's state."""
    return identity_of(data, TwinState), ""
