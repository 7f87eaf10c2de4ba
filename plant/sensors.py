"""Sensors of the reactors: what each measures, how noisy it is, how finely it resolves. Same seed, same bits.

Knows the physics' state array, no protocol and no clock (times are passed in).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from plant.physics import CONVERSION, FLOW, JACKET, KELVIN, LEVEL, PH, PRESSURE, TEMPERATURE, Reactors, Vector
from plant.samples import Protocol, Sample

#: A device's clock ticks within so much before the time the reading was due.
JITTER_NS = 500_000
MICROSECOND_NS = 1_000
#: Noise is Gaussian up to so many standard deviations; a transmitter's input filter lets no more through.
NOISE_LIMIT = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensor:
    """One tag that every reactor has. `noise` is a standard deviation, in `unit`; values are rounded to `decimals`.

    `precision_ns` is the finest step of its clock.
    """

    tag: str
    unit: str
    protocol: Protocol
    truth: Callable[[Reactors], Vector]
    noise: float
    decimals: int
    precision_ns: int = MICROSECOND_NS


SENSORS = (
    Sensor(
        tag="temperature",
        unit="degC",
        protocol="mqtt",
        truth=lambda r: r.state[TEMPERATURE] - KELVIN,
        noise=0.1,
        decimals=3,
    ),
    Sensor(
        tag="pressure",
        unit="kPa",
        protocol="mqtt",
        truth=lambda r: r.state[PRESSURE] / 1e3,
        noise=2.0,
        decimals=2,
        precision_ns=1,
    ),
    Sensor(
        tag="temperature_jacket",
        unit="degC",
        protocol="mqtt",
        truth=lambda r: r.state[JACKET] - KELVIN,
        noise=0.1,
        decimals=3,
    ),
    Sensor(tag="flow_rate", unit="L/min", protocol="opcua", truth=lambda r: r.state[FLOW], noise=0.5, decimals=3),
    Sensor(
        tag="flow_rate.sv", unit="L/min", protocol="opcua", truth=lambda r: r.flow_sv_L_per_min, noise=0, decimals=3
    ),
    Sensor(
        tag="temperature.sv", unit="degC", protocol="opcua", truth=lambda r: r.temperature_sv_degC, noise=0, decimals=3
    ),
    Sensor(tag="ph", unit="pH", protocol="opcua", truth=lambda r: r.state[PH], noise=0.02, decimals=4),
    Sensor(tag="level", unit="%", protocol="opcua", truth=lambda r: r.state[LEVEL], noise=0.05, decimals=3),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """What is so in one reactor, whatever its sensors say."""

    temperature_degC: float
    pressure_Pa: float
    flow_rate_L_per_min: float
    conversion: float


class Instruments:
    """The sensors of n reactors, R101 and on."""

    def __init__(self, reactors: int, seed: int) -> None:
        self.assets = tuple(f"R{101 + i}" for i in range(reactors))
        self._random = np.random.default_rng(seed)
        self._noise = np.array([[s.noise] for s in SENSORS])

    def read(self, reactors: Reactors, time_ns: int) -> list[Sample]:
        """One sample of every tag of every reactor, taken just before `time_ns`."""
        shape = (len(SENSORS), len(self.assets))
        truth = np.array([s.truth(reactors) for s in SENSORS])
        noise = np.clip(self._random.standard_normal(shape), -NOISE_LIMIT, NOISE_LIMIT)
        values = (truth + self._noise * noise).tolist()
        jitter = self._random.integers(0, JITTER_NS, shape).tolist()
        truths = truth.tolist()
        return [
            Sample(
                asset=asset,
                tag=sensor.tag,
                unit=sensor.unit,
                protocol=sensor.protocol,
                source_time_ns=_floor(time_ns - jitter[i][j], sensor.precision_ns),
                value=round(values[i][j], sensor.decimals),
                truth=truths[i][j],
            )
            for j, asset in enumerate(self.assets)
            for i, sensor in enumerate(SENSORS)
        ]

    def truths(self, reactors: Reactors) -> dict[str, Truth]:
        """The true state of every reactor."""
        rows = reactors.state[[TEMPERATURE, PRESSURE, FLOW, CONVERSION]].T.tolist()
        return {
            asset: Truth(temperature_degC=t - KELVIN, pressure_Pa=p, flow_rate_L_per_min=f, conversion=x)
            for asset, (t, p, f, x) in zip(self.assets, rows, strict=True)
        }


def _floor(time_ns: int, step_ns: int) -> int:
    return time_ns - time_ns % step_ns
