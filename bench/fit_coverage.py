"""Does the truth lie in the 95 % intervals of `twin fit`? A hundred runs of the simulated plant and of wandering tags.

    .venv/bin/python -m bench.fit_coverage [--runs 100] [--report fit_coverage.json]

Reactor: `plant.physics` with heat transfer, frequency factor and activation energy drawn anew for every run, its
sensors' noise of the run's seed; U, A and E are fitted from 900 s of it, the conversion at the beginning unknown. Begun
late: the same without the first 30 s. Isothermal: a batch held at 85 degC from its known start on, which tells U and k,
so A with E known; with another start it would have given off as much heat with another U.
Noise, measured: r of the plant's sensors, of which the truth is known, q is not. Noise, both: q and r of tags whose
state moves as the filter supposes. Exits non-zero where fewer than 90 of 100 intervals hold the truth.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy.stats import binomtest

from kernels import kalman
from kernels.models import MODELS
from plant.physics import Constants, Reactors
from plant.sensors import SENSORS, Instruments
from replay.fit.noise import fit_noise
from replay.fit.reactor import ReactorFit, fit_reactor
from replay.fit.reactor_span import Signal, Span, span_of

Floats = NDArray[np.float64]
I64 = NDArray[np.int64]

SECOND_NS = 1_000_000_000
START_NS = 1_735_689_600 * SECOND_NS
SPAN_S, STEP_S, READ_EVERY = 900.0, 0.1, 5
LATE_S = 30.0
HELD_AT_LEAST = 0.9
MODEL = MODELS["batch_reactor"]
#: What the configuration says before the fit, for every run: the chapter's values, not the run's.
BEFORE = MODEL.values({})
STATES = {"temperature": 1, "temperature_jacket": None, "pressure": None}
#: Sensors that are slow beside their noise; a filter with constant rate can follow them.
MEASURED = ("temperature", "temperature_jacket", "pressure", "ph", "level")
U, A, E = "heat_transfer_W_per_m2_K", "frequency_factor_per_s", "activation_energy_J_per_mol"
Q_TRUE, R_TRUE, WANDER_N = 1e-3, 0.25, 600


@dataclass(frozen=True, slots=True, kw_only=True)
class Batches:
    """`n` batches, each with parameters of its own: readings (tags, times, n) and the time of each reading."""

    truth: dict[str, Floats]
    readings: dict[str, Floats]
    time_ns: dict[str, I64]


def batches(runs: int, seed: int = 0) -> Batches:
    """Runs the plant once with as many reactors as there are runs; their constants are arrays, one value for each."""
    random = np.random.default_rng(seed)
    truth = {
        "heat_transfer_W_per_m2_K": random.uniform(300.0, 700.0, runs),
        "activation_energy_J_per_mol": random.uniform(70_000.0, 90_000.0, runs),
    }
    # k at 85 degC between 0.004 and 0.02 per s: half-lives of 35 s to 3 min.
    at = 8.314 * 358.15
    truth["frequency_factor_per_s"] = random.uniform(0.004, 0.02, runs) * np.exp(
        truth["activation_energy_J_per_mol"] / at
    )
    plant = Reactors(runs, cast(Any, Constants)(reaction_heat_J_per_kg=60_000.0, **truth))
    instruments = Instruments(runs, seed)
    steps = round(SPAN_S / STEP_S)
    rows: list[list[float]] = []
    times: list[list[int]] = []
    for n in range(steps + 1):
        if n:
            plant.step(STEP_S)
        if n % READ_EVERY == 0:
            read = instruments.read(plant, START_NS + round(n * STEP_S * 1e9))
            rows.append([cast(float, s.value) for s in read])
            times.append([s.source_time_ns for s in read])
    value = np.array(rows).reshape(-1, runs, len(SENSORS))
    time_ns = np.array(times).reshape(-1, runs, len(SENSORS))
    return Batches(
        truth=truth,
        readings={s.tag: value[:, :, i] for i, s in enumerate(SENSORS)},
        time_ns={s.tag: time_ns[:, :, i] for i, s in enumerate(SENSORS)},
    )


def span(data: Batches, run: int, late_s: float = 0.0) -> Span:
    """One batch as its model sees it; without its first `late_s` s."""
    signals = []
    for sensor in SENSORS:
        entry, rank = MODEL.input_of(sensor.tag, {})
        if sensor.tag in STATES:
            factor = 1e3 if sensor.unit == "kPa" else 1.0
            first = round(late_s / STEP_S / READ_EVERY)
            signals.append(
                Signal(
                    tag=sensor.tag,
                    entry=entry,
                    rank=rank,
                    state=STATES[sensor.tag],
                    time_ns=data.time_ns[sensor.tag][first:, run].copy(),
                    value=factor * data.readings[sensor.tag][first:, run],
                    std=factor * sensor.noise,
                )
            )
    return span_of(f"R{101 + run}", MODEL, signals)


def reactor_fit(data: Batches, run: int, late_s: float = 0.0) -> ReactorFit:
    """U, A and E of one batch; the heat of reaction is known."""
    return fit_reactor(MODEL, [span(data, run, late_s)], [{**BEFORE, "reaction_heat_J_per_kg": 60_000.0}])


def isothermal_fit(seed: int) -> ReactorFit:
    """A batch with the chapter's parameters whose jacket holds it at 85 degC to the mK, read for 600 s."""
    random, time_s = np.random.default_rng(seed), np.arange(0.0, 600.0, 0.5)
    k = BEFORE[A] * np.exp(-BEFORE[E] / (8.314 * 358.15))
    given = {**BEFORE, "reaction_heat_J_per_kg": 50_000.0}
    heat_W = given["mass_kg"] * given["reaction_heat_J_per_kg"] * k * np.exp(-k * time_s)
    values = {"temperature": np.full(len(time_s), 85.0), "temperature_jacket": 85.0 - heat_W / (BEFORE[U] * 10.0)}
    signals = []
    for tag, value in values.items():
        entry, rank = MODEL.input_of(tag, {})
        read = value + random.normal(0.0, 0.1, len(time_s))
        time_ns = (time_s * 1e9).astype(np.int64)
        signals.append(Signal(tag=tag, entry=entry, rank=rank, state=STATES[tag], time_ns=time_ns, value=read, std=0.1))
    return fit_reactor(MODEL, [span_of("R1", MODEL, signals)], [given], starts_known=True)


def noise_settings(q: float, r: float, white: bool) -> Floats:
    """A filter's row of settings, with the built-in gate."""
    s = np.full(kalman.SETTINGS, np.nan)
    s[[kalman.Q, kalman.R, kalman.WHITE, kalman.DOUBT_FACTOR]] = q, r, float(white), 10.0
    s[[kalman.INITIAL, kalman.GATE, kalman.LIMIT, kalman.DRIFT_DELTA, kalman.EXACT]] = 2.0 * r, 25.0, 5, 0.5, 0.0
    return s


def wandering(seed: int, white: bool) -> tuple[I64, Floats]:
    """Times 0.2…2 s apart, and readings of a state that moves as the filter supposes."""
    random = np.random.default_rng(seed)
    dt = random.uniform(0.2, 2.0, WANDER_N)
    x, z = np.array([85.0, 0.0]), np.empty(WANDER_N)
    for i, d in enumerate(dt):
        noise = np.array([[d**3 / 3, d**2 / 2], [d**2 / 2, d]]) if white else np.eye(2)
        x = np.array([x[0] + d * x[1], x[1]]) + np.linalg.cholesky(Q_TRUE * noise) @ random.normal(size=2)
        z[i] = x[0] + np.sqrt(R_TRUE) * random.normal()
    return np.cumsum((dt * SECOND_NS).astype(np.int64)), z


#: What is counted: name, and for each run whether the interval holds the truth.
Held = dict[str, list[bool]]


def reactor_coverage(data: Batches, runs: Sequence[int], late_s: float = 0.0) -> tuple[Held, dict[str, int]]:
    """U, A and E; and how often each was not determined, which counts as not held."""
    held: Held = {name: [] for name in data.truth}
    kept = dict.fromkeys(data.truth, 0)
    for run in runs:
        fit = reactor_fit(data, run, late_s)
        for name, truth in data.truth.items():
            interval = fit.parameters[name]
            # An interval that is open because nothing is known holds no truth worth counting.
            found = name in fit.determined
            held[name].append(found and bool(interval.low <= truth[run] <= interval.high))
            kept[name] += not found
    return held, kept


def isothermal_coverage(runs: Sequence[int]) -> Held:
    """U, and A with E kept."""
    held: Held = {U: [], A: []}
    for run in runs:
        fit = isothermal_fit(run)
        for name, of in held.items():
            interval = fit.parameters[name]
            of.append(name in fit.determined and bool(interval.low <= BEFORE[name] <= interval.high))
    return held


def sensor_coverage(data: Batches, runs: Sequence[int]) -> Held:
    """r of the plant's sensors."""
    held: Held = {}
    for tag in MEASURED:
        sensor = next(s for s in SENSORS if s.tag == tag)
        # What a device rounds away is noise of a twelfth of its step squared.
        truth = sensor.noise**2 + 10.0 ** (-2 * sensor.decimals) / 12.0
        rows = held[f"r of {tag}"] = []
        for run in runs:
            z = data.readings[tag][:, run].copy()
            codes = np.full(len(z), kalman.ACCEPT, np.uint8)
            settings = noise_settings(truth, 10.0 * truth, True)
            fit = fit_noise(codes, data.time_ns[tag][:, run].copy(), z, settings, 2.0)
            rows.append(fit.measurement.low <= truth <= fit.measurement.high)
    return held


def wandering_coverage(runs: Sequence[int]) -> Held:
    """q and r of both forms of the process noise."""
    held: Held = {}
    for white, form in ((False, "identity"), (True, "white acceleration")):
        of_q, of_r = held[f"q, {form}"], held[f"r, {form}"] = [], []
        for run in runs:
            time_ns, z = wandering(run, white)
            codes = np.full(len(z), kalman.ACCEPT, np.uint8)
            fit = fit_noise(codes, time_ns, z, noise_settings(1e-2, 2.0, white), 2.0)
            of_q.append(fit.process.low <= Q_TRUE <= fit.process.high)
            of_r.append(fit.measurement.low <= R_TRUE <= fit.measurement.high)
    return held


def main() -> int:
    """Run, print, write the report; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--report", type=Path, default=None)
    arguments = parser.parse_args()
    runs = range(arguments.runs)
    data, report = batches(arguments.runs), []
    for name, coverage in (
        ("reactor", lambda: reactor_coverage(data, runs)[0]),
        ("reactor, begun late", lambda: reactor_coverage(data, runs, LATE_S)[0]),
        ("reactor, isothermal", lambda: isothermal_coverage(runs)),
        ("plant's sensors", lambda: sensor_coverage(data, runs)),
        ("wandering tags", lambda: wandering_coverage(runs)),
    ):
        began = time.perf_counter()
        held = coverage()
        spent = (time.perf_counter() - began) / len(runs)
        report += list(rows(name, held, spent))
    show(report)
    if arguments.report is not None:
        arguments.report.write_text(json.dumps(report, indent=2) + "\n", "utf-8")
    return int(any(row["held"] < HELD_AT_LEAST * row["runs"] for row in report))


def rows(part: str, held: Held, seconds: float) -> Iterator[dict[str, Any]]:
    """One line of the report for each parameter, with the 95 % interval of the share (Clopper and Pearson)."""
    for name, holds in held.items():
        bounds = binomtest(sum(holds), len(holds)).proportion_ci(0.95)
        yield {
            "part": part,
            "parameter": name,
            "runs": len(holds),
            "held": sum(holds),
            "low": round(float(bounds.low), 3),
            "high": round(float(bounds.high), 3),
            "seconds_per_run": round(seconds, 3),
        }


def show(report: Sequence[dict[str, Any]]) -> None:
    """Print the report."""
    table = Table(title="Truths inside their 95 % intervals")
    for column in ("part", "parameter", "runs", "held", "95 % interval of the share", "s per run"):
        table.add_column(column, justify="left" if column in ("part", "parameter") else "right")
    for row in report:
        share = f"{row['low']:.3f}…{row['high']:.3f}"
        table.add_row(
            row["part"], row["parameter"], str(row["runs"]), str(row["held"]), share, str(row["seconds_per_run"])
        )
    Console(width=None if sys.stdout.isatty() else 140).print(table)


if __name__ == "__main__":
    sys.exit(main())
