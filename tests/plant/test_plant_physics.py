"""The reactors obey the laws they are made of."""

import math

import numpy as np
import pytest

from plant.physics import (
    ATMOSPHERE_PA,
    CONVERSION,
    FLOW,
    HEAT_REMOVED,
    JACKET,
    KELVIN,
    PRESSURE,
    TEMPERATURE,
    WATER_J_PER_L_K,
    Constants,
    Controller,
    Reactors,
    derivative,
    rate_constant_per_s,
    runge_kutta,
)

C = Constants()


def at_rest() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """State, valves and inflow of a finished batch that has the coolant's temperature."""
    flow, pressure, ph = 120.0, 2.5e6, 7.0
    state = np.array([[C.coolant_inlet_K], [C.coolant_inlet_K], [1.0], [pressure], [flow], [65.0], [ph], [0.0]])
    supply = (pressure - ATMOSPHERE_PA) / C.vent_time_s / C.supply_Pa_per_s
    valves = np.array([[flow / C.flow_capacity_L_per_min], [supply], [0.5], [(ph - 6.0) / C.ph_lag_s / C.dosing_per_s]])
    return state, valves, np.array([0.5])


def test_rate_constant_is_the_chapters() -> None:
    """At 85 degC and 2.5 MPa k is 1e10·exp(−80000/(8.314·358.15)); at a quarter of the pressure it is half."""
    temperature = np.array([85.0 + KELVIN])
    k = rate_constant_per_s(temperature, np.array([2.5e6]), C)[0]
    assert k == pytest.approx(1e10 * math.exp(-80_000 / (8.314 * 358.15)), rel=1e-14)
    assert k == pytest.approx(0.021, rel=0.05)
    assert rate_constant_per_s(temperature, np.array([2.5e6 / 4]), C)[0] == pytest.approx(k / 2)


def test_a_finished_batch_at_the_coolants_temperature_stays_as_it_is() -> None:
    """Steady state: no derivative differs from 0."""
    assert np.abs(derivative(*at_rest(), C)).max() < 1e-9


def test_no_heat_is_lost() -> None:
    """Reaction heat equals what charge and jacket have gained and the coolant has carried away."""
    plant = Reactors(3)
    start = plant.state.copy()
    for _ in range(3000):
        plant.step(0.1)
    gain = plant.state - start
    made = C.mass_kg * C.reaction_heat_J_per_kg * gain[CONVERSION]
    charge = C.mass_kg * C.heat_capacity_J_per_kg_K * gain[TEMPERATURE]
    jacket = C.jacket_volume_L * WATER_J_PER_L_K * gain[JACKET]
    assert charge + jacket + gain[HEAT_REMOVED] == pytest.approx(made, rel=1e-9)
    assert made.min() > 9e6


def test_conversion_at_constant_temperature_is_the_exponential() -> None:
    """Without heat and with temperature and pressure held, X = 1 − exp(−k·t) to eight digits after a minute."""
    calm = Constants(reaction_heat_J_per_kg=0.0, coolant_inlet_K=358.15, acid_per_conversion=0.0)
    state, valves, inflow = at_rest()
    state[[TEMPERATURE, JACKET]], state[CONVERSION] = 358.15, 0.0
    for _ in range(600):
        state = runge_kutta(state, valves, inflow, calm, 0.1)
    k = rate_constant_per_s(np.array([358.15]), np.array([2.5e6]), calm)[0]
    assert state[CONVERSION, 0] == pytest.approx(1 - math.exp(-k * 60), rel=1e-8)


def test_steps_are_of_fourth_order() -> None:
    """Halving the step makes the error at least ten times smaller."""
    start = at_rest()[0]
    start[TEMPERATURE], start[CONVERSION] = 400.0, 0.0

    def end(steps: int) -> float:
        state = start
        for _ in range(steps):
            state = runge_kutta(state, *at_rest()[1:], C, 8.0 / steps)
        return float(state[TEMPERATURE, 0])

    exact = end(1000)
    assert abs(end(16) - exact) > 10 * abs(end(32) - exact) > 0


def test_controllers_hold_their_set_points() -> None:
    """Ten minutes on, flow and pressure are where their controllers want them, and all signals stay in sane spans."""
    plant = Reactors(3)
    for _ in range(6000):
        plant.step(0.1)
        assert plant.state[TEMPERATURE].min() - KELVIN > 60
        assert plant.state[TEMPERATURE].max() - KELVIN < 100
    assert plant.state[FLOW] == pytest.approx(plant.flow_sv_L_per_min, abs=1.0)
    assert plant.state[PRESSURE] == pytest.approx([2.5e6, 2.4e6, 2.6e6], rel=1e-3)
    assert np.all((plant.state[CONVERSION] > 0.99) & (plant.state[CONVERSION] <= 1.0))


def test_a_controller_at_its_limit_does_not_wind_up() -> None:
    """After an hour at the limit the output leaves it as soon as the error has changed its sign."""
    loop = Controller(gain=1.0, reset_s=10.0, integral=np.zeros(1))
    for _ in range(3600):
        assert loop.step(np.array([5.0]), np.array([0.0]), 1.0) == [1.0]
    assert loop.step(np.array([-0.5]), np.array([0.0]), 1.0)[0] < 1.0
