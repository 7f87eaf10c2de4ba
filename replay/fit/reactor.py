"""Reactor parameters of a model from a span of readings: heat transfer, and A and E of the kinetics.

Weighted least squares over the free run of the model (`reactor_run.py`): each reading of a measured state counts
by its noise. Intervals are 95 % by the observed information, in the logarithm of U and of k at the span's temperature,
in E, and in log A, which is linear in those two: a delta method that is exact but for the first step. The measured
inputs have noise, too, which moves the whole run after it: its share of the covariance is found by running the model
over inputs to which their noise was added once more (a sandwich). States that are not measured (the conversion) began
somewhere, too, and where is sought besides: half a hundredth off moves E by more than its interval. Where residuals are
larger than the noise, or hang together, intervals are widened by as much, and a note says so.

What a span does not tell is kept as it was, and the rest is found with it held: a note says so. An isothermal span,
say, gives k but neither E nor, without E, A. Knows plain arrays; no files, no configuration.

Source: Bates, Watts, "Nonlinear Regression Analysis" (1988), 2.3 and 3.3 (reference temperature); White, "Maximum
likelihood estimation of misspecified models" (1982).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares
from scipy.stats import chi2

from kernels.models.model import Model
from replay.fit.interval import Interval, TooFewReadings
from replay.fit.reactor_run import ENERGY_SCALE, KELVIN, RATE, Problem, elements
from replay.fit.reactor_span import Span

Floats = NDArray[np.float64]

READINGS_MIN = 30
Z_95 = 1.959963984540054
#: An interval of U or k wider than this factor to each side tells nothing: the parameter is kept.
FACTOR_MAX = 3.0
#: An interval of E wider than this share of it to each side tells nothing.
ENERGY_SHARE_MAX = 0.5
#: Readings that tell of no reaction seem to, less often than 1 − this.
REACTS_BY_CHANCE = 0.999
#: A search begins so far inside the bounds of its vector.
MARGIN = 1e-6
#: Runs with noise added to the inputs, and the seed of that noise: the same readings give the same intervals.
INPUT_RUNS, SEED = 40, 1
#: Residuals more than this times the noise, or that hang together more than this, are worth a note.
EXCESS_NOTED, CORRELATION_NOTED = 1.3, 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class ReactorFit:
    """What was found. `parameters`: by name, in the model's units; those that are kept have the interval 0…inf.

    `determined`: names of those that were found. `excess`: residuals in standard deviations of the readings.
    `correlation`: of log A and E, NaN where E is kept. `temperature_degC`: lowest and highest. `starts`: in words, with
    what states that are not measured began, where that was sought.
    """

    parameters: Mapping[str, Interval]
    determined: tuple[str, ...]
    readings: int
    evaluations: int
    excess: float
    excess_before: float
    correlation: float
    temperature_degC: tuple[float, float]
    starts: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Found:
    """A least-squares solution with the covariance of its vector, whose part of the readings was `widened` so much."""

    problem: Problem
    vector: Floats
    covariance: Floats
    at_bound: tuple[str, ...]
    evaluations: int
    excess: float
    together: float
    widened: float

    def value(self, name: str) -> float:
        """An element of the vector."""
        return float(self.vector[self.problem.free.index(name)])

    def std(self, name: str) -> float:
        """Standard deviation of an element."""
        i = self.problem.free.index(name)
        return math.sqrt(max(float(self.covariance[i, i]), 0.0))


def fit_reactor(
    model: Model, spans: Sequence[Span], given: Sequence[Mapping[str, float]], *, starts_known: bool = False
) -> ReactorFit:
    """Fits the parameters that the spans share. `given`: of each span, all parameters of the model that hold now.

    `starts_known`: states that are not measured begin as given; else where they begin is sought, too.

    Raises TooFewReadings, and ValueError for a model of which nothing can be fitted.
    """
    if not model.fitted and model.arrhenius is None:
        raise ValueError(f"model {model.name} declares no parameter that can be fitted")
    readings = sum(len(s.at) for s in spans)
    if readings < READINGS_MIN:
        raise TooFewReadings(f"{readings} usable readings of measured states, at least {READINGS_MIN} are needed")
    low_degC, high_degC, mean_degC = _temperature(model, spans)
    at_K = mean_degC + KELVIN
    held = elements(model, given[0], at_K)
    problem = Problem(model=model, spans=spans, given=given, at_K=at_K, held=held, free=tuple(held))
    problem = replace(problem, starts_known=starts_known)
    start = problem.off(_start(problem))
    kept: dict[str, str] = {}
    found = _solved(problem)
    evaluations = found.evaluations
    if RATE in problem.free and not _reacts(found):
        why = "without any reaction the model fits as well"
        kept = {name: why for name in (RATE, model.arrhenius.energy.name if model.arrhenius else "") if name in held}
        problem = replace(problem, free=tuple(n for n in problem.free if n not in kept))
        found = _solved(problem)
        evaluations += found.evaluations
    while (worst := _undetermined(found)) is not None:
        kept |= worst
        problem = replace(problem, free=tuple(n for n in problem.free if n not in kept))
        found = _solved(problem)
        evaluations += found.evaluations
    return ReactorFit(
        parameters=_intervals(found, kept),
        determined=_determined(found),
        readings=readings,
        evaluations=evaluations,
        excess=found.excess,
        excess_before=math.sqrt(float(np.mean(start**2))),
        correlation=_correlation(found),
        temperature_degC=(low_degC, high_degC),
        starts=_starts(found),
        notes=_notes(found),
    )


def _temperature(model: Model, spans: Sequence[Span]) -> tuple[float, float, float]:
    """Lowest, highest and mean reading of the temperature at which the reaction runs, in degC."""
    if model.arrhenius is None:
        return math.nan, math.nan, 0.0
    number = [s.name for s in model.states].index(model.arrhenius.temperature)
    values = np.concatenate([s.observed[s.state == number] for s in spans])
    if not len(values):
        raise TooFewReadings(f"no good readings of {model.arrhenius.temperature}")
    # One reading's noise is not the span's temperature.
    low, high = np.percentile(values, [1.0, 99.0])
    return float(low), float(high), float(np.mean(values))


def _start(problem: Problem) -> Floats:
    """The vector of what is given."""
    vector = np.zeros(len(problem.within()[0]))
    vector[: len(problem.free)] = [problem.held[name] for name in problem.free]
    return vector


def _least(problem: Problem, low: Floats, high: Floats) -> Any:
    """The solution of scipy."""
    start = np.clip(_start(problem), low + MARGIN, high - MARGIN)
    if not len(start):
        raise ValueError("nothing is left that the span could tell")
    return least_squares(problem.off, start, bounds=(low, high), x_scale="jac", diff_step=1e-5, xtol=1e-9)


def _reacts(found: _Found) -> bool:
    """Whether readings tell of a reaction at all, by the ratio of likelihoods with none and all else much as found.

    Slopes do not say so: where next to nothing reacts, some conversion and k fit the noise best.
    """
    problem, arrhenius = found.problem, found.problem.model.arrhenius
    assert arrhenius is not None
    others = tuple(n for n in problem.free if n not in (RATE, arrhenius.energy.name))
    held = {**problem.held, **{n: found.value(n) for n in others}, RATE: math.log(arrhenius.rate_span[0])}
    without = replace(problem, held=held, free=others)
    low, high = without.within()
    for i, name in enumerate(others):
        low[i] = max(low[i], found.value(name) - math.log(FACTOR_MAX))
        high[i] = min(high[i], found.value(name) + math.log(FACTOR_MAX))
    gain = (2.0 * _least(without, low, high).cost - float(np.sum(problem.off(found.vector) ** 2))) / found.widened
    freedom = len(problem.free) - len(others) + len(list(problem.started(found.vector)))
    return bool(gain > chi2.ppf(REACTS_BY_CHANCE, freedom))


def _solved(problem: Problem) -> _Found:
    low, high = problem.within()
    solution = _least(problem, low, high)
    vector: Floats = solution.x
    slopes = _slopes(problem, vector, low, high)
    residuals: Floats = solution.fun
    excess = math.sqrt(float(residuals @ residuals) / max(len(residuals) - len(vector), 1))
    together = _together(problem, residuals)
    # What hangs together has the information of fewer readings: (1 + a) / (1 − a) for a first-order process.
    widened = max(1.0, excess * excess * (1.0 + together) / (1.0 - together))
    information = slopes.T @ slopes
    inverse = np.linalg.pinv(information, rcond=1e-14, hermitian=True)
    pushed = _pushed_by_inputs(problem, vector, slopes, residuals)
    covariance = inverse @ (widened * information + pushed) @ inverse
    free = len(problem.free)
    # The inverse of a matrix without full rank says 0 where it should say "anything".
    blind = np.sum(slopes[:, :free] ** 2, axis=0) < 1e-12
    covariance[np.arange(free)[blind], np.arange(free)[blind]] = np.inf
    near = (vector - low < 10 * MARGIN) | (high - vector < 10 * MARGIN)
    return _Found(
        problem=problem,
        vector=vector,
        covariance=covariance,
        at_bound=tuple(n for n, b in zip(problem.free, near[:free], strict=True) if b),
        evaluations=int(solution.nfev) * (len(vector) + 1) + 2 * len(vector) + INPUT_RUNS,
        excess=excess,
        together=together,
        widened=widened,
    )


def _slopes(problem: Problem, vector: Floats, low: Floats, high: Floats) -> Floats:
    """Derivative of the residuals by differences, central but at a bound, shape (readings, elements)."""
    columns = []
    for i in range(len(vector)):
        above, below = vector.copy(), vector.copy()
        above[i], below[i] = min(vector[i] + 1e-4, high[i]), max(vector[i] - 1e-4, low[i])
        columns.append((problem.off(above) - problem.off(below)) / (above[i] - below[i]))
    return np.stack(columns, axis=1)


def _pushed_by_inputs(problem: Problem, vector: Floats, slopes: Floats, residuals: Floats) -> Floats:
    """Covariance of the score that the noise of the inputs makes, shape (elements, elements)."""
    random = np.random.default_rng(SEED)
    scores = []
    for _ in range(INPUT_RUNS):
        raw = [span.raw + span.raw_std * random.standard_normal(len(span.raw)) for span in problem.spans]
        scores.append(slopes.T @ (problem.off(vector, raw) - residuals))
    score = np.stack(scores)
    return score.T @ score / INPUT_RUNS


def _together(problem: Problem, residuals: Floats) -> float:
    """Correlation of neighbouring residuals of one state where it is above what noise has by chance, else 0."""
    first, above, below = 0, 0.0, 0.0
    for span in problem.spans:
        mine = residuals[first : first + len(span.at)]
        first += len(span.at)
        for state in span.measured:
            e = mine[span.state == state]
            above += float(e[1:] @ e[:-1])
            below += float(e @ e)
    found = above / below if below > 0.0 else 0.0
    return min(found, 0.999) if found > 3.0 / math.sqrt(problem.readings) else 0.0


def _undetermined(found: _Found) -> dict[str, str] | None:
    """A parameter that the span does not tell, and why; None where it tells all that are free. E is asked first."""
    arrhenius = found.problem.model.arrhenius
    energy = None if arrhenius is None else arrhenius.energy.name
    for name in sorted(found.problem.free, key=lambda n: (n != energy, n != RATE)):
        half = Z_95 * found.std(name)
        why = ""
        if name in found.at_bound:
            why = "the best value is at the bound of what is sought"
        elif name == energy and half > ENERGY_SHARE_MAX * found.value(name):
            why = f"95 % would be ±{half * ENERGY_SCALE:.3g} J/mol" if math.isfinite(half) else "it has no influence"
        elif name != energy and half > math.log(FACTOR_MAX):
            why = f"95 % would be a factor of {math.exp(min(half, 50.0)):.3g}"
        if why:
            # How k changes with temperature cannot be said where k cannot.
            more = {energy: "k is not determined"} if name == RATE and energy in found.problem.free else {}
            return {name: why} | {n: text for n, text in more.items() if n is not None}
    return None


def _determined(found: _Found) -> tuple[str, ...]:
    names = [n for n in found.problem.free if n != RATE]
    arrhenius = found.problem.model.arrhenius
    if arrhenius is not None and RATE in found.problem.free:
        names.append(arrhenius.frequency.name)
    return tuple(names)


def _intervals(found: _Found, kept: Mapping[str, str]) -> dict[str, Interval]:
    problem, model = found.problem, found.problem.model
    values = problem.parameters(found.vector)
    out = {}
    for f in model.fitted:
        out[f.name] = (
            _log_interval(values[f.name], found.std(f.name))
            if f.name not in kept
            else _kept(values[f.name], kept[f.name])
        )
    arrhenius = model.arrhenius
    if arrhenius is None:
        return out
    energy, frequency = arrhenius.energy.name, arrhenius.frequency.name
    if RATE in kept:
        out[frequency] = _kept(values[frequency], kept[RATE])
    else:
        note = f"holds with {energy} as it is: E is not determined" if energy in kept else ""
        out[frequency] = _log_interval(values[frequency], _log_a_std(found), note)
    if energy in kept:
        out[energy] = _kept(values[energy], kept[energy])
    else:
        half = Z_95 * ENERGY_SCALE * found.std(energy)
        out[energy] = Interval(value=values[energy], low=max(values[energy] - half, 0.0), high=values[energy] + half)
    return out


def _kept(value: float, why: str) -> Interval:
    return Interval(value=value, low=0.0, high=math.inf, note=f"kept, the span does not tell it: {why}")


def _log_interval(value: float, std: float, note: str = "") -> Interval:
    factor = math.exp(min(Z_95 * std, 600.0))
    return Interval(value=value, low=value / factor, high=value * factor, note=note)


def _by_elements(found: _Found) -> Floats:
    """Derivative of log A by the elements of the vector."""
    arrhenius = found.problem.model.arrhenius
    assert arrhenius is not None
    slope = np.zeros(len(found.vector))
    slope[found.problem.free.index(RATE)] = 1.0
    if arrhenius.energy.name in found.problem.free:
        by_energy = ENERGY_SCALE / (arrhenius.gas_constant * found.problem.at_K)
        slope[found.problem.free.index(arrhenius.energy.name)] = by_energy
    return slope


def _log_a_std(found: _Found) -> float:
    slope = _by_elements(found)
    return math.sqrt(float(slope @ found.covariance @ slope))


def _correlation(found: _Found) -> float:
    arrhenius = found.problem.model.arrhenius
    if arrhenius is None or not {RATE, arrhenius.energy.name} <= set(found.problem.free):
        return math.nan
    i = found.problem.free.index(arrhenius.energy.name)
    both = float(_by_elements(found) @ found.covariance[:, i])
    return both / (_log_a_std(found) * found.std(arrhenius.energy.name))


def _starts(found: _Found) -> tuple[str, ...]:
    halves = Z_95 * np.sqrt(np.maximum(np.diag(found.covariance), 0.0))
    return tuple(
        f"{asset} begins with {name} {value:.3g} ± {halves[place]:.2g}"
        for asset, name, value, place in found.problem.started(found.vector)
    )


def _notes(found: _Found) -> tuple[str, ...]:
    notes = []
    if found.excess > EXCESS_NOTED:
        notes.append(f"residuals are {found.excess:.2f} times the stated noise: intervals are widened by as much")
    if found.excess * EXCESS_NOTED < 1.0:
        notes.append(f"residuals are only {found.excess:.2f} times the stated noise: intervals are wider than need be")
    if found.together > CORRELATION_NOTED:
        notes.append(
            f"neighbouring residuals correlate by {found.together:.2f}, so the model misses something: "
            "intervals are widened, parameters may be biased"
        )
    return tuple(notes)
