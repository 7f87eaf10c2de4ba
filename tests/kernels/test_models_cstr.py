"""The stirred tank against its source's figures, closed forms and balances."""

import math

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from kernels.models import cstr
from tests.kernels.model_runs import Run, derivative

MODEL = cstr.MODEL


def test_rests_where_the_source_says() -> None:
    """At 350 K, conversion 0.5 and jacket at 300 K all derivatives are near 0 (Seborg et al., example 2.5)."""
    dx = derivative(Run(MODEL), cstr.rates)
    assert abs(dx[cstr.CONVERSION]) < 1e-5
    assert abs(dx[cstr.TEMPERATURE]) < 1e-3
    assert abs(dx[cstr.JACKET]) < 1e-4


def test_the_rest_is_unstable_as_in_the_source() -> None:
    """A jacket held at 290 K quenches the reaction, one at 305 K ignites it, as in the source's example."""
    big = {"jacket_volume_L": 1e6}
    cold = Run(MODEL, {**big, "coolant_outlet_temperature_degC": 290.0 - 273.15, "coolant_flow_L_per_min": 0.0})
    hot = Run(MODEL, {**big, "coolant_outlet_temperature_degC": 305.0 - 273.15, "coolant_flow_L_per_min": 0.0})
    assert cold.after(600.0)["temperature_degC"] + 273.15 < 320.0
    warmest = max(hot.after(1.0)["temperature_degC"] for _ in range(600)) + 273.15
    assert 385.0 < warmest < 460.0


def test_isothermal_tank_has_its_closed_form() -> None:
    """At held temperature X tends to k/(k + F/V) as exp(−(k + F/V)·t)."""
    k = 7.2e10 / 60.0 * math.exp(-8750.0 / 340.0)
    a = k + 100.0 / 100.0 / 60.0
    for t in (1.0, 20.0, 300.0):
        run = Run(MODEL).set(temperature=340.0 - 273.15)
        expected = k / a + (0.5 - k / a) * math.exp(-a * t)
        assert run.after(t)["conversion"] == pytest.approx(expected, abs=1e-8)


def test_a_tank_without_reaction_and_jacket_mixes() -> None:
    """T tends to the feed's temperature as exp(−F/V·t), and what was converted is washed out alike."""
    run = Run(MODEL, {"frequency_factor_per_s": 0.0, "heat_transfer_W_per_K": 0.0}).set(feed_temperature=20.0)
    states = run.after(90.0)
    assert states["temperature_degC"] == pytest.approx(20.0 + 56.85 * math.exp(-1.5), abs=1e-6)
    assert states["conversion"] == pytest.approx(0.5 * math.exp(-1.5), abs=1e-9)


def test_energy_is_conserved() -> None:
    """Without flows, what tank and jacket hold together grows by the heat of reaction alone."""
    still = {"feed_flow_L_per_min": 0.0, "coolant_flow_L_per_min": 0.0, "conversion": 0.0, "temperature_degC": 60.0}
    run = Run(MODEL, still)

    def held(states: dict[str, float]) -> float:
        return 100.0 * 239.0 * states["temperature_degC"] + 10.0 * 4186.0 * states["coolant_outlet_temperature_degC"]

    before = held(run.after(0.0))
    for _ in range(10):
        states = run.after(20.0)
        assert held(states) - before == pytest.approx(100.0 * 50_000.0 * states["conversion"], rel=1e-9)


def test_jacket_is_drawn_to_its_estimate() -> None:
    """A measured jacket corrects the coolant outlet with the observer's time constant."""
    alone = {"heat_transfer_W_per_K": 0.0, "coolant_flow_L_per_min": 0.0, "observer_s": 30.0}
    run = Run(MODEL, alone).set(jacket_temperature=36.85)
    assert run.after(30.0)["coolant_outlet_temperature_degC"] == pytest.approx(36.85 - 10.0 / math.e, abs=1e-6)


def test_conversion_std_is_what_a_wrong_temperature_does() -> None:
    """`conversion_std` is the change of X when the temperature is off by its standard deviation all the time."""
    certain, off = Run(MODEL).set(temperature=70.0), Run(MODEL).set(temperature=70.01)
    unsure = Run(MODEL).set(std=0.01, temperature=70.0)
    for t in (10.0, 60.0, 300.0):
        difference = off.after(t)["conversion"] - certain.after(t)["conversion"]
        assert unsure.after(t)["conversion_std"] == pytest.approx(difference, rel=2e-3)


def test_agrees_with_another_solver() -> None:
    """From the rest with a colder feed: agrees with scipy's solver on the source's equations, in min and mol/L."""

    def right_side(_: float, y: list[float]) -> list[float]:
        c, t, jacket = y
        rate = 7.2e10 * math.exp(-8750.0 / t) * c
        return [
            1.0 * (1.0 - c) - rate,
            1.0 * (333.15 - t) + 5e4 * rate / 239.0 - 5e4 * (t - jacket) / (100.0 * 239.0),
            8.71866 * (293.15 - jacket) + 5e4 * (t - jacket) / (10.0 * 4186.0),
        ]

    exact = solve_ivp(right_side, (0.0, 5.0), [0.5, 350.0, 300.0], rtol=1e-11, atol=1e-12, t_eval=[0.5, 1.0, 5.0])
    run = Run(MODEL).set(feed_temperature=60.0)
    for dt, c, t, jacket in zip((30.0, 30.0, 240.0), *exact.y, strict=True):
        states = run.after(dt)
        assert states["conversion"] == pytest.approx(1.0 - c, abs=1e-6)
        assert states["temperature_degC"] == pytest.approx(t - 273.15, abs=1e-4)
        assert states["coolant_outlet_temperature_degC"] == pytest.approx(jacket - 273.15, abs=1e-5)


def test_regression_of_a_minute_with_colder_feed() -> None:
    """Defaults with a feed of 60 degC for 60 s."""
    states = Run(MODEL).set(feed_temperature=60.0).after(60.0)
    assert states["conversion"] == pytest.approx(0.297070, abs=1e-6)
    assert states["temperature_degC"] == pytest.approx(45.772563, abs=1e-5)
    assert states["coolant_outlet_temperature_degC"] == pytest.approx(23.394223, abs=1e-5)


def test_states_stay_where_they_mean_something() -> None:
    """With extreme parameters and inputs nothing is NaN and conversion stays in 0…1."""
    wild = {"reaction_heat_J_per_mol": 1e7, "frequency_factor_per_s": 1e30, "volume_L": 1e-3, "jacket_volume_L": 1e-3}
    for run in (Run(MODEL, wild).set(temperature=400.0, feed_flow=1e6), Run(MODEL, wild)):
        for t in (0.01, 1.0, 3600.0, 1e9):
            states = run.after(t)
            assert np.isfinite(list(states.values())).all()
            assert 0.0 <= states["conversion"] <= 1.0
