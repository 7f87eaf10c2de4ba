"""Which readings and alerts count as signals, by the user's choice. May not know: labels, figures."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kernels.stage import TIME_TESTS
from replay.results.finished import ResultError
from schemas.quality import Flag, Test

I64 = NDArray[np.int64]

ALL_TESTS = int(sum(Test))
_FLAGGED = (int(Flag.SUSPECT), int(Flag.FAIL), int(Flag.MISSING))
#: A word of the choice that begins so names a kind of alert.
ALERT = "alert:"
ALERT_KINDS = ("bad_quality", "stale", "drift", "nis_inconsistent", "residual", "connection", "gap")


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """`tests`: bits of `schemas.quality.Test`; `alerts`: kinds of alerts. Alerts that something is over never count.

    Without a choice every test counts and no alert: most alerts are told of flags.
    """

    tests: int = ALL_TESTS
    alerts: frozenset[str] = frozenset()


def choice(words: Sequence[str]) -> Choice:
    """The choice that names as `drift`, `zscore`, `alert:residual`, `tests`, `alerts` make. Raises ResultError."""
    if not words:
        return Choice()
    bits, alerts = 0, set()
    names = {str(test.name).lower(): int(test) for test in Test}
    for word in words:
        if word == "tests":
            bits |= ALL_TESTS
        elif word == "alerts":
            alerts |= set(ALERT_KINDS)
        elif word in names:
            bits |= names[word]
        elif word.removeprefix(ALERT) in ALERT_KINDS and word.startswith(ALERT):
            alerts.add(word.removeprefix(ALERT))
        else:
            kinds = ", ".join(ALERT + kind for kind in ALERT_KINDS)
            raise ResultError(f"signal {word!r}: allowed are tests, alerts, {', '.join(names)}, {kinds}")
    return Choice(tests=bits, alerts=frozenset(alerts))


def flagged(readings: pd.DataFrame, chosen: Choice) -> NDArray[np.bool_]:
    """Which readings signal, shape (n,): suspect, failed or missing, by one of the tests that count."""
    tests, flag = readings["tests"].to_numpy(np.int64), readings["flag"].to_numpy(np.int64)
    spoke = (tests & chosen.tests) != 0
    if chosen.tests == ALL_TESTS:
        spoke |= tests == 0  # flagged at its source
    found: NDArray[np.bool_] = np.isin(flag, _FLAGGED) & spoke
    return found


def event_time_ns(readings: pd.DataFrame) -> I64:
    """When each reading was: its source time, the arrival time where that cannot be trusted."""
    doubtful = (readings["tests"].to_numpy(np.int64) & int(TIME_TESTS)) != 0
    source, arrival = readings["source_time_ns"].to_numpy(np.int64), readings["arrival_time_ns"].to_numpy(np.int64)
    return np.asarray(np.where(doubtful, arrival, source))


def alerted(alerts: pd.DataFrame, chosen: Choice) -> pd.DataFrame:
    """Alerts that signal. One of severity info says that something is over, except for `nis_inconsistent`, which
    begins so too: there, what says that the noise fits is over.
    """
    if not chosen.alerts or alerts.empty:
        return alerts.iloc[:0]
    kind = alerts["kind"].astype(str)
    over = (alerts["severity"].astype(str) == "info") & (kind != "nis_inconsistent")
    over |= (kind == "nis_inconsistent") & alerts["message"].astype(str).str.contains(" fits ", regex=False)
    rows: pd.DataFrame = alerts[kind.isin(chosen.alerts) & ~over]
    return rows
