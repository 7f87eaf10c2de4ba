"""What the sink costs and how fast it is: `python -m bench.sink [--seconds 20] [--burst 300000]`.

Needs Kafka and InfluxDB (KAFKA_BOOTSTRAP and INFLUX_* as `twin env` prints them, but in INFLUX_TOKEN the operator's,
which is in influxdb/credentials.json of the run folder); topics and a bucket of its own are made and both are deleted
at the end. The sink runs as a process of its own.

- paced: 3 assets × 8 tags at 10 Hz (240 readings/s), 10 × 100 at 1 Hz and 125 × 8 at 1 Hz (1,000 readings/s), each
  frame with a twin state as the twin would write it. Latency is from handing a frame to Kafka until InfluxDB's answer
  (the frame's `reactor_frame`); CPU is the process's own, user and system, first of all with nothing to do.
- burst: frames of 500 readings wait in Kafka; the time runs from the first confirmation to the last.
- building: lines per second of `store/line_protocol.py` alone, for small and large frames.
"""

import argparse
import json
import os
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import psutil
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient

from queries.influxql import InfluxQL
from runtime.config import Influxdb, Kafka, Plant
from runtime.kafka import client_settings, create_topics
from schemas.codec import encode
from schemas.frames import EstimateFrame
from schemas.records import TwinState, Variable
from schemas.topics import ESTIMATES, STATE
from store.line_protocol import reading_lines

CODE = (
    "import sys; from agents.sink import run; from runtime import logs; from runtime.config import Plant; "
    "logs.configure('sink', 30); sys.exit(run(Plant.model_validate_json(sys.argv[1])))"
)
RANDOM = np.random.default_rng(0)


def frame(asset: str, seq: int, tags: int, readings: int) -> EstimateFrame:
    """A frame as estimation writes it, taken in now."""
    now_ns = time.time_ns()

    def noise() -> Any:
        return RANDOM.normal(0, 1, readings)

    return EstimateFrame(
        asset=asset,
        source="bench",
        epoch=1,
        seq=seq,
        time_ns=now_ns,
        tags=tuple(f"temperature_{n}" for n in range(tags)),
        units=("degC",) * tags,
        tag=(np.arange(readings) % tags).astype("<u2"),
        source_time_ns=now_ns - 10_000_000 + np.arange(readings) // tags,
        server_time_ns=np.zeros(readings, "<i8"),
        arrival_time_ns=np.full(readings, now_ns),
        value=85 + noise(),
        status=np.zeros(readings, "<u4"),
        mark=np.zeros(readings, "u1"),
        flag=np.ones(readings, "u1"),
        tests=np.zeros(readings, "<u4"),
        ordinal=np.zeros(readings, "u1"),
        estimate=85 + noise(),
        rate=noise(),
        std=abs(noise()),
        innovation=noise(),
        nis=noise() ** 2,
    )


def state(of: EstimateFrame) -> TwinState:
    """A twin state with a variable per tag, two of them modelled."""
    plain = Variable(value=85.1234, rate=0.0123, std=0.123, age_s=0.01, flag=1, unit="degC")
    modelled = Variable(
        value=85.1, rate=0.01, std=0.12, age_s=0.01, flag=1, unit="degC", residual=0.3, rmse=0.4, mae=0.3, r2=0.9
    )
    return TwinState(
        asset=of.asset,
        source=of.source,
        epoch=of.epoch,
        seq=of.seq,
        time_ns=of.time_ns,
        clock_ns=of.time_ns,
        model="batch_reactor",
        variables={tag: modelled if n < 2 else plain for n, tag in enumerate(of.tags)},
        model_states={"conversion": 0.25, "temperature_degC": 85.0},
        prediction={"conversion": 0.26, "temperature_degC": 85.5},
        newest_age_s=0.01,
        coverage=1.0,
        latency_ms=12.0,
        connections={"bench": True},
        readings=of.seq,
    )


@contextmanager
def sink_process(plant: Plant) -> Iterator[psutil.Process]:
    """The sink, stopped at the end."""
    child = subprocess.Popen([sys.executable, "-c", CODE, plant.model_dump_json()])
    try:
        yield psutil.Process(child.pid)
    finally:
        child.terminate()
        child.wait(30)


@contextmanager
def bucket(influxdb: Influxdb) -> Iterator[Influxdb]:
    """A bucket of this run, deleted at the end."""
    name = f"bench-{uuid.uuid4().hex[:8]}"
    org_id = _call(influxdb, "GET", f"/api/v2/orgs?org={influxdb.organisation}")["orgs"][0]["id"]
    made = _call(influxdb, "POST", "/api/v2/buckets", {"orgID": org_id, "name": name, "retentionRules": []})
    try:
        yield influxdb.model_copy(update={"bucket": name})
    finally:
        _call(influxdb, "DELETE", f"/api/v2/buckets/{made['id']}")


def _call(influxdb: Influxdb, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
    headers = {"Authorization": f"Token {influxdb.token}", "Content-Type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(influxdb.address + path, data, headers, method=method)
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as answer:
        text = answer.read()
    return json.loads(text) if text else None


def confirmed(influxdb: Influxdb, prefix: str) -> list[tuple[float, int, int]]:
    """(latency in ms, time of storage in ns, readings) of every frame of the assets with this prefix."""
    client = InfluxQL(influxdb, 60.0)
    query = 'SELECT "seq", "stored_ns", "readings", "reactor_id" FROM "reactor_frame"'
    rows = client.select(query, {}, {"seq": "int", "stored_ns": "int", "readings": "int", "reactor_id": "str"})
    rows = rows[rows["reactor_id"].str.startswith(prefix)]
    sent = rows["time"] - rows["seq"] % 1_000_000
    return list(zip((rows["stored_ns"] - sent) / 1e6, rows["stored_ns"], rows["readings"], strict=True))


def wait_for(influxdb: Influxdb, prefix: str, frames: int, timeout_s: float = 300.0) -> list[tuple[float, int, int]]:
    """Wait until so many frames are confirmed."""
    until = time.monotonic() + timeout_s
    while len(found := confirmed(influxdb, prefix)) < frames:
        if time.monotonic() > until:
            raise TimeoutError(f"{len(found)} of {frames} frames were stored")
        time.sleep(0.5)
    return found


def send(producer: Producer, plant: Plant, whole: EstimateFrame, partition: int) -> None:
    """A frame and the state that follows it."""
    key = whole.asset.encode()
    producer.produce(ESTIMATES.full_name(plant.kafka.prefix), encode(whole), key, partition)
    producer.produce(STATE.full_name(plant.kafka.prefix), encode(state(whole)), key, partition)


class Load(NamedTuple):
    """So many assets with so many tags, each at `hz`."""

    name: str
    assets: int
    tags: int
    hz: float


LOADS = (Load("slow", 3, 8, 10.0), Load("wide", 10, 100, 1.0), Load("many", 125, 8, 1.0))


def paced(plant: Plant, process: psutil.Process, load: Load, seconds: float) -> None:
    """Frames at a steady rate, assets evenly spread over the interval."""
    name, assets, tags, hz = load
    producer = Producer({**client_settings(plant.kafka), "linger.ms": 0})
    started, cpu = time.monotonic(), _cpu_s(process)
    count = round(seconds * hz) * assets
    for n in range(count):
        time.sleep(max(0.0, started + n / (hz * assets) - time.monotonic()))
        send(producer, plant, frame(f"{name}{n % assets}", n // assets, tags, tags), n % plant.kafka.partitions)
        producer.poll(0)
    used = (_cpu_s(process) - cpu) / (time.monotonic() - started)
    producer.flush(10)
    latencies = [row[0] for row in wait_for(plant.influxdb, name, count)]
    p50, p99 = np.percentile(latencies, (50, 99))
    print(
        f"{assets * tags * hz:,.0f} readings/s in {assets * hz:g} frames/s: p50 {p50:.0f} ms, p99 {p99:.0f} ms, "
        f"{used:.1%} of a core"
    )


def burst(plant: Plant, readings: int) -> None:
    """Frames that wait in Kafka, drained by a fresh sink."""
    producer = Producer({**client_settings(plant.kafka), "queue.buffering.max.kbytes": 1_000_000})
    count = readings // 500
    for n in range(count):
        send(producer, plant, frame(f"burst{n % 16}", n // 16, 100, 500), n % plant.kafka.partitions)
        producer.poll(0)
    producer.flush(60)
    with sink_process(plant) as process:
        found = sorted(row[1:] for row in wait_for(plant.influxdb, "burst", count))
        seconds = (found[-1][0] - found[0][0]) / 1e9
        stored = sum(n for _, n in found[1:])
        print(f"burst: {stored / seconds:,.0f} readings/s stored, CPU {_cpu_s(process):.1f} s in all, {seconds:.1f} s")


def idle(process: psutil.Process) -> None:
    """What it costs to wait."""
    before = _cpu_s(process)
    time.sleep(5.0)
    print(f"idle: {(_cpu_s(process) - before) / 5.0:.1%} of a core")


def building() -> None:
    """Line protocol alone."""
    for readings in (8, 100, 5000):
        whole, rounds = frame("R101", 0, 8, readings), max(1, 200_000 // readings)
        begun = time.perf_counter()
        for _ in range(rounds):
            reading_lines(whole)
        print(f"building: {rounds * readings / (time.perf_counter() - begun):,.0f} lines/s, {readings} per frame")


@contextmanager
def topics() -> Iterator[Kafka]:
    """Topics of this run, deleted at the end."""
    kafka = Kafka(prefix=f"bench-{uuid.uuid4().hex[:8]}", partitions=4)
    names = create_topics(kafka)
    try:
        yield kafka
    finally:
        admin = AdminClient(client_settings(kafka))  # it must live until the results are there
        for deleted in admin.delete_topics(names).values():
            deleted.result()


def _cpu_s(process: psutil.Process) -> float:
    used = process.cpu_times()
    return float(used.user + used.system)


def main() -> None:
    """All of it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--burst", type=int, default=300_000)
    options = parser.parse_args()
    if options.burst < 50_000:
        parser.error("--burst: at least 50000, or there is one request and no time between requests")
    os.environ.pop("INFLUX_TOKENS_DIR", None)  # those tokens know nothing of our bucket
    building()
    with topics() as kafka, bucket(Influxdb()) as influxdb:
        plant = Plant(kafka=kafka, influxdb=influxdb)
        burst(plant, options.burst)
        with sink_process(plant) as process:
            time.sleep(5.0)  # joins its group
            idle(process)
            for load in LOADS:
                paced(plant, process, load, options.seconds)


if __name__ == "__main__":
    main()
