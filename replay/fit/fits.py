"""Fits of a run: noise of every tag and parameters of every asset's model, from the readings as estimation gave them.

What a reading may do is what validation said about it; what the filter's own gate and drift test added is taken back,
since they go by the noise that is being questioned. May not know: where settings come from, how results are shown.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kernels import kalman
from kernels.estimation_params import INITIAL_SHARE, filter_settings, square_scale
from kernels.models.model import NO_INPUT, Model
from kernels.stage import TIME_TESTS, Settings
from kernels.twin import ESTIMATION_TESTS
from kernels.twin_params import TwinParams
from replay.fit.drift import DriftLimit, drift_limit
from replay.fit.interval import Interval
from replay.fit.noise import NoiseFit, fit_noise
from replay.fit.reactor import ReactorFit, fit_reactor
from replay.fit.reactor_span import Signal, Span, span_of
from replay.results.finished import AssetRun
from schemas.quality import Flag, Mark, Test

Floats = NDArray[np.float64]
I64 = NDArray[np.int64]

#: A state of the run this close to the beginning of a span says what is not measured there, s.
BEGIN_WITHIN_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sought:
    """What is asked for: noise of the tags, with `limits` also thresholds of their drift tests; models' parameters.

    `together`: assets of one model share its parameters. `known_start`: what is not measured (the conversion) begins as
    the run had it, else it is sought where.
    """

    noise: bool = True
    limits: bool = False
    reactor: bool = True
    together: bool = False
    known_start: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TagReadings:
    """Readings of one tag in one unit, in the order of time. `gated`: the run's own gate refused it."""

    asset: str
    tag: str
    unit: str
    verdict: NDArray[np.uint8]
    time_ns: I64
    value: Floats
    gated: NDArray[np.bool_]
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TagNoise:
    """Noise of one tag. Variances are in `unit`², that of the configuration where it names one, else the readings'.

    `fit` is None where nothing could be fitted; `note` says why. `scale`: unit² of the readings per `unit`². `drift`:
    None where it was not sought or the span does not tell it.
    """

    asset: str
    tag: str
    unit: str
    white: bool
    before: tuple[float, float]
    fit: NoiseFit | None
    scale: float
    note: str
    drift: DriftLimit | None = None

    @property
    def process(self) -> Interval:
        """q in `unit`² (per s³ for white acceleration)."""
        assert self.fit is not None
        return scaled(self.fit.process, 1.0 / self.scale)

    @property
    def measurement(self) -> Interval:
        """r in `unit`²."""
        assert self.fit is not None
        return scaled(self.fit.measurement, 1.0 / self.scale)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AssetSpan:
    """An asset's span as its model sees it, with the parameters that hold now."""

    asset: str
    model: Model
    span: Span
    given: Mapping[str, float]
    note: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AssetsFit:
    """Parameters of the model of one asset, or of several that share them. `fit` None: `note` says why."""

    assets: tuple[str, ...]
    model: str
    before: Mapping[str, float]
    fit: ReactorFit | None
    units: Mapping[str, str]
    note: str


@dataclass(slots=True)
class Fits:
    """All of a run. `from_ns`, `to_ns`: the first and the last event time of its readings."""

    noise: list[TagNoise] = field(default_factory=list)
    reactors: list[AssetsFit] = field(default_factory=list)
    readings: int = 0
    from_ns: int | None = None
    to_ns: int | None = None

    def cover(self, time_ns: I64) -> None:
        """Take note of readings."""
        if len(time_ns):
            first, last = int(time_ns.min()), int(time_ns.max())
            self.readings += len(time_ns)
            self.from_ns = first if self.from_ns is None else min(first, self.from_ns)
            self.to_ns = last if self.to_ns is None else max(last, self.to_ns)


def scaled(interval: Interval, factor: float) -> Interval:
    """The same in another unit."""
    return replace(interval, value=interval.value * factor, low=interval.low * factor, high=interval.high * factor)


def tag_readings(run: AssetRun, tag: str) -> TagReadings:
    """Readings of one tag; where they came in several units, those in the unit that most came in."""
    rows = run.of_tag(tag)
    units = rows["unit"].astype(str).value_counts()
    unit, note = str(units.index[0]), ""
    if len(units[units > 0]) > 1:
        note = f"only readings in {unit!r}; {int(units.iloc[1:].sum())} are in other units"
        rows = rows[rows["unit"] == unit]
    verdict = verdicts(rows)
    time_ns = rows["source_time_ns"].to_numpy(np.int64)
    inside = verdict != kalman.OUTSIDE
    order = np.flatnonzero(inside)[np.argsort(time_ns[inside], kind="stable")]
    gated = (rows["tests"].to_numpy(np.int64) & int(Test.NIS_GATE)) != 0
    return TagReadings(
        asset=run.asset,
        tag=tag,
        unit=unit,
        verdict=verdict[order],
        time_ns=time_ns[order],
        value=rows["value"].to_numpy(np.float64)[order],
        gated=gated[order],
        note=note,
    )


def verdicts(rows: pd.DataFrame) -> NDArray[np.uint8]:
    """What each reading may do to its filter by what validation said, codes of `kernels.kalman`."""
    flag, tests = rows["flag"].to_numpy(np.int64), rows["tests"].to_numpy(np.int64)
    bad = (flag == Flag.FAIL) | (flag == Flag.MISSING) | ~np.isfinite(rows["value"].to_numpy(np.float64))
    bad |= (rows["mark"].to_numpy(np.int64) & int(Mark.IMPUTED)) != 0
    doubted = (flag == Flag.SUSPECT) & ((tests & ~int(ESTIMATION_TESTS)) != 0)
    verdict = np.where(doubted, kalman.DOUBT, kalman.ACCEPT).astype(np.uint8)
    verdict[bad] = kalman.PREDICT
    verdict[(tests & int(TIME_TESTS)) != 0] = kalman.OUTSIDE
    return verdict


def tag_noise(readings: TagReadings, settings: Settings, limits: bool = False) -> TagNoise | None:
    """Fits the noise of a tag, and with `limits` the threshold of its drift test; None for a set point."""
    stated = settings.tag(readings.asset, readings.tag)
    row = np.array(filter_settings(stated, readings.tag, readings.unit))
    if row[kalman.EXACT] > 0.0:
        return None
    shown = stated["unit"] or readings.unit
    scale = square_scale(shown, readings.unit or shown)
    share = INITIAL_SHARE if stated["estimation"]["initial_variance"] is None else None
    fit, drift, notes = None, None, [readings.note]
    try:
        fit = fit_noise(readings.verdict, readings.time_ns, readings.value, row, share)
        if limits:
            drift = _drift(readings, row, fit)
            notes.append("" if drift else "the span does not tell a threshold of the drift test")
    except ValueError as error:
        notes.append(str(error))
    return TagNoise(
        asset=readings.asset,
        tag=readings.tag,
        unit=shown,
        white=row[kalman.WHITE] > 0.0,
        before=(row[kalman.Q] / scale, row[kalman.R] / scale),
        fit=fit,
        scale=scale,
        note="; ".join(n for n in notes if n),
        drift=drift,
    )


def _drift(readings: TagReadings, row: Floats, fit: NoiseFit) -> DriftLimit | None:
    """The threshold with the noise that was found, as it is written to the file."""
    row = row.copy()
    row[kalman.INITIAL] *= fit.measurement.value / row[kalman.R]
    row[kalman.R] = fit.measurement.value
    if np.isfinite(fit.process.value) and fit.process.value > 0.0:
        row[kalman.Q] = fit.process.value
    return drift_limit(readings.verdict, readings.time_ns, readings.value, row)


def asset_span(
    run: AssetRun,
    readings: Sequence[TagReadings],
    noise: Mapping[str, NoiseFit],
    settings: Settings,
    params: TwinParams,
) -> AssetSpan | None:
    """What the model of an asset sees; None where it has none. `noise`: by tag. Raises TooFewReadings."""
    asset = params.model(run.asset)
    if asset.model is None:
        return None
    signals = list(_signals(run.asset, readings, noise, settings, params))
    span = span_of(run.asset, asset.model, signals)
    given = asset.model.values(settings.asset(run.asset)["parameters"])
    given, note = _begun(run, asset.model, span, given)
    return AssetSpan(asset=run.asset, model=asset.model, span=span, given=given, note=note)


def _signals(
    asset: str, readings: Sequence[TagReadings], noise: Mapping[str, NoiseFit], settings: Settings, params: TwinParams
) -> Iterator[Signal]:
    """Good readings of the tags that are inputs of the model, in its units."""
    observed = params.model(asset).observed
    for r in readings:
        table = params.table(asset, (r.tag,), (r.unit,))
        if table.entry[0] == NO_INPUT:
            continue
        fit = noise.get(r.tag)
        stated = filter_settings(settings.tag(asset, r.tag), r.tag, r.unit)[kalman.R]
        # A suspect value would count as an exact one here: there is no filter to doubt it.
        good = (r.verdict == kalman.ACCEPT) & ~(r.gated if fit is None else fit.out)
        good[1:] &= np.diff(r.time_ns) > 0
        value = np.clip(r.value[good] * table.factor[0] + table.offset[0], table.low[0], table.high[0])
        number = int(table.observed[0])
        variance = stated if fit is None else fit.measurement.value
        yield Signal(
            tag=r.tag,
            entry=int(table.entry[0]),
            rank=int(table.rank[0]),
            state=None if number < 0 else observed[number][1],
            time_ns=r.time_ns[good],
            value=value,
            std=float(np.sqrt(variance) * table.factor[0]),
        )


def _begun(run: AssetRun, model: Model, span: Span, given: dict[str, float]) -> tuple[dict[str, float], str]:
    """Parameters with the start of unmeasured states as the run had them, where it has a state at the beginning."""
    unmeasured = [s for i, s in enumerate(model.states) if i not in span.measured and s.parameter is not None]
    near = run.states[np.abs(run.states["time_ns"].to_numpy(np.int64) - span.from_ns) <= BEGIN_WITHIN_S * 1e9]
    states = near["model_states"].iloc[0] if len(near) else {}
    for s in unmeasured:
        if s.parameter is not None and s.name in states:
            given[s.parameter] = float(states[s.name])
    said = ", ".join(f"{s.name} {given[s.parameter]:.3g}" for s in unmeasured if s.parameter is not None)
    return (
        given,
        f"{run.asset} begins with {said}, {'as the run had it' if states else 'as configured'}" if said else "",
    )


def reactors(spans: Sequence[AssetSpan], sought: Sought) -> Iterator[AssetsFit]:
    """Fits each asset, or all assets of a model as one set of parameters."""
    groups: dict[str, list[AssetSpan]] = {}
    for s in spans:
        groups.setdefault(s.model.name if sought.together else s.asset, []).append(s)
    for group in groups.values():
        model = group[0].model
        fit, note = None, "; ".join(dict.fromkeys(s.note for s in group if s.note and sought.known_start))
        try:
            fit = fit_reactor(model, [s.span for s in group], [s.given for s in group], starts_known=sought.known_start)
        except ValueError as error:
            note = str(error)
        fitted = [*model.fitted, *((model.arrhenius.frequency, model.arrhenius.energy) if model.arrhenius else ())]
        yield AssetsFit(
            assets=tuple(s.asset for s in group),
            model=model.name,
            before=group[0].given,
            fit=fit,
            units={f.name: f.unit for f in fitted},
            note=note,
        )


def fit_asset(
    fits: Fits,
    run: AssetRun,
    *,
    tags: Sequence[str],
    settings: Settings,
    params: TwinParams,
    sought: Sought,
) -> AssetSpan | None:
    """Adds the noise of the asset's tags `tags`; returns what its model sees where that is sought."""
    readings = [tag_readings(run, tag) for tag in run.tags()]
    found: dict[str, NoiseFit] = {}
    for r in readings:
        if r.tag not in tags:
            continue
        fits.cover(r.time_ns)
        fit = tag_noise(r, settings, sought.limits) if sought.noise else None
        if fit is not None:
            fits.noise.append(fit)
            if fit.fit is not None:
                found[r.tag] = fit.fit
    if not sought.reactor:
        return None
    try:
        return asset_span(run, readings, found, settings, params)
    except ValueError as error:
        model = params.model(run.asset).name
        nothing = AssetsFit(assets=(run.asset,), model=model, before={}, fit=None, units={}, note=str(error))
        fits.reactors.append(nothing)
        return None
