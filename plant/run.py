"""`twin plant run`: reactors with their sensors, faults and outlets, in real time."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import Any

from plant.faults import Fault, Injector, check
from plant.physics import Reactors
from plant.pump import Outside, Summary, Tick, pump
from plant.script import CYCLE_S, demo_script
from plant.sensors import SENSORS, Instruments


def run_plant(
    *,
    mqtt_host: str,
    mqtt_port: int,
    opcua_url: str,
    reactors: int = 3,
    rate_hz: float = 10.0,
    seconds: float | None = None,
    journal: Path | None = None,
    faults: Sequence[Fault] | None = None,
    seed: int = 1,
    on_sample: Callable[[Tick], None] | None = None,
    subscribers_s: float = 30.0,
    linger_s: float = 5.0,
    certificate_dir: Path | None = None,
    stop: threading.Event | None = None,
    stop_when: Callable[[], bool] | None = None,
) -> Summary:
    """Run the plant for `seconds` (None: until SIGTERM, SIGINT or `stop`) and return what was sent.

    `faults`: a script, () for none, None for the demo's script fitted to the time. `on_sample` gets every tick as it is
    sent, with the truth. The rest as in `plant.pump.Outside`. Raises ValueError for a script that does not fit the
    plant, OutletError when broker or server cannot be used.
    """
    instruments = Instruments(reactors, seed)
    script = demo_script(instruments.assets, seconds) if faults is None else tuple(faults)
    check(script, {(asset, s.tag): s.protocol for asset in instruments.assets for s in SENSORS})
    injector = Injector(script, cycle_s=CYCLE_S if faults is None and seconds is None else None)
    plant = Reactors(reactors)
    first = [s for s in instruments.read(plant, time.time_ns()) if s.protocol == "opcua"]

    def source(start_ns: int) -> Iterator[Tick]:
        for tick in _ticks(plant, instruments, injector, start_ns=start_ns, rate_hz=rate_hz, seconds=seconds):
            if on_sample is not None:
                on_sample(tick)
            yield tick

    outside = Outside(
        mqtt=(mqtt_host, mqtt_port),
        opcua_url=opcua_url,
        journal=journal,
        subscribers_s=subscribers_s,
        linger_s=linger_s,
        certificate_dir=certificate_dir,
        stop_when=stop_when,
        stop=stop or threading.Event(),
    )
    return pump(source, first, instruments.assets, outside, lambda: _what_is_held_back(injector))


def _ticks(
    plant: Reactors,
    instruments: Instruments,
    injector: Injector,
    *,
    start_ns: int,
    rate_hz: float,
    seconds: float | None,
) -> Iterator[Tick]:
    """One tick per sampling interval."""
    interval_s = 1.0 / rate_hz
    truth_every = max(1, round(rate_hz))
    for n in count(1):
        if seconds is not None and n > round(seconds * rate_hz):
            break
        plant.step(interval_s)
        due_ns = start_ns + round(n * interval_s * 1e9)
        samples = injector.apply(instruments.read(plant, due_ns), n * interval_s)
        truths = instruments.truths(plant)
        events: list[dict[str, Any]] = injector.events()
        if n % truth_every == 0:
            events += [{"event": "truth", "asset": a, "time_ns": due_ns, **asdict(t)} for a, t in truths.items()]
        yield Tick(due_ns=due_ns, samples=samples, events=events, truths=truths)


def _what_is_held_back(injector: Injector) -> Tick:
    return Tick(due_ns=None, samples=injector.rest(), events=injector.events())
