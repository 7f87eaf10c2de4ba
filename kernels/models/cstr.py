"""A continuous stirred tank with coolant: first-order exothermic reaction A → B, jacket with its own heat balance.

    k       = A · exp(−E / (R · T)), T in kelvin, at most RATE_MAX
    dX/dt   = k · (1 − X) − F/V · X                       X = 1 − c_A / c_A,feed
    dT/dt   = F/V · (T_feed − T) + H·c_A,feed/(rho·cp) · k · (1 − X) − UA/(V·rho·cp) · (T − T_j) [+ (T_est − T) / tau]
    dT_j/dt = F_c/V_j · (T_c − T_j) + UA/(V_j·rho·cp of the coolant) · (T − T_j)          [+ (T_j,est − T_j) / tau]
    dS/dt   = dk/dT · (1 − X) · std(T) − (k + F/V) · S    how uncertain X is if T is off by one standard deviation

Source of equations and defaults: Seborg, Edgar, Mellichamp, Doyle, "Process Dynamics and Control", 4th ed., example
2.5 and table 2.3 (rest at 350 K, conversion 0.5, jacket at 300 K). There the jacket's temperature is given; its balance
here is that of Bequette, "Process Control: Modeling, Design, and Simulation", module 8, with a coolant flow at which
the jacket rests at those 300 K. What is measured and what is predicted: as in `kernels.models.batch_reactor`.
May not know: frames, tags, clocks. Jitted functions call only those of this file.
"""

import math

import numpy as np

from kernels.jit import jit
from kernels.models.model import I64, NO_INPUT, Arrhenius, Fitted, Floats, Input, Model, State, parameters

GAS_CONSTANT = 8.314  # J/(mol K)
KELVIN = 273.15
COOLANT_J_PER_L_K = 4186.0

#: No rate of reaction, exchange or heat transfer is greater, 1/s: nothing the plant measures is faster, and RK4 stays
#: stable at its shortest step.
RATE_MAX = 5.0

CONVERSION, TEMPERATURE, JACKET, DEVIATION = range(4)
T_IN, FEED_IN, FEED_T_IN, COOLANT_IN, COOLANT_T_IN, JACKET_IN = range(6)

PARAMETERS = parameters(
    ("volume_L", 100.0, (1e-3, 1e9)),
    ("heat_capacity_J_per_L_K", 239.0, (1.0, 1e5)),
    ("heat_transfer_W_per_K", 50_000.0 / 60.0, (0.0, 1e9)),
    ("frequency_factor_per_s", 7.2e10 / 60.0, (0.0, 1e30)),
    ("activation_energy_J_per_mol", 8750.0 * GAS_CONSTANT, (0.0, 1e6)),
    ("reaction_heat_J_per_mol", 50_000.0, (-1e7, 1e7)),
    ("feed_concentration_mol_per_L", 1.0, (0.0, 1e3)),
    ("jacket_volume_L", 10.0, (1e-3, 1e9)),
    ("observer_s", 60.0, (1.0, 1e6)),
    ("conversion", 0.5, (0.0, 1.0)),
    ("temperature_degC", 76.85, (-50.0, 400.0)),
    ("coolant_outlet_temperature_degC", 26.85, (-100.0, 400.0)),
    ("feed_flow_L_per_min", 100.0, (0.0, 1e6)),
    ("feed_temperature_degC", 76.85, (-100.0, 400.0)),
    ("coolant_flow_L_per_min", 87.1866, (0.0, 1e6)),
    ("coolant_temperature_degC", 20.0, (-100.0, 400.0)),
)
VOLUME, HEAT_CAPACITY, TRANSFER, FREQUENCY, ENERGY, HEAT, FEED_CONCENTRATION, JACKET_VOLUME, OBSERVER = range(9)

# The integrator, the same text in every model: see tests/kernels/test_models_common.py.
STEP_MAX_S = 1.0
#: A model coasts no longer than this through a time without readings, and not in more steps.
COAST_MAX_S = 3600.0
STEPS_MAX = 10_000


@jit
def rate_constant(t_degC: float, p: Floats) -> float:
    """k in 1/s."""
    return float(min(p[FREQUENCY] * math.exp(-p[ENERGY] / (GAS_CONSTANT * (t_degC + KELVIN))), RATE_MAX))


@jit
def per_s(flow_L_per_min: float, volume_L: float) -> float:
    """How often a flow exchanges a volume, 1/s."""
    return min(max(flow_L_per_min, 0.0) / (60.0 * volume_L), RATE_MAX)


@jit
def rates(x: Floats, u: Floats, p: Floats, dx: Floats) -> None:
    """Time derivatives of the states, per s."""
    measured = not math.isnan(u[0, T_IN])
    t = u[0, T_IN] if measured else x[TEMPERATURE]
    k = rate_constant(t, p)
    slope = k * p[ENERGY] / (GAS_CONSTANT * (t + KELVIN) * (t + KELVIN))
    feed = per_s(u[0, FEED_IN], p[VOLUME])
    coolant = per_s(u[0, COOLANT_IN], p[JACKET_VOLUME])
    warmth = x[TEMPERATURE] - x[JACKET]
    reaction = k * (1.0 - x[CONVERSION])
    dx[CONVERSION] = reaction - feed * x[CONVERSION]
    dx[TEMPERATURE] = (
        feed * (u[0, FEED_T_IN] - x[TEMPERATURE])
        + p[HEAT] * p[FEED_CONCENTRATION] / p[HEAT_CAPACITY] * reaction
        - min(p[TRANSFER] / (p[VOLUME] * p[HEAT_CAPACITY]), RATE_MAX) * warmth
    )
    dx[JACKET] = (
        coolant * (u[0, COOLANT_T_IN] - x[JACKET])
        + min(p[TRANSFER] / (p[JACKET_VOLUME] * COOLANT_J_PER_L_K), RATE_MAX) * warmth
    )
    if measured:
        dx[TEMPERATURE] += (t - x[TEMPERATURE]) / p[OBSERVER]
    if not math.isnan(u[0, JACKET_IN]):
        dx[JACKET] += (u[0, JACKET_IN] - x[JACKET]) / p[OBSERVER]
    dx[DEVIATION] = slope * (1.0 - x[CONVERSION]) * u[1, T_IN] - (k + feed) * x[DEVIATION]


@jit
def fastest(x: Floats, u: Floats, p: Floats) -> float:
    """An upper bound of how fast anything moves, 1/s: the step is chosen by it."""
    t = x[TEMPERATURE] if math.isnan(u[0, T_IN]) else u[0, T_IN]
    k = rate_constant(t, p)
    slope = k * p[ENERGY] / (GAS_CONSTANT * (t + KELVIN) * (t + KELVIN))
    runaway = slope * (1.0 - x[CONVERSION]) * abs(p[HEAT]) * p[FEED_CONCENTRATION] / p[HEAT_CAPACITY]
    exchange = per_s(u[0, FEED_IN], p[VOLUME]) + per_s(u[0, COOLANT_IN], p[JACKET_VOLUME])
    transfer = min(p[TRANSFER] / (p[VOLUME] * p[HEAT_CAPACITY]), RATE_MAX)
    transfer += min(p[TRANSFER] / (p[JACKET_VOLUME] * COOLANT_J_PER_L_K), RATE_MAX)
    return float(k + runaway + exchange + transfer + 1.0 / p[OBSERVER])


@jit
def limit(x: Floats) -> None:
    """Keeps the states where they mean something."""
    x[CONVERSION] = min(max(x[CONVERSION], 0.0), 1.0)
    x[TEMPERATURE] = min(max(x[TEMPERATURE], -100.0), 1000.0)
    x[JACKET] = min(max(x[JACKET], -100.0), 1000.0)
    x[DEVIATION] = min(max(x[DEVIATION], 0.0), 1.0)


# ---- integrator begins
@jit
def advance(x: Floats, u: Floats, p: Floats, dt_s: float, work: Floats) -> None:
    """States `dt_s` later, inputs held: classical Runge–Kutta of fourth order, steps no longer than half of 1/fastest.

    `work`: shape (5, states), scratch.
    """
    left = min(dt_s, COAST_MAX_S)
    shortest = left / STEPS_MAX
    while left > 0.0:
        h = min(left, max(shortest, min(STEP_MAX_S, 0.5 / fastest(x, u, p))))
        rates(x, u, p, work[0])
        for k in range(1, 4):
            weight = h if k == 3 else 0.5 * h
            for c in range(len(x)):
                work[4, c] = x[c] + weight * work[k - 1, c]
            rates(work[4], u, p, work[k])
        for c in range(len(x)):
            x[c] += h / 6.0 * (work[0, c] + 2.0 * work[1, c] + 2.0 * work[2, c] + work[3, c])
        limit(x)
        left -= h


@jit
def fold(x: Floats, u: Floats, p: Floats, rank: I64, dt_s: Floats, entry: I64, entry_rank: I64,
         value: Floats, std: Floats, out: Floats) -> None:  # fmt: skip
    """See `kernels.models.model.Model`."""
    work = np.empty((5, len(x)))
    for i in range(len(dt_s)):
        advance(x, u, p, dt_s[i], work)
        j = entry[i]
        if j != NO_INPUT and entry_rank[i] <= rank[j]:
            rank[j] = entry_rank[i]
            begin(j, value[i], x, u)
            u[0, j] = value[i]
            u[1, j] = std[i]
        out[i] = x


# ---- integrator ends


@jit
def begin(j: int, value: float, x: Floats, u: Floats) -> None:
    """The first estimate of a state is where the state begins."""
    if j == T_IN and math.isnan(u[0, T_IN]):
        x[TEMPERATURE] = value
    if j == JACKET_IN and math.isnan(u[0, JACKET_IN]):
        x[JACKET] = value


MODEL = Model(
    name="cstr",
    states=(
        State(name="conversion", parameter="conversion"),
        State(name="temperature_degC", parameter="temperature_degC"),
        State(name="coolant_outlet_temperature_degC", parameter="coolant_outlet_temperature_degC"),
        State(name="conversion_std"),
    ),
    inputs=(
        Input(name="temperature", unit="degC", span=(-50.0, 400.0), tags=("temperature",), observes="temperature_degC"),
        Input(
            name="feed_flow",
            unit="L/min",
            span=(0.0, 1e6),
            tags=("feed_flow", "flow_rate_feed", "flow_rate", "flow"),
            parameter="feed_flow_L_per_min",
        ),
        Input(
            name="feed_temperature",
            unit="degC",
            span=(-100.0, 400.0),
            tags=("feed_temperature", "temperature_feed", "feed/temperature"),
            parameter="feed_temperature_degC",
        ),
        Input(
            name="coolant_flow",
            unit="L/min",
            span=(0.0, 1e6),
            tags=("coolant_flow", "flow_rate_coolant"),
            parameter="coolant_flow_L_per_min",
        ),
        Input(
            name="coolant_temperature",
            unit="degC",
            span=(-100.0, 400.0),
            tags=("coolant_temperature", "temperature_coolant", "coolant/temperature"),
            parameter="coolant_temperature_degC",
        ),
        Input(
            name="jacket_temperature",
            unit="degC",
            span=(-100.0, 400.0),
            tags=("temperature_jacket", "jacket_temperature", "jacket/temperature", "coolant_outlet_temperature"),
            observes="coolant_outlet_temperature_degC",
        ),
    ),
    parameters=PARAMETERS,
    fold=fold,
    fitted=(Fitted(name="heat_transfer_W_per_K", unit="W/K", span=(0.1, 1e8)),),
    arrhenius=Arrhenius(
        frequency=Fitted(name="frequency_factor_per_s", unit="1/s", span=(1e-3, 1e30)),
        energy=Fitted(name="activation_energy_J_per_mol", unit="J/mol", span=(1e3, 4e5)),
        temperature="temperature_degC",
        gas_constant=GAS_CONSTANT,
        rate_span=(1e-9, RATE_MAX),
    ),
)
