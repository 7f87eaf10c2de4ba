"""Jacketed batch reactors: heat balance, kinetics, pressure, coolant flow, level and pH, with their controllers.

An own implementation on purpose: it is what the twin's kernels are compared with, so it must not know them.
Constants of heat balance and kinetics are those of the chapter on real-time integration (see docs); the rest is
chosen so that signals move at the pace of a real reactor. No clock, no randomness.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]

GAS_CONSTANT = 8.314  # J/(mol K)
KELVIN = 273.15
ATMOSPHERE_PA = 101_325.0
WATER_J_PER_L_K = 4186.0

#: Rows of the state array. Temperatures in K, pressure in Pa, flow in L/min, level in %, heat in J.
TEMPERATURE, JACKET, CONVERSION, PRESSURE, FLOW, LEVEL, PH, HEAT_REMOVED = range(8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Constants:
    """What does not change during a run."""

    mass_kg: float = 1000.0
    heat_capacity_J_per_kg_K: float = 4200.0
    heat_transfer_W_per_m2_K: float = 500.0
    jacket_area_m2: float = 10.0
    frequency_factor_per_s: float = 1e10
    activation_energy_J_per_mol: float = 80_000.0
    reference_pressure_Pa: float = 2.5e6
    reaction_heat_J_per_kg: float = 10_000.0
    jacket_volume_L: float = 250.0
    coolant_inlet_K: float = 343.15
    flow_lag_s: float = 2.0
    flow_capacity_L_per_min: float = 240.0
    vent_time_s: float = 60.0
    supply_Pa_per_s: float = 80_000.0
    level_gain_percent_per_s: float = 0.05
    ph_lag_s: float = 120.0
    dosing_per_s: float = 0.05
    acid_per_conversion: float = 1.0

    @property
    def heat_transfer_W_per_K(self) -> float:
        """U·A of the jacket."""
        return self.heat_transfer_W_per_m2_K * self.jacket_area_m2


def rate_constant_per_s(temperature_K: Vector, pressure_Pa: Vector, c: Constants) -> Vector:
    """Arrhenius rate with the pressure's influence, k0·exp(−E/RT)·sqrt(P/P0)."""
    k: Vector = c.frequency_factor_per_s * np.exp(-c.activation_energy_J_per_mol / (GAS_CONSTANT * temperature_K))
    return k * np.sqrt(np.maximum(pressure_Pa, 0.0) / c.reference_pressure_Pa)


def derivative(state: Vector, valves: Vector, inflow: Vector, c: Constants) -> Vector:
    """Time derivative of the state, shape (8, n) per second.

    `valves`, shape (4, n), 0…1: coolant, gas supply, outlet, base dosing. `inflow`, shape (n,), 0…1.
    """
    temperature, jacket, conversion, pressure, flow, _, ph, _ = state
    coolant, supply, outlet, dosing = valves
    out = np.empty_like(state)
    reaction = rate_constant_per_s(temperature, pressure, c) * (1.0 - conversion)
    to_jacket_W = c.heat_transfer_W_per_K * (temperature - jacket)
    to_coolant_W = flow / 60.0 * WATER_J_PER_L_K * (jacket - c.coolant_inlet_K)
    heating_W = c.mass_kg * c.reaction_heat_J_per_kg * reaction
    out[TEMPERATURE] = (heating_W - to_jacket_W) / (c.mass_kg * c.heat_capacity_J_per_kg_K)
    out[JACKET] = (to_jacket_W - to_coolant_W) / (c.jacket_volume_L * WATER_J_PER_L_K)
    out[CONVERSION] = reaction
    leak = (pressure - ATMOSPHERE_PA) / c.vent_time_s
    out[PRESSURE] = c.supply_Pa_per_s * supply - leak + pressure / temperature * out[TEMPERATURE]
    out[FLOW] = (c.flow_capacity_L_per_min * coolant - flow) / c.flow_lag_s
    out[LEVEL] = c.level_gain_percent_per_s * (inflow - outlet)
    out[PH] = c.dosing_per_s * dosing - c.acid_per_conversion * reaction - (ph - 6.0) / c.ph_lag_s
    out[HEAT_REMOVED] = to_coolant_W
    return out


def runge_kutta(state: Vector, valves: Vector, inflow: Vector, c: Constants, dt_s: float) -> Vector:
    """State one step of `dt_s` later (classical fourth order), inputs held."""
    k1 = derivative(state, valves, inflow, c)
    k2 = derivative(state + 0.5 * dt_s * k1, valves, inflow, c)
    k3 = derivative(state + 0.5 * dt_s * k2, valves, inflow, c)
    k4 = derivative(state + dt_s * k3, valves, inflow, c)
    return state + dt_s / 6.0 * (k1 + 2.0 * (k2 + k3) + k4)


@dataclass(slots=True, kw_only=True)
class Controller:
    """PI controller of n loops with limits; its integral stops where the output is at a limit.

    `gain` in output per unit of error, negative where more output lowers the value; `reset_s` is the integral time.
    """

    gain: float
    reset_s: float
    integral: Vector
    low: float = 0.0
    high: float = 1.0

    def step(self, set_point: Vector, value: Vector, dt_s: float) -> Vector:
        """Output, shape (n,)."""
        error = set_point - value
        wanted = self.gain * error + self.integral + self.gain * error * dt_s / self.reset_s
        free = (wanted > self.low) & (wanted < self.high)
        self.integral = np.where(free, self.integral + self.gain * error * dt_s / self.reset_s, self.integral)
        return np.clip(self.gain * error + self.integral, self.low, self.high)


#: Temperature, pressure and flow that reactors start with; the fourth is like the first, and so on.
STARTS = ((85.0, 2.5e6, 120.0), (82.0, 2.4e6, 110.0), (87.0, 2.6e6, 130.0))


@dataclass(slots=True)
class Reactors:
    """`n` reactors, each at the start of a batch: conversion 0, at its set points."""

    n: int
    constants: Constants = field(default_factory=Constants)
    time_s: float = 0.0
    state: Vector = field(init=False)
    temperature_sv_degC: Vector = field(init=False)
    flow_sv_L_per_min: Vector = field(init=False)
    _pressure_sv_Pa: Vector = field(init=False)
    _temperature: Controller = field(init=False)
    _loops: tuple[Controller, ...] = field(init=False)

    def __post_init__(self) -> None:
        c = self.constants
        starts = np.array([STARTS[i % len(STARTS)] for i in range(self.n)]).T
        temperature_K, pressure, flow = starts[0] + KELVIN, starts[1].copy(), starts[2].copy()
        capacity_W_per_K = flow / 60.0 * WATER_J_PER_L_K
        jacket = (c.heat_transfer_W_per_K * temperature_K + capacity_W_per_K * c.coolant_inlet_K) / (
            c.heat_transfer_W_per_K + capacity_W_per_K
        )
        zero = np.zeros(self.n)
        self.state = np.array([temperature_K, jacket, zero, pressure, flow, zero + 65.0, zero + 7.0, zero])
        self.temperature_sv_degC, self._pressure_sv_Pa, self.flow_sv_L_per_min = starts[0].copy(), pressure, flow
        self._temperature = Controller(gain=-6.0, reset_s=200.0, integral=flow.copy(), low=30.0, high=220.0)
        supply = (pressure - ATMOSPHERE_PA) / c.vent_time_s / c.supply_Pa_per_s
        self._loops = (
            Controller(gain=0.004, reset_s=4.0, integral=flow / c.flow_capacity_L_per_min),
            Controller(gain=1e-6, reset_s=30.0, integral=supply),
            Controller(gain=-0.05, reset_s=300.0, integral=zero + 0.5),
            Controller(gain=0.8, reset_s=60.0, integral=zero + 1.0 / c.ph_lag_s / c.dosing_per_s),
        )

    def step(self, dt_s: float) -> None:
        """Move on by `dt_s`: controllers act on the values as they are, then the reactors run."""
        cooling = np.full(self.n, -0.01 if self.time_s >= HOLD_S else 0.0)
        self.temperature_sv_degC = np.maximum(self.temperature_sv_degC + cooling * dt_s, 75.0)
        s = self.state
        self.flow_sv_L_per_min = self._temperature.step(self.temperature_sv_degC, s[TEMPERATURE] - KELVIN, dt_s)
        targets = (self.flow_sv_L_per_min, self._pressure_sv_Pa, np.full(self.n, 65.0), np.full(self.n, 7.0))
        values = (s[FLOW], s[PRESSURE], s[LEVEL], s[PH])
        moves = [loop.step(t, v, dt_s) for loop, t, v in zip(self._loops, targets, values, strict=True)]
        inflow = 0.5 + 0.2 * np.sin(2.0 * np.pi * self.time_s / 90.0 + np.arange(self.n))
        self.state = runge_kutta(s, np.array(moves), inflow, self.constants, dt_s)
        self.time_s += dt_s


#: After so long a batch is nearly done, and its temperature set point comes down by 0.01 K/s to 75 degC.
HOLD_S = 240.0
