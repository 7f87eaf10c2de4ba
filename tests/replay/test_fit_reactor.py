"""Reactor parameters from readings: against closed forms, scipy's integrator and the simulated plant."""

import math
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.integrate import solve_ivp
from scipy.stats import binom

from bench import fit_coverage
from kernels.models import MODELS
from replay.fit.interval import TooFewReadings
from replay.fit.reactor import ReactorFit, fit_reactor
from replay.fit.reactor_span import Signal, Span, span_of

Array = NDArray[np.float64]
BATCH, TANK = MODELS["batch_reactor"], MODELS["cstr"]
U, A, E = "heat_transfer_W_per_m2_K", "frequency_factor_per_s", "activation_energy_J_per_mol"
RUNS = 20
#: With intervals that hold 95 % fewer than so many of RUNS hold the truth once in some hundred times.
HELD_MIN = int(binom.ppf(0.005, RUNS, 0.95))


@pytest.fixture(scope="module")
def plant() -> fit_coverage.Batches:
    """Twenty batches of the simulated plant, each with parameters of its own."""
    return fit_coverage.batches(RUNS, seed=100)


def signal(tag: str, model_name: str, state: int | None, time_s: Array, value: Array, std: float) -> Signal:  # noqa: PLR0917
    """Readings of a tag by its own name."""
    entry, rank = MODELS[model_name].input_of(tag, {})
    time_ns = (time_s * 1e9).astype(np.int64)
    return Signal(tag=tag, entry=entry, rank=rank, state=state, time_ns=time_ns, value=value, std=std)


def holds(fit: ReactorFit, **truth: float) -> bool:
    """Whether each interval holds the truth."""
    return all(fit.parameters[name].low <= value <= fit.parameters[name].high for name, value in truth.items())


def test_the_truth_lies_in_the_intervals_of_the_plants_batches(plant: fit_coverage.Batches) -> None:
    """The short form of bench.fit_coverage: U, A and E each in as many of twenty batches as 95 % intervals make it."""
    held, kept = fit_coverage.reactor_coverage(plant, range(RUNS))
    assert all(sum(h) >= HELD_MIN for h in held.values()), {name: sum(h) for name, h in held.items()}
    assert not any(kept.values())


def test_the_truth_lies_in_the_intervals_of_the_plants_sensors(plant: fit_coverage.Batches) -> None:
    """r of five sensors of twenty batches, of which the plant knows it."""
    held = fit_coverage.sensor_coverage(plant, range(RUNS))
    assert all(sum(h) >= HELD_MIN for h in held.values()), {name: sum(h) for name, h in held.items()}


def test_the_truth_lies_in_the_intervals_of_wandering_tags() -> None:
    """q and r of twenty series of either form of process noise."""
    held = fit_coverage.wandering_coverage(range(1000, 1000 + RUNS))
    assert all(sum(h) >= HELD_MIN for h in held.values()), {name: sum(h) for name, h in held.items()}


def test_where_the_search_begins_does_not_matter(plant: fit_coverage.Batches) -> None:
    """From a third of U, half of E and a millionth of A it finds what it finds from the chapter's values."""
    span, given = fit_coverage.span(plant, 0), {**fit_coverage.BEFORE, "reaction_heat_J_per_kg": 60_000.0}
    here = fit_reactor(BATCH, [span], [given])
    there = fit_reactor(BATCH, [span], [{**given, U: 170.0, E: 40_000.0, A: 1e4}])
    for name in (U, E):
        assert there.parameters[name].value == pytest.approx(here.parameters[name].value, rel=1e-4)
    assert math.log(there.parameters[A].value) == pytest.approx(math.log(here.parameters[A].value), rel=1e-3)
    assert there.excess_before > 10.0 > here.excess
    assert here.correlation > 0.999


def cut(s: Signal, keep: NDArray[np.bool_]) -> Signal:
    """Some of the readings."""
    return replace(s, time_ns=s.time_ns[keep], value=s.value[keep])


def batch_signals(seed: int, u: float = 450.0, a: float = 2e10, e: float = 8.3e4) -> tuple[list[Signal], Array]:
    """A batch with a jacket that swings, by scipy's integrator, read at irregular times."""
    random = np.random.default_rng(seed)
    time_s = np.cumsum(random.uniform(0.2, 1.5, 1000))

    def jacket(t: Array | float) -> Array | float:
        return 78.0 + 8.0 * np.sin(np.asarray(t) / 60.0)

    def slopes(t: float, y: Array) -> list[float]:
        dx = a * math.exp(-e / (8.314 * (y[1] + 273.15))) * (1.0 - y[0])
        return [dx, 50_000.0 / 4200.0 * dx - u * 10.0 / 4.2e6 * (y[1] - float(jacket(t)))]

    end = float(time_s[-1])
    y = solve_ivp(slopes, (time_s[0], end), [0.0, 85.0], t_eval=time_s, rtol=1e-9, atol=1e-9).y
    warm, cold = y[1] + random.normal(0.0, 0.1, 1000), np.asarray(jacket(time_s)) + random.normal(0.0, 0.1, 1000)
    return [
        signal("temperature", "batch_reactor", 1, time_s, warm, 0.1),
        signal("temperature_jacket", "batch_reactor", None, time_s, cold, 0.1),
    ], time_s


def batch_fit(signals: list[Signal], *, starts_known: bool = False) -> ReactorFit:
    """From the chapter's parameters, with the heat of reaction known."""
    given = {**BATCH.values({}), "reaction_heat_J_per_kg": 50_000.0}
    return fit_reactor(BATCH, [span_of("R1", BATCH, signals)], [given], starts_known=starts_known)


TRUTH = {U: 450.0, A: 2e10, E: 8.3e4}


def test_irregular_readings_of_another_integrator() -> None:
    """U, A and E of a batch that scipy integrated."""
    assert holds(batch_fit(batch_signals(1)[0]), **TRUTH)


@pytest.mark.parametrize("silent", [(0, 1), (0,), (1,)])
def test_a_hole_is_not_compared_and_the_states_begin_anew(silent: tuple[int, ...]) -> None:
    """100 s without readings of the reactor, of its jacket, of both, and a tenth of all readings lost."""
    signals, time_s = batch_signals(2)
    kept = np.random.default_rng(9).random(len(time_s)) > 0.1
    hole = (time_s > 200.0) & (time_s < 300.0)
    signals = [cut(s, kept & ~hole if i in silent else kept) for i, s in enumerate(signals)]
    span = span_of("R1", BATCH, signals)
    assert len(span.starts) == 2
    inside = span.from_ns / 1e9 + np.cumsum(span.dt_s)[span.at]
    assert not np.any((inside > 202.0) & (inside < 298.0))
    assert holds(batch_fit(signals), **TRUTH)


def test_a_batch_that_is_read_from_its_middle_on_tells_where_it_began(plant: fit_coverage.Batches) -> None:
    """Half a minute late: with the start sought all truths hold, and the fit says where; taken for 0, none does."""
    truth = {name: float(values[0]) for name, values in plant.truth.items()}
    late = fit_coverage.reactor_fit(plant, 0, late_s=30.0)
    assert holds(late, **truth)
    (said,) = late.starts
    value, half = (float(word) for word in said.removeprefix("R101 begins with conversion ").split(" ± "))
    assert half < 0.05
    assert 0.4 < value < 0.7
    given = {**fit_coverage.BEFORE, "reaction_heat_J_per_kg": 60_000.0}
    blind = fit_reactor(BATCH, [fit_coverage.span(plant, 0, 30.0)], [given], starts_known=True)
    assert blind.determined
    assert not any(holds(blind, **{name: truth[name]}) for name in blind.determined)
    assert blind.starts == ()


def test_an_isothermal_span_gives_k_but_neither_e_nor_a_without_it() -> None:
    """85 degC held to the mK from a known start on: E is kept, A holds with that E, and both notes say so."""
    fit = fit_coverage.isothermal_fit(44)
    assert E not in fit.determined
    assert fit.parameters[E].value == pytest.approx(80_000.0)
    assert (fit.parameters[E].low, fit.parameters[E].high) == (0.0, math.inf)
    assert "does not tell" in fit.parameters[E].note
    assert "E is not determined" in fit.parameters[A].note
    assert holds(fit, **{U: 500.0, A: 1e10})
    assert fit.parameters[A].high < 1.1e10


def test_a_batch_that_is_over_gives_the_heat_transfer_only() -> None:
    """Nothing reacts any more: k cannot be told, so A and E are kept, whatever conversion is given."""
    random, time_s = np.random.default_rng(55), np.arange(0.0, 600.0, 0.5)
    fall = 70.0 + 15.0 * np.exp(-time_s * 4500.0 / 4.2e6)
    signals = [
        signal("temperature", "batch_reactor", 1, time_s, fall + random.normal(0.0, 0.1, len(time_s)), 0.1),
        signal("temperature_jacket", "batch_reactor", None, time_s, np.full(len(time_s), 70.0), 1e-6),
    ]
    for conversion in (1.0, 0.0):
        fit = fit_reactor(BATCH, [span_of("R1", BATCH, signals)], [BATCH.values({"conversion": conversion})])
        assert fit.determined == (U,)
        assert holds(fit, **{U: 450.0})
        assert fit.parameters[A].value == pytest.approx(1e10)


def test_a_model_that_misses_something_is_noticed() -> None:
    """A sensor that swings by 1 K: the notes say that the model is off, and intervals grow."""
    signals, time_s = batch_signals(3)
    good = batch_fit(signals)
    signals[0] = replace(signals[0], value=signals[0].value + np.sin(time_s / 7.0))
    bad = batch_fit(signals)
    assert not good.notes
    assert len(bad.notes) == 2
    assert bad.parameters[U].high / bad.parameters[U].low > (good.parameters[U].high / good.parameters[U].low) ** 3


def test_batches_together_tell_more_than_each() -> None:
    """Two reactors that share their parameters: all truths hold, and E is known better than by the better one."""
    spans: list[Span] = [span_of(f"R{i}", BATCH, batch_signals(i)[0]) for i in (11, 12)]
    given = {**BATCH.values({}), "reaction_heat_J_per_kg": 50_000.0}
    one = min(
        (fit_reactor(BATCH, [s], [given]) for s in spans), key=lambda f: f.parameters[E].high - f.parameters[E].low
    )
    both = fit_reactor(BATCH, spans, [given] * 2)
    assert holds(both, **TRUTH)
    assert both.parameters[E].high - both.parameters[E].low < one.parameters[E].high - one.parameters[E].low


def tank_signals(seed: int, values: dict[str, float]) -> list[Signal]:
    """The stirred tank of Seborg et al. with steps of its coolant flow, by scipy's integrator."""
    random, time_s = np.random.default_rng(seed), np.arange(0.0, 1800.0, 1.0)

    def flow(t: Array | float) -> Array:
        return np.asarray(values["coolant_flow_L_per_min"] * (1.0 + 0.15 * np.sign(np.sin(np.asarray(t) / 90.0))))

    ua, volume, jacket = values["heat_transfer_W_per_K"], values["volume_L"], values["jacket_volume_L"]
    capacity = volume * values["heat_capacity_J_per_L_K"]
    feed = values["feed_flow_L_per_min"] / 60.0 / volume

    def slopes(t: float, y: Array) -> list[float]:
        x, warm, cold = y
        reaction = values[A] * math.exp(-values[E] / (8.314 * (warm + 273.15))) * (1.0 - x)
        return [
            reaction - feed * x,
            feed * (values["feed_temperature_degC"] - warm)
            + values["reaction_heat_J_per_mol"] / values["heat_capacity_J_per_L_K"] * reaction
            - ua / capacity * (warm - cold),
            float(flow(t)) / 60.0 / jacket * (values["coolant_temperature_degC"] - cold)
            + ua / (jacket * 4186.0) * (warm - cold),
        ]

    y = solve_ivp(slopes, (0.0, 1799.0), [0.5, 76.85, 26.85], t_eval=time_s, max_step=1.0, rtol=1e-8).y
    noisy = y[1:] + random.normal(0.0, 0.2, (2, len(time_s)))
    return [
        signal("temperature", "cstr", 1, time_s, noisy[0], 0.2),
        signal("temperature_jacket", "cstr", 2, time_s, noisy[1], 0.2),
        signal("coolant_flow", "cstr", None, time_s + 0.0, flow(time_s), 1e-3),
    ]


def test_the_stirred_tank_can_be_fitted_too() -> None:
    """UA, A and E of the second model, of which two states are measured."""
    values = TANK.values({"heat_transfer_W_per_K": 800.0, A: 1.3e9, E: 73_000.0, "reaction_heat_J_per_mol": 30_000.0})
    span = span_of("T1", TANK, tank_signals(1, values))
    assert span.measured == (1, 2)
    fit = fit_reactor(TANK, [span], [{**values, "heat_transfer_W_per_K": 600.0, A: 1.2e9}])
    assert holds(fit, **{"heat_transfer_W_per_K": 800.0, A: 1.3e9, E: 73_000.0})
    assert fit.parameters["heat_transfer_W_per_K"].high < 840.0


def test_nothing_measured_is_an_error_that_names_what_is_missing() -> None:
    """Without a temperature there is nothing to compare with."""
    signals = batch_signals(1)[0]
    with pytest.raises(TooFewReadings, match="R1: no good readings of what model batch_reactor is measured by"):
        span_of("R1", BATCH, signals[1:])
    with pytest.raises(TooFewReadings, match="20 usable readings of measured states, at least 30 are needed"):
        batch_fit([cut(s, np.arange(1000) < 20) for s in signals])
