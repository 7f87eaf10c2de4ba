"""What every fit gives back: a value with its 95 % interval, or an error that says what is missing."""

from dataclasses import dataclass


class TooFewReadings(ValueError):
    """The span has too few usable readings of a tag. The message says how many there are and how many are needed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A value with its 95 % interval. `low` = 0 or `high` = inf: the data set no bound there."""

    value: float
    low: float
    high: float
    note: str = ""
