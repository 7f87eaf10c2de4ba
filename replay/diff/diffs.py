"""What a difference of two runs is: the records. May not know: how they come to be, how they are shown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from replay.score.figures import Consistency, Errors

Floats = NDArray[np.float64]
I64 = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A reading that both runs have, and what each made of it. Values in the tag's unit; `times_std`: difference of
    the estimates over the first run's standard deviation.
    """

    asset: str
    tag: str
    time_ns: int
    value: float
    flags: tuple[str, str]
    tests: tuple[str, str]
    estimates: tuple[float, float]
    times_std: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TagDiff:
    """One tag. Pairs are of the first and the second run.

    `matched`: readings that both have, `only`: readings that one has. `flags`: "good → suspect" → readings; `tests`:
    test → readings where it speaks now and did not, and the other way round. `reference`: what `estimate` is against.
    `moved_rms`, `moved_max`: of the estimates, in `unit`.
    """

    asset: str
    tag: str
    unit: str
    matched: int
    only: tuple[int, int]
    changed: int
    flags: Mapping[str, int]
    tests: Mapping[str, tuple[int, int]]
    reference: str
    estimate: tuple[Errors, Errors]
    nis: tuple[Consistency, Consistency]
    moved_rms: float
    moved_max: float
    times_std_max: float
    examples: Sequence[Place]
    largest: Sequence[Place]


@dataclass(frozen=True, slots=True, kw_only=True)
class StateDiff:
    """One state of an asset's model over the times of the first run's records, where the second has any before and
    after: `last` of both, `moved_rms` and `moved_max` in the state's unit, and when that was.
    """

    asset: str
    name: str
    records: int
    last: tuple[float, float]
    moved_rms: float
    moved_max: float
    moved_max_ns: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pair:
    """A quantity in both runs, thinned for a plot: times and values of each, and times to point at."""

    asset: str
    name: str
    unit: str
    time_ns: tuple[I64, I64]
    value: tuple[Floats, Floats]
    marks: I64 = field(default_factory=lambda: np.empty(0, np.int64))
    weight: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Diff:
    """Two runs compared. `missing`: assets that only one of them has."""

    tags: Sequence[TagDiff]
    states: Sequence[StateDiff]
    largest: Sequence[Place]
    pairs: Sequence[Pair]
    missing: tuple[tuple[str, ...], tuple[str, ...]]
