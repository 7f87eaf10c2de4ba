"""Figures of merit over plain arrays: errors against a reference, consistency of a filter, percentiles.

NaN is "not known" and counts nowhere. May not know: runs, tags, files.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.consistency import mean_bounds

Floats = NDArray[np.float64]

#: χ² with one degree of freedom stays below this in 95 of 100 cases.
NIS_95 = 3.841458820694124
#: Standard deviations from 0 at which a correlation is taken for real.
SIGNIFICANT = 2.5758293035489004


@dataclass(frozen=True, slots=True, kw_only=True)
class Errors:
    """Found minus reference over `count` pairs. `rmse`, `mae`, `bias` in the unit of what was compared; `r2` is
    1 − Σ error² / Σ (reference − its mean)², NaN where the reference does not vary. NaN where there are no pairs.
    """

    count: int = 0
    rmse: float = math.nan
    mae: float = math.nan
    bias: float = math.nan
    r2: float = math.nan


def errors(found: Floats, reference: Floats) -> Errors:
    """Errors over all places where both are finite."""
    both = np.isfinite(found) & np.isfinite(reference)
    n = int(np.count_nonzero(both))
    if n == 0:
        return Errors()
    e, truth = found[both] - reference[both], reference[both]
    spread = float(np.sum((truth - truth.mean()) ** 2))
    flat = n < 2 or spread <= 1e-20 * n * (1.0 + float(np.max(np.abs(truth))) ** 2)
    return Errors(
        count=n,
        rmse=float(np.sqrt(np.mean(e * e))),
        mae=float(np.mean(np.abs(e))),
        bias=float(np.mean(e)),
        r2=math.nan if flat else 1.0 - float(np.sum(e * e)) / spread,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Consistency:
    """Does a filter's stated noise fit its innovations? Where it does, the mean NIS is 1 and they are uncorrelated.

    `low`, `high`: bounds of the mean over all `count` readings at the confidence asked for. `within`: share of single
    readings below the 95 % bound. `windows`: whole windows of so many readings; shares of them within, above and below
    their bounds. `correlation`: of an innovation with the next of the same tag. `verdict`: see `verdict`.
    """

    count: int = 0
    mean: float = math.nan
    low: float = math.nan
    high: float = math.nan
    within: float = math.nan
    window: int = 0
    windows: int = 0
    windows_within: float = math.nan
    windows_high: float = math.nan
    windows_low: float = math.nan
    correlation: float = math.nan
    verdict: str = "not evaluated"


#: Fewest readings that a verdict is given for.
VERDICT_MIN = 25


def consistency(innovation: Floats, nis: Floats, window: int, confidence: float) -> Consistency:
    """Consistency over the readings of one tag in order of time; NaN where a filter did not see one."""
    seen = np.isfinite(innovation) & np.isfinite(nis)
    values = nis[seen]
    n = len(values)
    if n == 0:
        return Consistency(window=window)
    mean = float(values.mean())
    low, high = mean_bounds(n, confidence)
    whole = n // window
    means = values[: whole * window].reshape(whole, window).mean(axis=1)
    window_low, window_high = mean_bounds(window, confidence)
    rho = correlation(np.sign(innovation[seen]) * np.sqrt(values))
    return Consistency(
        count=n,
        mean=mean,
        low=low,
        high=high,
        within=float(np.mean(values <= NIS_95)),
        window=window,
        windows=whole,
        windows_within=_share((means >= window_low) & (means <= window_high)),
        windows_high=_share(means > window_high),
        windows_low=_share(means < window_low),
        correlation=rho,
        verdict=verdict(n, mean, low, high, rho),
    )


def correlation(e: Floats) -> float:
    """Correlation of neighbours of a series whose mean should be 0; NaN for fewer than three."""
    total = float(np.sum(e * e))
    return math.nan if len(e) < 3 or total == 0.0 else float(np.sum(e[1:] * e[:-1])) / total


def verdict(n: int, mean: float, low: float, high: float, rho: float) -> str:
    """What the figures say about process noise q and measurement noise r.

    A filter that follows too slowly (q too small against r) has innovations that agree with the last one, one that
    follows too fast has innovations that contradict it; the mean NIS tells whether their sum is too small or too large.
    """
    if n < VERDICT_MIN or not math.isfinite(mean):
        return "not evaluated"
    bound = SIGNIFICANT / math.sqrt(n)
    slow, fast = rho > bound, rho < -bound
    if mean > high:
        return "q too small" if slow else "r too small" if fast else "q and r too small"
    if mean < low:
        return "r too large" if slow else "q too large" if fast else "q and r too large"
    # also after a fit: then the tag does not move as the filter supposes, and no noise can make up for it
    return "mean fits, follows too slowly" if slow else "mean fits, follows too fast" if fast else "fits"


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Percentiles over `count` values, in their unit."""

    count: int = 0
    p50: float = math.nan
    p95: float = math.nan
    p99: float = math.nan
    max: float = math.nan


def spread(values: Floats) -> Spread:
    """Percentiles of the finite values."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return Spread()
    p50, p95, p99 = np.percentile(finite, (50.0, 95.0, 99.0)).tolist()
    return Spread(count=len(finite), p50=p50, p95=p95, p99=p99, max=float(finite.max()))


def _share(which: NDArray[np.bool_]) -> float:
    return float(np.mean(which)) if len(which) else math.nan


def plain(value: Any) -> Any:
    """A value as JSON has it: NaN and infinities as null, dataclasses as objects, numpy numbers as numbers."""
    if hasattr(value, "__dataclass_fields__"):
        return {name: plain(getattr(value, name)) for name in value.__dataclass_fields__}
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
