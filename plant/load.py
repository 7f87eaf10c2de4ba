"""Load: many tags with cheap signals (a sine and noise), by both protocols, to see what the system costs."""

import threading
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import numpy as np

from plant.pump import Outside, Summary, Tick, pump
from plant.samples import Protocol, Sample
from plant.sensors import MICROSECOND_NS

PERIOD_S = 300.0


def run_load(
    *,
    mqtt_host: str,
    mqtt_port: int,
    opcua_url: str,
    assets: int = 20,
    tags: int = 50,
    rate_hz: float = 1.0,
    opcua_share: float = 0.5,
    spread: bool = True,
    seconds: float | None = None,
    journal: Path | None = None,
    seed: int = 1,
    subscribers_s: float = 30.0,
    linger_s: float = 5.0,
    patience_s: float = 10.0,
    certificate_dir: Path | None = None,
    stop: threading.Event | None = None,
) -> Summary:
    """Send `assets` × `tags` readings at `rate_hz` and return what was sent.

    `opcua_share` of each asset's tags go by OPC UA. `spread`: assets take turns within the interval; else all of them
    send at once. The rest as in `plant.run.run_plant`.
    """
    names = [f"L{1 + i:03d}" for i in range(assets)]
    by_opcua = round(tags * opcua_share)
    protocols: list[Protocol] = ["opcua" if j >= tags - by_opcua else "mqtt" for j in range(tags)]
    random = np.random.default_rng(seed)
    phases = random.uniform(0.0, 2.0 * np.pi, (assets, tags))

    def samples(i: int, time_ns: int) -> list[Sample]:
        angle = 2.0 * np.pi * (time_ns % round(PERIOD_S * 1e9)) / (PERIOD_S * 1e9)
        truth = 50.0 + 20.0 * np.sin(angle + phases[i])
        values = truth + 0.1 * random.standard_normal(tags)
        source_time_ns = time_ns - time_ns % MICROSECOND_NS
        return [
            Sample(
                asset=names[i],
                tag=f"sensor_{j + 1:03d}",
                unit="%",
                protocol=protocol,
                source_time_ns=source_time_ns,
                value=value,
                truth=true,
            )
            for j, (protocol, value, true) in enumerate(zip(protocols, values.tolist(), truth.tolist(), strict=True))
        ]

    def source(start_ns: int) -> Iterator[Tick]:
        interval_ns = 1e9 / rate_hz
        for n in count() if seconds is None else range(round(seconds * rate_hz)):
            for i in range(assets):
                due_ns = start_ns + round((n + (i / assets if spread else 0.0)) * interval_ns)
                yield Tick(due_ns=due_ns, samples=samples(i, due_ns))

    first = [s for i in range(assets) for s in samples(i, time.time_ns()) if s.protocol == "opcua"]
    outside = Outside(
        mqtt=(mqtt_host, mqtt_port) if by_opcua < tags else None,
        opcua_url=opcua_url if by_opcua else None,
        journal=journal,
        subscribers_s=subscribers_s,
        linger_s=linger_s,
        patience_s=patience_s,
        certificate_dir=certificate_dir,
        stop=stop or threading.Event(),
    )
    return pump(source, first, names, outside)
