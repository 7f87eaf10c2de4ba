"""What a score is: the records, and how figures of several tags are put together. May not know: how they come to be."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from kernels.stage import Settings
from replay.score.figures import Consistency, Errors, Spread
from replay.score.labels import Detection, Window
from replay.score.series import Series
from replay.score.signals import Choice
from replay.score.truth import Truth

TRUTH, SMOOTHER, NONE = "truth", "smoother", "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Against:
    """What a run is scored against and how. `tags`: patterns; empty: all. `merge_s`: runs of signals that are not
    further apart are one alarm. `labels` None: no detection.
    """

    settings: Settings
    truth: Truth | None = None
    labels: Sequence[Window] | None = None
    choice: Choice = field(default_factory=Choice)
    merge_s: float = 0.0
    tags: Sequence[str] = ()

    def wants(self, tag: str) -> bool:
        """Whether a tag is to be scored."""
        return not self.tags or any(fnmatchcase(tag, pattern) for pattern in self.tags)


@dataclass(frozen=True, slots=True, kw_only=True)
class TagScore:
    """One tag. Errors in `unit`; `reference_std`: of the smoother, in `unit`, NaN for truth; `good`: share of readings
    flagged GOOD; `latency_ms`: arrival minus source time.
    """

    asset: str
    tag: str
    unit: str
    readings: int
    reference: str
    reference_std: float
    reading: Errors
    estimate: Errors
    model: Errors
    nis: Consistency
    flags: dict[str, int]
    tests: dict[str, int]
    good: float
    latency_ms: Spread
    detection: Detection | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AssetScore:
    """One asset. Errors are in standard deviations of each tag's reference, so that tags can be put together.

    `coverage`: mean and least share of tags that were good, over the states; `state_latency_ms`: newest arrival minus
    its source time, over the states; `alerts`: number per kind, without those that say that something is over.
    """

    asset: str
    readings: int
    estimate: Errors
    model: Errors
    nis_mean: float
    flags: dict[str, int]
    tests: dict[str, int]
    alerts: dict[str, int]
    coverage_mean: float
    coverage_min: float
    latency_ms: Spread
    state_latency_ms: Spread
    detection: Detection | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scored:
    """Scores of a whole run, and thinned series for plots."""

    assets: Sequence[AssetScore]
    tags: Sequence[TagScore]
    series: Sequence[Series]


def pooled(parts: Sequence[Errors]) -> Errors:
    """Errors of several tags in standard deviations of each tag's reference; tags whose reference does not vary are
    left out. With errors in these units R² is 1 − their mean square.
    """
    used = [e for e in parts if e.count and math.isfinite(e.r2)]
    n = sum(e.count for e in used)
    if n == 0:
        return Errors()
    square = sum(e.count * (1.0 - e.r2) for e in used) / n
    deviations = [e.rmse / math.sqrt(1.0 - e.r2) if e.r2 < 1.0 else math.inf for e in used]
    mae = sum(e.count * e.mae / d for e, d in zip(used, deviations, strict=True)) / n
    return Errors(count=n, rmse=math.sqrt(square), mae=mae, r2=1.0 - square)


def summary(parts: Sequence[AssetScore], tags: Sequence[TagScore]) -> dict[str, Any]:
    """What the whole run comes to, in a few numbers."""
    detections = [a.detection for a in parts if a.detection is not None]
    return {
        "assets": len(parts),
        "tags": len(tags),
        "readings": sum(a.readings for a in parts),
        "references": {kind: sum(t.reference == kind for t in tags) for kind in (TRUTH, SMOOTHER, NONE)},
        "windows": sum(len(d.windows) for d in detections),
        "detected": sum(d.detected for d in detections),
        "false_alarms": sum(d.false_alarms for d in detections),
    }
