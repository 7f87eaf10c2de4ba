"""Scores of a run: per tag and per asset, errors, consistency, flags, detection, coverage, latency.

The reference is the truth where there is one of the tag, else a fixed-interval smoother over its accepted readings.
May not know: how scores are shown.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kernels.alerts import NIS_CAP
from kernels.estimation_params import EstimationParams
from kernels.stage import TIME_TESTS
from replay.results.finished import AssetRun, ResultError, Run
from replay.score import labels, signals
from replay.score.figures import consistency, errors, spread
from replay.score.labels import Detection, Signalled, Window
from replay.score.scores import NONE, SMOOTHER, TRUTH, Against, AssetScore, Scored, TagScore, pooled
from replay.score.series import Series, thinned
from replay.score.signals import Choice
from replay.score.truth import Line, smoothed
from schemas.quality import Flag, Mark, Test

Floats = NDArray[np.float64]
I64 = NDArray[np.int64]

#: Tests that the estimator itself adds: they do not change what noise it took a reading for.
ESTIMATION_TESTS = int(Test.NIS_GATE | Test.DRIFT)
ACCEPTED = (int(Flag.GOOD), int(Flag.NOT_EVALUATED))


def score_run(run: Run, against: Against, assets: Sequence[str] = (), plots: int = 0) -> Scored:
    """Scores of a run, asset by asset in bounded memory; series of the `plots` tags with the greatest share of signals.

    `assets`: patterns. Raises ResultError for an asset or tag that the run does not have.
    """
    found: list[AssetScore] = []
    tags: list[TagScore] = []
    kept: list[tuple[float, Series]] = []
    for asset_run in run.by_asset(assets):
        asset, scores, series = score_asset(asset_run, against)
        found.append(asset)
        tags += scores
        kept += [(float(np.mean(s.flagged)), thinned(s)) for s in series]
        kept = sorted(kept, key=lambda pair: -pair[0])[:plots]
    if not tags:
        raise ResultError(f"run {run.name}: no readings of tags {', '.join(against.tags) or 'in this span'}")
    return Scored(assets=found, tags=tags, series=sorted((s for _, s in kept), key=lambda s: (s.asset, s.tag)))


def score_asset(run: AssetRun, against: Against) -> tuple[AssetScore, list[TagScore], list[Series]]:
    """Scores of one asset and of its tags, with the series to be plotted."""
    params = EstimationParams(against.settings)
    scores, series = [], []
    parts = {"": _signalled(run, "", np.empty(0, np.int64), np.empty(0, np.bool_), against)}
    readings = run.readings.assign(event_ns=signals.event_time_ns(run.readings))
    for tag, rows in readings.groupby(readings["tag"].astype(str), sort=True):
        if against.wants(str(tag)):
            tag_score, tag_series, parts[str(tag)] = _tag(run, str(tag), rows, params, against)
            scores.append(tag_score)
            series.append(tag_series)
    return _asset(run, scores, parts, against), scores, series


def _tag(
    run: AssetRun, tag: str, rows: pd.DataFrame, params: EstimationParams, against: Against
) -> tuple[TagScore, Series, Signalled]:
    rows = rows.iloc[np.argsort(rows["event_ns"].to_numpy(), kind="stable")]
    unit = str(rows["unit"].iloc[-1])
    time_ns = rows["event_ns"].to_numpy(np.int64)
    trusted = (rows["tests"].to_numpy(np.int64) & int(TIME_TESTS)) == 0
    known = None if against.truth is None else against.truth.lines.get((run.asset, tag))
    kind, line, std = reference(rows, known, params.table(run.asset, (tag,), (unit,))[0])
    truth = np.where(trusted, line.at(time_ns), math.nan)
    model = model_of(run.variable(tag))
    noise = against.settings.tag(run.asset, tag)["estimation"]
    flagged = signals.flagged(rows, against.choice)
    windows = labels.of(against.labels or (), run.asset, tag)
    signalled = _signalled(run, tag, time_ns, flagged, against)
    found = TagScore(
        asset=run.asset,
        tag=tag,
        unit=unit,
        readings=len(rows),
        reference=kind,
        reference_std=std,
        reading=errors(_readings(rows), truth),
        estimate=errors(_floats(rows, "estimate"), truth),
        model=errors(model.value, line.at(model.time_ns)),
        nis=consistency(*fitting(rows), noise["nis_window"], noise["nis_confidence"]),
        flags=_flag_counts(rows),
        tests=_test_counts(rows),
        good=float(np.mean(rows["flag"].to_numpy() == int(Flag.GOOD))),
        latency_ms=spread(latency_ms(rows)),
        detection=_detection({tag: signalled}, windows, time_ns, against),
    )
    plotted = _series(found, rows, time_ns=time_ns, reference=truth, flagged=flagged, model=model, windows=windows)
    return found, plotted, signalled


def _series(of: TagScore, rows: pd.DataFrame, *, model: Line, **more: Any) -> Series:
    """What a plot of the tag needs."""
    columns: dict[str, Any] = {name: _floats(rows, name) for name in ("value", "estimate", "std", "nis")}
    return Series(
        asset=of.asset, tag=of.tag, unit=of.unit, model_time_ns=model.time_ns, model=model.value, **columns, **more
    )


def reference(rows: pd.DataFrame, known: Line | None, settings: Floats) -> tuple[str, Line, float]:
    """Which reference a tag has, its line, and the mean standard deviation of a smoother (NaN for truth).

    `known`: the truth where there is one; `settings`: the tag's row of `kernels.estimation_params`.
    """
    if known is not None and len(known.time_ns):
        return TRUTH, known, math.nan
    trusted = rows[(rows["tests"].to_numpy(np.int64) & int(TIME_TESTS)) == 0]
    time_ns, value = trusted["source_time_ns"].to_numpy(np.int64), _readings(trusted)
    accepted = np.isin(trusted["flag"].to_numpy(np.int64), ACCEPTED) & np.isfinite(value)
    found = smoothed(time_ns, value, accepted, settings)
    fine = np.isfinite(found.value)
    if not fine.any():
        return NONE, Line(np.empty(0, np.int64), np.empty(0)), math.nan
    times, first = np.unique(time_ns[fine], return_index=True)
    return SMOOTHER, Line(times, found.value[fine][first]), float(np.mean(found.std[fine]))


def model_of(variable: pd.DataFrame) -> Line:
    """What the model said at the times of the readings it was compared with, each once."""
    value, residual, age_s = (variable[name].to_numpy(np.float64) for name in ("value", "residual", "age_s"))
    known = np.isfinite(value) & np.isfinite(residual)
    value, residual, age_s = value[known], residual[known], np.nan_to_num(age_s[known])
    time_ns = variable["time_ns"].to_numpy(np.int64)[known] - np.rint(age_s * 1e9).astype(np.int64)
    # A frame without a reading of this tag shows the last comparison again; its age is rounded.
    again = np.zeros(len(value), np.bool_)
    again[1:] = (np.abs(np.diff(time_ns)) < 1_000) & (np.diff(residual) == 0.0)
    return Line(time_ns[~again], (value - residual)[~again])


def latency_ms(rows: pd.DataFrame) -> Floats:
    """Arrival minus source time in ms, of readings that came and had a time of their own."""
    own = (rows["mark"].to_numpy(np.int64) & int(Mark.IMPUTED | Mark.ARRIVAL_TIME_USED)) == 0
    late = rows["arrival_time_ns"].to_numpy(np.int64)[own] - rows["source_time_ns"].to_numpy(np.int64)[own]
    return np.asarray(late / 1e6)


def _floats(rows: pd.DataFrame, name: str) -> Floats:
    return rows[name].to_numpy(np.float64)


def _readings(rows: pd.DataFrame) -> Floats:
    """Values that came, NaN for those that validation put in."""
    imputed = (rows["mark"].to_numpy(np.int64) & int(Mark.IMPUTED)) != 0
    return np.where(imputed, math.nan, _floats(rows, "value"))


def fitting(rows: pd.DataFrame) -> tuple[Floats, Floats]:
    """Innovation and NIS of readings that the filter took with its own noise; NIS capped as live."""
    fitting = (rows["tests"].to_numpy(np.int64) & ~ESTIMATION_TESTS) == 0
    nis = np.where(fitting, np.minimum(_floats(rows, "nis"), NIS_CAP), math.nan)
    return _floats(rows, "innovation"), nis


def _flag_counts(rows: pd.DataFrame) -> dict[str, int]:
    flag = rows["flag"].to_numpy(np.int64)
    return {f.name.lower(): n for f in Flag if (n := int(np.count_nonzero(flag == int(f))))}


def _test_counts(rows: pd.DataFrame) -> dict[str, int]:
    tests = rows["tests"].to_numpy(np.int64)
    return {str(t.name).lower(): n for t in Test if (n := int(np.count_nonzero(tests & int(t))))}


def _signalled(run: AssetRun, tag: str, time_ns: I64, flagged: NDArray[np.bool_], against: Against) -> Signalled:
    """What was signalled of one tag; an alert is a run of its own unless it falls into one. `tag` "": alerts that name
    no tag.
    """
    merge_ns = round(against.merge_s * 1e9)
    alerts = signals.alerted(run.alerts, against.choice)
    points = np.sort(alerts.loc[alerts["tag"].astype(str) == tag, "time_ns"].to_numpy(np.int64))
    both = np.concatenate([labels.runs_of(time_ns, flagged, merge_ns), np.stack([points, points], axis=1)])
    return Signalled(np.sort(np.concatenate([time_ns[flagged], points])), labels.merged(both, merge_ns))


def _detection(
    parts: Mapping[str, Signalled], windows: Sequence[Window], time_ns: I64, against: Against
) -> Detection | None:
    if against.labels is None or not len(time_ns):
        return None
    span = int(time_ns.min()), int(time_ns.max())
    return labels.detect(parts, windows, span, round(against.merge_s * 1e9))


def _asset(run: AssetRun, tags: Sequence[TagScore], parts: Mapping[str, Signalled], against: Against) -> AssetScore:
    wanted = run.readings[run.readings["tag"].astype(str).isin([t.tag for t in tags])]
    coverage, state_latency_ms = _known(run.states, "coverage"), _known(run.states, "latency_ms")
    means = [(t.nis.count, t.nis.mean) for t in tags if t.nis.count]
    begun = signals.alerted(run.alerts, Choice(alerts=frozenset(signals.ALERT_KINDS)))
    windows = labels.of(against.labels or (), run.asset)
    return AssetScore(
        asset=run.asset,
        readings=len(wanted),
        estimate=pooled([t.estimate for t in tags]),
        model=pooled([t.model for t in tags]),
        nis_mean=sum(n * m for n, m in means) / sum(n for n, _ in means) if means else math.nan,
        flags=_flag_counts(wanted),
        tests=_test_counts(wanted),
        alerts={str(k): int(n) for k, n in begun["kind"].astype(str).value_counts().sort_index().items()},
        coverage_mean=float(coverage.mean()) if len(coverage) else math.nan,
        coverage_min=float(coverage.min()) if len(coverage) else math.nan,
        latency_ms=spread(latency_ms(wanted)),
        state_latency_ms=spread(state_latency_ms),
        detection=_detection(parts, windows, signals.event_time_ns(wanted), against),
    )


def _known(rows: pd.DataFrame, name: str) -> Floats:
    values: Floats = rows[name].to_numpy(np.float64, na_value=math.nan)
    return values[np.isfinite(values)]
