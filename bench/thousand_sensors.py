"""What the whole system costs at 1,000 sensors and 1 Hz: CPU of every process, in several windows of one run.

    .venv/bin/python -m bench.thousand_sensors [--assets 20] [--tags 50] [--windows 5] [--window-s 20]

Starts real services, connectors and agents, sends the load by MQTT and OPC UA, and lastly compares what was sent with
what InfluxDB holds. "Cores" is processor time over wall time; services and the simulated plant are listed, not added.
"""

import argparse
import json
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import psutil

from audit.compare import compare
from audit.store import Database
from cli.common import configuration, use_environment_of
from cli.local import begin
from cli.processes import processes, twin_command
from runtime.config import Plant
from services import supervisor

SETTLE_S = 10.0


def main() -> None:
    """Run and print a table: cores per process, median and range over the windows."""
    arguments = _arguments()
    with tempfile.TemporaryDirectory(prefix="twin-bench-") as folder:
        run_dir = Path(folder)
        try:
            begin(arguments.config, run_dir)
            use_environment_of(run_dir, override=True)
            _measure(arguments, run_dir)
        finally:
            supervisor.down(run_dir)


def _measure(arguments: argparse.Namespace, run_dir: Path) -> None:
    plant = configuration(arguments.config)
    ours = {p.name for p in processes(plant, run_dir)}
    journal = run_dir / "journal.jsonl"
    seconds = SETTLE_S + arguments.windows * arguments.window_s + 5
    load = subprocess.Popen(
        twin_command(
            "plant", "load", "--run-dir", str(run_dir), "--assets", str(arguments.assets),
            "--tags", str(arguments.tags), "--seconds", str(seconds), "--journal", str(journal),
        ),
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    while not journal.exists() or journal.stat().st_size == 0:
        time.sleep(0.1)
    time.sleep(SETTLE_S)
    cores: dict[str, list[float]] = {}
    for _ in range(arguments.windows):
        for name, used in _window(run_dir, load.pid, arguments.window_s).items():
            cores.setdefault(name, []).append(used)
    load.wait()
    _print(cores, ours, arguments)
    _audit(journal, plant)


def _window(run_dir: Path, load_pid: int, window_s: float) -> dict[str, float]:
    pids = {p.name: [p.pid] for p in supervisor.status(run_dir) if p.pid is not None}
    pids["(plant)"] = [load_pid, *(child.pid for child in psutil.Process(load_pid).children(recursive=True))]
    before, began = {name: _cpu_s(found) for name, found in pids.items()}, time.monotonic()
    time.sleep(window_s)
    took_s = time.monotonic() - began
    return {name: (_cpu_s(found) - before[name]) / took_s for name, found in pids.items()}


def _cpu_s(pids: list[int]) -> float:
    """Processor time of processes together, in s."""
    return sum(sum(psutil.Process(pid).cpu_times()[:2]) for pid in pids)


def _print(cores: dict[str, list[float]], ours: set[str], arguments: argparse.Namespace) -> None:
    sensors = arguments.assets * arguments.tags
    print(f"{sensors} sensors at 1 Hz, {arguments.windows} windows of {arguments.window_s:g} s; % of one core")
    for name, used in cores.items():
        print(_line(name, used), "" if name in ours else " not counted")
    print(_line("sum of ours", [sum(cores[name][i] for name in ours) for i in range(arguments.windows)]))


def _line(name: str, used: list[float]) -> str:
    return f"  {name:12} {100 * statistics.median(used):6.1f}  ({100 * min(used):.1f}…{100 * max(used):.1f})"


def _audit(journal: Path, plant: Plant) -> None:
    influxdb = plant.influxdb
    database = Database(url=influxdb.address, bucket=influxdb.bucket_name, token=influxdb.token)
    report = compare(database, [journal], patience_s=30)
    sent = sum(report.protocols.values())
    print(f"  of {sent} readings: {report.missing} missing, {report.repeated} repeated, {report.altered} altered")
    for name, latency_ms in (("all", report.latency_ms), ("settled", _settled(journal, database))):
        print(f"  latency, {name}: p50 {latency_ms['p50']:.0f} ms, p99 {latency_ms['p99']:.0f} ms")


def _settled(journal: Path, database: Database) -> dict[str, float]:
    """Latency of what was sent after SETTLE_S: agents that have just started must still load their kernels."""
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    begin_ns = min(line["sent_ns"] for line in lines) + int(SETTLE_S * 1e9)
    settled = journal.with_name("settled.jsonl")
    settled.write_text("".join(json.dumps(line) + "\n" for line in lines if line["sent_ns"] >= begin_ns))
    return compare(database, [settled], patience_s=30).latency_ms


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--assets", type=int, default=20)
    parser.add_argument("--tags", type=int, default=50)
    parser.add_argument("--windows", type=int, default=5)
    parser.add_argument("--window-s", type=float, default=20.0)
    parser.add_argument("--config", type=Path, default=None)
    return parser.parse_args()


if __name__ == "__main__":
    main()
