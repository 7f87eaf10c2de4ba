"""Scores as tables of text, for screen and page. May not know: how they are drawn."""

import math
from collections.abc import Iterable, Mapping, Sequence

from replay.report.page import Table
from replay.score.figures import Errors
from replay.score.labels import Detection
from replay.score.moments import shown
from replay.score.scores import AssetScore, Scored, TagScore

#: Where a number is not known.
UNKNOWN = "–"


def tables(scored: Scored) -> list[Table]:
    """All tables of a score."""
    found = [_assets(scored.assets), _errors(scored.tags), _noise(scored.tags), _quality(scored.tags)]
    if any(a.detection is not None for a in scored.assets):
        found += [_detections(scored.assets, scored.tags), _windows(scored.assets, scored.tags)]
    return found


def number(value: float, digits: int = 4) -> str:
    """A number with so many digits that count."""
    return UNKNOWN if not math.isfinite(value) else f"{value:.{digits}g}"


def percent(share: float) -> str:
    """A share in percent."""
    return UNKNOWN if not math.isfinite(share) else f"{100.0 * share:.1f}"


def span(seconds: float) -> str:
    """A time span in the unit that suits it."""
    if not math.isfinite(seconds):
        return UNKNOWN
    for length, name in ((86_400.0, "d"), (3_600.0, "h"), (60.0, "min")):
        if abs(seconds) >= 2 * length:
            return f"{seconds / length:.1f} {name}"
    return f"{seconds:.1f} s"


def counted(counts: Mapping[str, int]) -> str:
    """Counts by name in one cell."""
    return ", ".join(f"{name} {n}" for name, n in counts.items()) or UNKNOWN


def _three(e: Errors) -> list[str]:
    return [number(e.rmse), number(e.mae), number(e.r2)]


def _assets(assets: Iterable[AssetScore]) -> Table:
    rows = []
    for a in assets:
        coverage = f"{percent(a.coverage_mean)} / {percent(a.coverage_min)}"
        latency = [f"{number(s.p50)} / {number(s.p95)} / {number(s.p99)}" for s in (a.latency_ms, a.state_latency_ms)]
        nis, alerts = number(a.nis_mean), counted(a.alerts)
        rows.append([a.asset, str(a.readings), *_three(a.estimate), *_three(a.model), nis, coverage, *latency, alerts])
    names = ("RMSE", "MAE", "R²", "model RMSE", "model MAE", "model R²", "NIS", "coverage mean / min %")
    return Table(
        title="Assets",
        columns=("asset", "readings", *names, "latency p50 / p95 / p99 ms", "state latency ms", "alerts"),
        rows=rows,
        note="Errors are in standard deviations of each tag's reference, so that tags can be put together.",
    )


def _errors(tags: Iterable[TagScore]) -> Table:
    rows = []
    for t in tags:
        errors = [*_three(t.estimate), number(t.reading.rmse), *_three(t.model)]
        rows.append([t.asset, t.tag, t.unit, t.reference, *errors, number(t.reference_std)])
    return Table(
        title="Errors",
        columns=("asset", "tag", "unit", "against", "RMSE", "MAE", "R²", "reading RMSE", "model RMSE", "model MAE",
                 "model R²", "smoother std"),
        rows=rows,
        words=4,
        note="Against a smoother an error less than the smoother's own standard deviation says nothing, and a wrong "
        "process noise is wrong in both.",
    )  # fmt: skip


def _noise(tags: Iterable[TagScore]) -> Table:
    rows = []
    for t in tags:
        c = t.nis
        shares = [percent(c.within), percent(c.windows_within), percent(c.windows_high), percent(c.windows_low)]
        bounds = f"{number(c.low, 3)} … {number(c.high, 3)}"
        mean, rho = number(c.mean), number(c.correlation, 2)
        rows.append([t.asset, t.tag, c.verdict, str(c.count), mean, bounds, rho, *shares, str(c.windows)])
    columns = ("asset", "tag", "verdict", "readings", "mean NIS", "bounds", "correlation", "readings within 95 %")
    return Table(
        title="Noise",
        columns=(*columns, "windows within %", "above %", "below %", "windows"),
        rows=rows,
        words=3,
        note="q is process noise, r measurement noise. Correlation is that of an innovation with the next.",
    )


def _quality(tags: Iterable[TagScore]) -> Table:
    rows = []
    for t in tags:
        p = t.latency_ms
        latency = f"{number(p.p50)} / {number(p.p95)} / {number(p.p99)}"
        rows.append([t.asset, t.tag, str(t.readings), percent(t.good), latency, counted(t.flags), counted(t.tests)])
    columns = ("asset", "tag", "readings", "good %", "latency p50 / p95 / p99 ms", "flags", "tests that spoke")
    return Table(title="Quality", columns=columns, rows=rows, words=2)


def _detections(assets: Sequence[AssetScore], tags: Sequence[TagScore]) -> Table:
    rows = []
    for asset, tag, d in _places(assets, tags):
        delays = [w.delay_s for w in d.windows if math.isfinite(w.delay_s)]
        mean = sum(delays) / len(delays) if delays else math.nan
        rates = [number(d.false_alarms_per_day, 3), percent(d.precision), percent(d.recall)]
        rates += [percent(d.by_chance), span(mean)]
        rows.append([asset, tag, f"{d.detected} of {len(d.windows)}", str(d.false_alarms), *rates, str(d.beyond)])
    columns = ("asset", "tag", "windows detected", "false alarms", "per day", "precision %", "recall %",
               "by chance %", "mean delay")  # fmt: skip
    return Table(
        title="Detection",
        columns=(*columns, "windows beyond the data"),
        rows=rows,
        words=2,
        note="A false alarm is a run of signals that began outside of all windows. Precision = windows detected / "
        "(windows detected + false alarms). By chance: recall of alarms at random, as often as the false ones.",
    )


def _windows(assets: Sequence[AssetScore], tags: Sequence[TagScore]) -> Table:
    rows = []
    for asset, tag, d in _places(assets, tags):
        for w in d.windows:
            told = span(w.delay_s) if math.isfinite(w.delay_s) else "not detected"
            rows.append([asset, tag, w.name, shown(w.start_ns), shown(w.end_ns), told, "yes" if w.already_on else ""])
    columns = ("asset", "tag", "window", "start UTC", "end UTC", "first signal after", "a run was on already")
    return Table(title="Windows", columns=columns, rows=rows, words=3)


def _places(assets: Sequence[AssetScore], tags: Sequence[TagScore]) -> list[tuple[str, str, Detection]]:
    found = []
    for a in assets:
        parts = [(a.asset, "all", a.detection), *((t.asset, t.tag, t.detection) for t in tags if t.asset == a.asset)]
        found += [(asset, tag, d) for asset, tag, d in parts if d is not None]
    return found
