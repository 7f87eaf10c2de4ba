"""One run of one row of the table of faults: its seed, what it found, and whether it passed.

A row counts what it struck only where it saw the blow land; a run in which nothing was struck has failed.
"""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

POLL_S = 0.1
SLACK = 3.0


class TooLate(AssertionError):
    """Something that must happen did not, in time."""


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What a run found. Counts are readings; `told_missing`: lost where a gap frame says so; `recover_s`: each time;
    `code`: the commit that ran.
    """

    row: int
    title: str
    seed: int
    short: bool
    struck: int = 0
    readings: int = 0
    missing: int = 0
    repeated: int = 0
    altered: int = 0
    told_missing: int = 0
    recover_s: list[float] = field(default_factory=list)
    seconds: float = 0.0
    code: str = ""
    notes: dict[str, Any] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Everything required held, and the fault struck."""
        return not self.failures

    def as_dict(self) -> dict[str, Any]:
        """For JSON, with the command that repeats it."""
        fields = {name: getattr(self, name) for name in self.__slots__}
        return {**fields, "pass": self.passed, "command": self.command}

    @property
    def command(self) -> str:
        """What repeats this run."""
        return f"make fault ROW={self.row} SEED={self.seed}" + (" SHORT=1" if self.short else "")


@dataclass(slots=True)
class Rig:
    """What a row is given. `rng` is seeded; `short`: the form that fits into `make test`; `folder` is its own."""

    outcome: Outcome
    folder: Path
    rng: random.Random

    @property
    def short(self) -> bool:
        """Whether this is the short form."""
        return self.outcome.short

    def struck(self, times: int = 1) -> None:
        """The fault was seen to have struck."""
        self.outcome.struck += times

    def recovered(self, seconds: float) -> None:
        """Everything flowed again so long after a fault began to be over."""
        self.outcome.recover_s.append(round(seconds, 2))

    def require(self, holds: object, sentence: str) -> None:
        """Note a failure unless it holds; the run goes on, so that one run tells all that is wrong."""
        if not holds:
            self.outcome.failures.append(sentence)

    def note(self, name: str, value: Any) -> None:
        """A figure for the table."""
        self.outcome.notes[name] = value

    def times(self, full: int, short: int) -> int:
        """So many repetitions, by form."""
        return short if self.short else full

    def limit_s(self, seconds: float) -> float:
        """A limit in time as the table demands it. The short form also runs on machines that are busy with other tests,
        and judges what is lost rather than how long it takes: three times as much there.
        """
        return seconds * SLACK if self.short else seconds

    def wait_for(self, holds: Callable[[], object], what: str, within_s: float) -> float:
        """Wait until it holds; the seconds it took. Raises TooLate."""
        began = time.monotonic()
        while not holds():
            if time.monotonic() - began > within_s:
                raise TooLate(f"{what}: not within {within_s:g} s")
            time.sleep(POLL_S)
        return time.monotonic() - began
