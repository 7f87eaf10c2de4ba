"""Quality of a reading: QARTOD flags, which tests spoke, and marks about how the reading came to be.

Source: QARTOD flag scheme (IOOS), OPC UA Part 8 (StatusCode severity bits).
"""

from enum import IntEnum, IntFlag


class Flag(IntEnum):
    """QARTOD primary flags."""

    GOOD = 1
    NOT_EVALUATED = 2
    SUSPECT = 3
    FAIL = 4
    MISSING = 9


class Test(IntFlag):
    """Bit mask of the tests that spoke (gave SUSPECT, FAIL or MISSING) for a reading."""

    __test__ = False  # not a pytest class

    STATUS = 1 << 0
    FINITE = 1 << 1
    RANGE = 1 << 2
    ZSCORE = 1 << 3
    SPIKE = 1 << 4
    RATE = 1 << 5
    FLAT_LINE = 1 << 6
    GAP = 1 << 7
    TIME = 1 << 8
    LATE = 1 << 9
    DRIFT = 1 << 10
    NIS_GATE = 1 << 11


class Mark(IntFlag):
    """Facts about a reading that are not quality."""

    ARRIVAL_TIME_USED = 1 << 0  # the payload had no time of its own
    TEXT = 1 << 1  # the value was no number; the frame's texts hold what came
    IMPUTED = 1 << 2  # nothing arrived; a row that validation inserted for a missing reading
    REORDERED = 1 << 3  # it came late, and a correction put it in order: arrival time, source and seq are its place's


#: Precedence of flags when tests disagree: the first of these that any test gave (FAIL worst).
PRECEDENCE = (Flag.FAIL, Flag.MISSING, Flag.SUSPECT, Flag.GOOD, Flag.NOT_EVALUATED)

GRADES = {
    Flag.GOOD: "GOOD",
    Flag.NOT_EVALUATED: "UNCERTAIN",
    Flag.SUSPECT: "UNCERTAIN",
    Flag.FAIL: "BAD",
    Flag.MISSING: "BAD",
}


def grade(flag: int) -> str:
    """GOOD, UNCERTAIN or BAD: how a flag is shown to people. Raises ValueError for a number that is no flag."""
    return GRADES[Flag(flag)]


#: OPC UA status codes that connectors without a status of their own use.
STATUS_GOOD = 0x00000000
STATUS_UNCERTAIN = 0x40000000
STATUS_BAD = 0x80000000
