"""The chapter's reactor: a jacketed batch reactor with first-order kinetics.

    k      = A · exp(−E / (R · T)), T in kelvin          k_eff = k · sqrt(P / P_ref), at most RATE_MAX
    dX/dt  = k_eff · (1 − X)
    m·cp · dT/dt = m · H · dX/dt − Q(T) [+ m·cp · (T_est − T) / tau]
    Q(T)   = U·A · (T − T_jacket), or where the jacket is not measured U·A·C / (U·A + C) · (T − T_coolant):
             a well-mixed jacket at rest through which C = flow · 4.186 kJ/(L K) of coolant heat capacity flows
    dS/dt  = dk_eff/dT · (1 − X) · std(T) − k_eff · S    how uncertain X is if T is off by one standard deviation

While the reactor is measured, kinetics take the estimated T and P, and the model's own T is drawn to the estimate
with time constant tau: estimate minus model then shows heat the model does not know of. In a prediction, T is the
model's. May not know: frames, tags, clocks. Jitted functions call only those of this file.
"""

import math

import numpy as np

from kernels.jit import jit
from kernels.models.model import I64, NO_INPUT, Arrhenius, Fitted, Floats, Input, Model, State, parameters

GAS_CONSTANT = 8.314  # J/(mol K), as in the chapter
KELVIN = 273.15
COOLANT_J_PER_L_K = 4186.0

#: No rate constant is greater, 1/s: nothing the plant measures is faster, and RK4 stays stable at its shortest step.
RATE_MAX = 5.0

CONVERSION, TEMPERATURE, DEVIATION = range(3)
T_IN, P_IN, FLOW_IN, JACKET_IN, COOLANT_IN = range(5)

PARAMETERS = parameters(
    ("mass_kg", 1000.0, (1.0, 1e7)),
    ("heat_capacity_J_per_kg_K", 4200.0, (100.0, 1e5)),
    ("heat_transfer_W_per_m2_K", 500.0, (0.0, 1e5)),
    ("area_m2", 10.0, (0.0, 1e5)),
    ("frequency_factor_per_s", 1e10, (0.0, 1e30)),
    ("activation_energy_J_per_mol", 80_000.0, (0.0, 1e6)),
    ("reference_pressure_Pa", 2.5e6, (1.0, 1e9)),
    # A dilute charge: 2.4 K of adiabatic temperature rise. Positive is exothermic.
    ("reaction_heat_J_per_kg", 10_000.0, (-1e7, 1e7)),
    ("observer_s", 60.0, (1.0, 1e6)),
    ("conversion", 0.0, (0.0, 1.0)),
    ("temperature_degC", 85.0, (-50.0, 400.0)),
    ("pressure_Pa", 2.5e6, (0.0, 1e8)),
    ("flow_rate_L_per_min", 120.0, (0.0, 1e6)),
    ("coolant_temperature_degC", 70.0, (-100.0, 400.0)),
)
MASS, HEAT_CAPACITY, TRANSFER, AREA, FREQUENCY, ENERGY, P_REF, HEAT, OBSERVER = range(9)

# The integrator, the same text in every model: see tests/kernels/test_models_common.py.
STEP_MAX_S = 1.0
#: A model coasts no longer than this through a time without readings, and not in more steps.
COAST_MAX_S = 3600.0
STEPS_MAX = 10_000


@jit
def rate_constant(t_degC: float, pressure_Pa: float, p: Floats) -> float:
    """k_eff in 1/s."""
    k = p[FREQUENCY] * math.exp(-p[ENERGY] / (GAS_CONSTANT * (t_degC + KELVIN)))
    return float(min(k * math.sqrt(max(pressure_Pa, 0.0) / p[P_REF]), RATE_MAX))


@jit
def transfer_W_per_K(p: Floats) -> float:
    """U·A, no more than what RATE_MAX allows for."""
    return float(min(p[TRANSFER] * p[AREA], RATE_MAX * p[MASS] * p[HEAT_CAPACITY]))


@jit
def cooling_W(t_degC: float, u: Floats, p: Floats) -> float:
    """Heat that the jacket takes from the charge."""
    transfer = transfer_W_per_K(p)
    if not math.isnan(u[0, JACKET_IN]):
        return float(transfer * (t_degC - u[0, JACKET_IN]))
    coolant = float(max(u[0, FLOW_IN], 0.0) / 60.0 * COOLANT_J_PER_L_K)
    if coolant == 0.0:
        return 0.0
    return float(transfer * coolant / (transfer + coolant) * (t_degC - u[0, COOLANT_IN]))


@jit
def rates(x: Floats, u: Floats, p: Floats, dx: Floats) -> None:
    """Time derivatives of the states, per s."""
    measured = not math.isnan(u[0, T_IN])
    t = u[0, T_IN] if measured else x[TEMPERATURE]
    k = rate_constant(t, u[0, P_IN], p)
    slope = k * p[ENERGY] / (GAS_CONSTANT * (t + KELVIN) * (t + KELVIN))
    dx[CONVERSION] = k * (1.0 - x[CONVERSION])
    heating = p[MASS] * p[HEAT] * dx[CONVERSION]
    dx[TEMPERATURE] = (heating - cooling_W(x[TEMPERATURE], u, p)) / (p[MASS] * p[HEAT_CAPACITY])
    if measured:
        dx[TEMPERATURE] += (t - x[TEMPERATURE]) / p[OBSERVER]
    dx[DEVIATION] = slope * (1.0 - x[CONVERSION]) * u[1, T_IN] - k * x[DEVIATION]


@jit
def fastest(x: Floats, u: Floats, p: Floats) -> float:
    """An upper bound of how fast anything moves, 1/s: the step is chosen by it."""
    t = x[TEMPERATURE] if math.isnan(u[0, T_IN]) else u[0, T_IN]
    k = rate_constant(t, u[0, P_IN], p)
    slope = k * p[ENERGY] / (GAS_CONSTANT * (t + KELVIN) * (t + KELVIN))
    runaway = slope * (1.0 - x[CONVERSION]) * abs(p[HEAT]) / p[HEAT_CAPACITY]
    return float(k + runaway + transfer_W_per_K(p) / (p[MASS] * p[HEAT_CAPACITY]) + 1.0 / p[OBSERVER])


@jit
def limit(x: Floats) -> None:
    """Keeps the states where they mean something."""
    x[CONVERSION] = min(max(x[CONVERSION], 0.0), 1.0)
    x[TEMPERATURE] = min(max(x[TEMPERATURE], -100.0), 1000.0)
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


MODEL = Model(
    name="batch_reactor",
    states=(
        State(name="conversion", parameter="conversion"),
        State(name="temperature_degC", parameter="temperature_degC"),
        State(name="conversion_std"),
    ),
    inputs=(
        Input(name="temperature", unit="degC", span=(-50.0, 400.0), tags=("temperature",), observes="temperature_degC"),
        Input(name="pressure", unit="Pa", span=(0.0, 1e8), tags=("pressure",), parameter="pressure_Pa"),
        Input(
            name="flow_rate",
            unit="L/min",
            span=(0.0, 1e6),
            tags=("flow_rate", "flow", "coolant_flow"),
            parameter="flow_rate_L_per_min",
        ),
        Input(
            name="jacket_temperature",
            unit="degC",
            span=(-100.0, 400.0),
            tags=("temperature_jacket", "jacket_temperature", "jacket/temperature"),
        ),
        Input(
            name="coolant_temperature",
            unit="degC",
            span=(-100.0, 400.0),
            tags=("coolant_temperature", "temperature_coolant", "coolant/temperature"),
            parameter="coolant_temperature_degC",
        ),
    ),
    parameters=PARAMETERS,
    fold=fold,
    fitted=(Fitted(name="heat_transfer_W_per_m2_K", unit="W/(m² K)", span=(0.1, 1e5)),),
    arrhenius=Arrhenius(
        frequency=Fitted(name="frequency_factor_per_s", unit="1/s", span=(1e-3, 1e30)),
        energy=Fitted(name="activation_energy_J_per_mol", unit="J/mol", span=(1e3, 4e5)),
        temperature="temperature_degC",
        gas_constant=GAS_CONSTANT,
        rate_span=(1e-9, RATE_MAX),
    ),
)
