"""What the OPC UA connector costs: CPU with 500 sensors at 1 Hz, CPU when nothing changes, and values per CPU second.

KAFKA_BOOTSTRAP=127.0.0.1:9092 .venv/bin/python -m bench.connector_opcua

The server is a process of its own; only the connector's CPU time counts (user and system, of one core). The last row
lets the server's queues fill while the connector is halted, then measures how it drains them.
"""

import json
import os
import signal
import tempfile
import time
from pathlib import Path

import psutil

from tests.connectors.opcua_tools import Bench, ConnectorProcess, ServerProcess, bench, until

ASSETS, TAGS = 50, [f"Tag{i}" for i in range(10)]
SECONDS = int(os.environ.get("SECONDS", "20"))
QUEUED = 120


def cpu_s(connector: ConnectorProcess) -> float:
    """User and system time of the connector so far."""
    times = psutil.Process(connector.process.pid).cpu_times()
    return float(times.user + times.system)


def measure(made: Bench, server: ServerProcess, connector: ConnectorProcess, parts: int) -> dict[str, float]:
    """Load while every variable changes once a second (`parts` 0: while nothing changes)."""
    before_cpu_s, before_s, before = cpu_s(connector), time.monotonic(), made.raw.count()
    frames = len(made.raw.frames)
    if parts:
        server.do("steady", seconds=SECONDS, parts=parts)
    else:
        time.sleep(SECONDS)
    took_s = time.monotonic() - before_s
    return {
        "cpu_percent": 100 * (cpu_s(connector) - before_cpu_s) / took_s,
        "values_per_s": (made.raw.count() - before) / took_s,
        "frames_per_s": (len(made.raw.frames) - frames) / took_s,
    }


def drain(made: Bench, server: ServerProcess, connector: ConnectorProcess) -> dict[str, float]:
    """The server's queues fill while the connector is halted: wall and CPU time to get them into Kafka."""
    connector.process.send_signal(signal.SIGSTOP)
    before, wanted = made.raw.count(), QUEUED * ASSETS * len(TAGS)
    server.do("script", changes=QUEUED, pause_s=0, from_ns=time.time_ns(), step_ns=1_000_000)
    start_s, start_cpu_s = time.monotonic(), cpu_s(connector)
    connector.process.send_signal(signal.SIGCONT)
    until(lambda: made.raw.count() - before >= wanted, 120, "all values")
    took_s, took_cpu_s = time.monotonic() - start_s, cpu_s(connector) - start_cpu_s
    return {"values": wanted, "values_per_s": wanted / took_s, "values_per_cpu_s": wanted / took_cpu_s}


def run(name: str, opcua: str, parts: int) -> None:
    """One row."""
    with tempfile.TemporaryDirectory() as directory, bench(os.environ["KAFKA_BOOTSTRAP"], Path(directory)) as made:
        server = made.server(assets=ASSETS, tags=TAGS)
        connector = made.connector(server, opcua)
        connector.says(f"subscribed to {ASSETS * len(TAGS)} items", 60)
        time.sleep(2)
        found = measure(made, server, connector, parts) if parts >= 0 else drain(made, server, connector)
        connector.stop()
    print(json.dumps({"row": name, **{key: round(value, 2) for key, value in found.items()}}), flush=True)


if __name__ == "__main__":
    run("idle, publishing 100 ms", "", 0)
    run("500 values/s at once, publishing 1 s", "publishing_s = 1.0", 1)
    run("500 values/s at once, publishing 100 ms", "", 1)
    run("500 values/s spread, publishing 100 ms", "", 10)
    run("drain 60,000 queued values", "", -1)
