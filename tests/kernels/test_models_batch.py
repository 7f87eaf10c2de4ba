"""The chapter's reactor: its figures by hand, closed forms where the equations have one, and its heat balance."""

import math

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from kernels.models import batch_reactor
from tests.kernels.model_runs import Run, derivative

MODEL = batch_reactor.MODEL
#: k at 85 degC by hand: 1e10 · exp(−80000 / (8.314 · 358.15))
K_85 = 1e10 * math.exp(-80_000.0 / (8.314 * 358.15))


def test_constants_are_the_chapters() -> None:
    """Mass, heat capacity, U, A, k0, Ea, reference pressure and the start values are those of the chapter."""
    values = MODEL.values({})
    expected = {
        "mass_kg": 1000.0,
        "heat_capacity_J_per_kg_K": 4200.0,
        "heat_transfer_W_per_m2_K": 500.0,
        "area_m2": 10.0,
        "frequency_factor_per_s": 1e10,
        "activation_energy_J_per_mol": 80_000.0,
        "reference_pressure_Pa": 2.5e6,
        "conversion": 0.0,
        "temperature_degC": 85.0,
        "pressure_Pa": 2.5e6,
        "flow_rate_L_per_min": 120.0,
    }
    assert {name: values[name] for name in expected} == expected


def test_single_euler_step_of_the_chapter() -> None:
    """From X = 0, 85 degC, 2.5 MPa one Euler step of 1 s gives X = k_eff = 0.02147; a quarter of P, half."""
    run = Run(MODEL).set(temperature=85.0, pressure=2.5e6)
    step = run.x[0] + 1.0 * derivative(run, batch_reactor.rates)[0]
    assert step == pytest.approx(K_85, rel=1e-12)
    assert step == pytest.approx(0.021474, abs=5e-7)
    run.set(pressure=2.5e6 / 4.0)
    assert derivative(run, batch_reactor.rates)[0] == pytest.approx(K_85 / 2.0, rel=1e-12)


@pytest.mark.parametrize(("temperature", "pressure"), [(85.0, 2.5e6), (60.0, 1e6), (110.0, 9e6)])
def test_isothermal_first_order_has_its_closed_form(temperature: float, pressure: float) -> None:
    """At held temperature and pressure X = 1 − exp(−k_eff·t)."""
    k = 1e10 * math.exp(-80_000.0 / (8.314 * (temperature + 273.15))) * math.sqrt(pressure / 2.5e6)
    for t in (0.3, 10.0, 60.0, 300.0):
        run = Run(MODEL).set(temperature=temperature, pressure=pressure)
        assert run.after(t)["conversion"] == pytest.approx(1.0 - math.exp(-k * t), abs=1e-5)


def test_one_step_of_the_integrator_is_better_than_eulers() -> None:
    """After 1 s the integrator is within 1e-8 of the closed form, where Euler's step is off by 2e-4."""
    exact = 1.0 - math.exp(-K_85)
    assert Run(MODEL).set(temperature=85.0).after(1.0)["conversion"] == pytest.approx(exact, abs=1e-8)
    assert K_85 - exact > 2e-4


def test_pure_cooling_is_exponential() -> None:
    """Without reaction: T = T_jacket + (T0 − T_jacket)·exp(−U·A·t/(m·cp)); with the jacket not measured through the
    flow: U·A·C/(U·A + C) in the place of U·A, towards the coolant's temperature.
    """
    quiet = {"frequency_factor_per_s": 0.0}
    for t in (5.0, 100.0, 900.0):
        measured = Run(MODEL, quiet).set(jacket_temperature=40.0).after(t)["temperature_degC"]
        assert measured == pytest.approx(40.0 + 45.0 * math.exp(-5000.0 * t / 4.2e6), abs=1e-6)
        c = 120.0 / 60.0 * 4186.0
        through = 5000.0 * c / (5000.0 + c)
        by_flow = Run(MODEL, quiet).set(coolant_temperature=20.0, flow_rate=120.0).after(t)["temperature_degC"]
        assert by_flow == pytest.approx(20.0 + 65.0 * math.exp(-through * t / 4.2e6), abs=1e-6)
        assert Run(MODEL, quiet).set(flow_rate=0.0).after(t)["temperature_degC"] == 85.0


def test_energy_is_conserved() -> None:
    """Without cooling, all heat of reaction warms the charge: T − T0 = H·X/cp at any time."""
    run = Run(MODEL, {"area_m2": 0.0, "reaction_heat_J_per_kg": 1e5})
    for _ in range(20):
        states = run.after(7.0)
        assert states["temperature_degC"] - 85.0 == pytest.approx(1e5 * states["conversion"] / 4200.0, abs=1e-8)
    assert run.after(600.0)["temperature_degC"] == pytest.approx(85.0 + 1e5 / 4200.0, abs=1e-6)


def test_model_is_drawn_to_the_estimate() -> None:
    """With nothing else going on, the model's temperature comes to the estimate with the observer's time constant."""
    run = Run(MODEL, {"frequency_factor_per_s": 0.0, "area_m2": 0.0, "observer_s": 60.0}).set(temperature=95.0)
    assert run.after(60.0)["temperature_degC"] == pytest.approx(95.0 - 10.0 * math.exp(-1.0), abs=1e-6)


def test_kinetics_take_the_estimate_and_a_prediction_the_models_own() -> None:
    """While measured, the rate is that at the estimate; without, that at the model's own temperature."""
    measured, free = Run(MODEL).set(temperature=100.0), Run(MODEL)
    k_100 = 1e10 * math.exp(-80_000.0 / (8.314 * 373.15))
    assert derivative(measured, batch_reactor.rates)[0] == pytest.approx(k_100, rel=1e-12)
    assert derivative(free, batch_reactor.rates)[0] == pytest.approx(K_85, rel=1e-12)


def test_agrees_with_another_solver() -> None:
    """Heat balance and kinetics together agree with scipy's solver on equations written down anew."""

    def right_side(_: float, y: list[float]) -> list[float]:
        rate = 1e10 * math.exp(-80_000.0 / (8.314 * y[1])) * math.sqrt(1.8e6 / 2.5e6) * (1.0 - y[0])
        return [rate, (1000.0 * 80_000.0 * rate - 500.0 * 10.0 * (y[1] - 338.15)) / (1000.0 * 4200.0)]

    run = Run(MODEL, {"reaction_heat_J_per_kg": 80_000.0}).set(pressure=1.8e6, jacket_temperature=65.0)
    exact = solve_ivp(right_side, (0.0, 240.0), [0.0, 358.15], rtol=1e-11, atol=1e-12, t_eval=[10.0, 60.0, 240.0])
    for dt, conversion, kelvin in zip((10.0, 50.0, 180.0), *exact.y, strict=True):
        states = run.after(dt)
        assert states["conversion"] == pytest.approx(conversion, abs=1e-7)
        assert states["temperature_degC"] == pytest.approx(kelvin - 273.15, abs=1e-6)


def test_regression_of_the_prediction_at_60_s() -> None:
    """From the chapter's start with defaults: heat balance and kinetics together over 60 s."""
    states = Run(MODEL).after(60.0)
    assert states["conversion"] == pytest.approx(0.743392, abs=1e-6)
    assert states["temperature_degC"] == pytest.approx(86.066955, abs=1e-5)


def test_conversion_std_is_what_a_wrong_temperature_does() -> None:
    """`conversion_std` is the change of X when the temperature is off by its standard deviation all the time."""
    certain, off = Run(MODEL).set(temperature=85.0), Run(MODEL).set(temperature=85.01)
    unsure = Run(MODEL).set(std=0.01, temperature=85.0)
    for t in (10.0, 30.0, 60.0):
        difference = off.after(t)["conversion"] - certain.after(t)["conversion"]
        assert unsure.after(t)["conversion_std"] == pytest.approx(difference, rel=2e-3)


@pytest.mark.parametrize("temperature", [-50.0, 400.0])
@pytest.mark.parametrize("heat", [-1e7, 1e7])
def test_states_stay_where_they_mean_something(temperature: float, heat: float) -> None:
    """At the ends of every span, and in a thermal runaway, conversion stays in 0…1 and nothing is NaN."""
    wild = {"reaction_heat_J_per_kg": heat, "frequency_factor_per_s": 1e30, "area_m2": 1e5, "mass_kg": 1.0}
    for run in (Run(MODEL, wild).set(temperature=temperature, pressure=1e8), Run(MODEL, wild)):
        for t in (0.01, 1.0, 3600.0, 1e9):
            states = run.after(t)
            assert np.isfinite(list(states.values())).all()
            assert 0.0 <= states["conversion"] <= 1.0
