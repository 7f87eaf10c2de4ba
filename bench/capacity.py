"""The highest rate that the whole system sustains on this machine with a lag below 1 s.

    .venv/bin/python -m bench.capacity [--assets 20] [--tags 50] [--first-hz 1] [--window-s 20]

Real services, connectors and agents; half of the tags by MQTT, half by OPC UA. The rate doubles until the system does
not hold it, then the gap is halved. Held: the 99th percentile of the lag of twin and sink, of whichever asset is
furthest behind, is below 1 s, and the plant sent what was asked. Cores are shown for the system, the services and the
plant, and the plant's own rate with nobody listening: where the plant fails first, the figure is a lower bound.

Rows of the table of faults run at half of it: `make faults LOAD=20x50x4` (assets x tags x Hz).
"""

import argparse
import json
import random
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from cli.processes import twin_command
from services import supervisor
from services.processes import free_port
from services.stack import Stack
from tests.faults.rig import Outcome, Rig, TooLate
from tests.faults.system import Load, System, running

LAG_S = 1.0
PLANT_SHARE = 0.98  # of what was asked must have been sent
SETTLE_S = 5.0
SAMPLE_S = 0.25
HALVINGS = 2
ALONE_HZ = 100.0
COLUMNS = ("asked/s", "sent/s", "lag p50", "p99", "max (s)", "cores: system", "services", "plant", "held")


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One rate and how it went. Rates in readings per second, lags in s, cores by who used them."""

    asked_hz: float
    sent_hz: float
    lags_s: list[float]
    cores: dict[str, float]

    @property
    def held(self) -> bool:
        """Whether system and plant kept up."""
        return self.lag_s(0.99) < LAG_S and self.plant_held

    @property
    def plant_held(self) -> bool:
        """Whether the plant sent what was asked."""
        return self.sent_hz >= PLANT_SHARE * self.asked_hz

    def lag_s(self, share: float) -> float:
        """A percentile of the lag; infinite where nothing came through in time."""
        ordered = sorted(self.lags_s)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("inf")


def main() -> None:
    """Print a line per step, then the capacity."""
    arguments = _arguments()
    with tempfile.TemporaryDirectory(prefix="twin-capacity-") as name:
        folder = Path(name)
        rig = Rig(Outcome(row=0, title="capacity", seed=1, short=False), folder, random.Random(1))
        with Stack(folder / "services") as stack:
            alone_hz = _alone_hz(arguments, stack, folder)
            print(f"the plant alone, nobody listening: {alone_hz:,.0f} readings/s")
            print(" ".join(f"{name:>13}" for name in COLUMNS))
            with running(rig, stack, load=None) as system:
                steps = _search(arguments, system)
    held = [step for step in steps if step.held]
    if not held:
        print("no rate was held")
        return
    best = max(held, key=lambda step: step.asked_hz)
    failed = min((s for s in steps if s.asked_hz > best.asked_hz), key=lambda step: step.asked_hz)
    rate_hz = best.asked_hz / arguments.assets / arguments.tags / 2
    print(f"capacity: {'at least ' if not failed.plant_held else ''}{best.asked_hz:,.0f} readings/s")
    print(f"half of it: LOAD={arguments.assets}x{arguments.tags}x{rate_hz:g}")


def _search(arguments: argparse.Namespace, system: System) -> list[Step]:
    steps: list[Step] = []
    rate_hz, low_hz = arguments.first_hz, 0.0
    while not steps or steps[-1].held:
        steps.append(_step(arguments, system, rate_hz))
        rate_hz, low_hz = (2 * rate_hz, rate_hz) if steps[-1].held else (rate_hz, low_hz)
    high_hz = rate_hz
    for _ in range(HALVINGS):
        middle_hz = (low_hz + high_hz) / 2
        steps.append(_step(arguments, system, middle_hz))
        low_hz, high_hz = (middle_hz, high_hz) if steps[-1].held else (low_hz, middle_hz)
    return steps


def _step(arguments: argparse.Namespace, system: System, rate_hz: float) -> Step:
    load = Load(assets=arguments.assets, tags=arguments.tags, rate_hz=rate_hz)
    asked_hz = load.assets * load.tags * rate_hz
    lags_s: list[float] = []
    cores: dict[str, float] = {}
    system.pulse.forget()
    try:
        system.start_load(load)
    except TooLate:
        pass
    else:
        time.sleep(SETTLE_S)
        lags_s, cores = _watch(system, arguments.window_s)
    summary = system.stop_load()
    system.drain()
    sent_hz = sum(summary["sent"].values()) / summary["seconds"]
    step = Step(asked_hz=asked_hz, sent_hz=sent_hz, lags_s=lags_s, cores=cores)
    figures = [
        f"{asked_hz:,.0f}", f"{sent_hz:,.0f}", *(f"{step.lag_s(share):.2f}" for share in (0.5, 0.99, 1.0)),
        *(f"{cores.get(who, 0.0):.2f}" for who in ("system", "services", "plant")), "yes" if step.held else "no",
    ]  # fmt: skip
    print(" ".join(f"{figure:>13}" for figure in figures), flush=True)
    return step


def _watch(system: System, window_s: float) -> tuple[list[float], dict[str, float]]:
    before, began = _cpu_s(system), time.monotonic()
    lags_s = []
    while time.monotonic() - began < window_s:
        lags_s.append(system.lag_s())
        time.sleep(SAMPLE_S)
    took_s = time.monotonic() - began
    return lags_s, {who: (used - before[who]) / took_s for who, used in _cpu_s(system).items()}


def _cpu_s(system: System) -> dict[str, float]:
    """Processor time so far, in s."""
    assert system._load is not None
    services = (system.stack.kafka, system.stack.influxdb, system.stack.mosquitto)
    plant = psutil.Process(system._load.pid)
    pids = {
        "system": [p.pid for p in supervisor.status(system.run_dir) if p.pid is not None],
        "services": [service.pid for service in services],
        "plant": [plant.pid, *(child.pid for child in plant.children(recursive=True))],
    }
    return {who: sum(sum(psutil.Process(pid).cpu_times()[:2]) for pid in found) for who, found in pids.items()}


def _alone_hz(arguments: argparse.Namespace, stack: Stack, folder: Path) -> float:
    """What the plant sends at most, with its broker but without connectors."""
    config = folder / "alone.toml"
    config.write_text('[[opcua]]\nsecurity = "None"\nmode = "None"\n')
    command = twin_command(
        "plant", "load", "--config", str(config), "--assets", str(arguments.assets), "--tags", str(arguments.tags),
        "--rate-hz", str(ALONE_HZ), "--seconds", "5", "--journal", str(folder / "alone.jsonl"),
    )  # fmt: skip
    addresses = {**stack.env, "OPCUA_URL": f"opc.tcp://127.0.0.1:{free_port()}"}
    env = {**psutil.Process().environ(), **addresses, "TWIN_RUN_DIR": str(folder / "nothing")}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    summary = json.loads(done.stdout)
    return float(sum(summary["sent"].values()) / summary["seconds"])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--assets", type=int, default=20)
    parser.add_argument("--tags", type=int, default=50)
    parser.add_argument("--first-hz", type=float, default=1.0)
    parser.add_argument("--window-s", type=float, default=20.0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
