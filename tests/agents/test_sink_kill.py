"""The sink as a process, killed with -9 around the moment InfluxDB has answered."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from confluent_kafka import Producer

from queries.api import Queries
from runtime.config import Plant
from runtime.kafka import client_settings, create_topics
from schemas.codec import encode
from schemas.topics import ESTIMATES
from services.influxdb import InfluxDB
from tests.agents.fault_proxy import FaultProxy, fault_proxy
from tests.agents.sink_samples import START_NS, frame, plant_with_bucket

pytestmark = [pytest.mark.services, pytest.mark.kill]
CODE = (
    "import sys; from agents.sink import run; from runtime import logs; from runtime.config import Plant; "
    "logs.configure('sink'); sys.exit(run(Plant.model_validate_json(sys.argv[1])))"
)
READINGS, FRAMES = 40, 60
VALUES = np.random.default_rng(2).normal(85.0, 1.0, FRAMES * READINGS)


@contextmanager
def sink_process(plant: Plant) -> Iterator["subprocess.Popen[bytes]"]:
    """A sink, stopped at the end if it still runs."""
    process = subprocess.Popen([sys.executable, "-c", CODE, plant.model_dump_json()])
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(20)


def produce(plant: Plant, first: int, last: int) -> None:
    """Frames of one asset, in order; a frame's readings follow those of the one before."""
    producer = Producer({**client_settings(plant.kafka), "enable.idempotence": True})
    for seq in range(first, last):
        values = VALUES[seq * READINGS : (seq + 1) * READINGS]
        whole = frame(values, seq=seq, start_ns=START_NS + seq * READINGS * 1_000_000)
        producer.produce(ESTIMATES.full_name(plant.kafka.prefix), encode(whole), b"R101", partition=1)
    assert producer.flush(20) == 0


def wait_for(proxy: FaultProxy, requests: int) -> None:
    """Wait until so many requests came."""
    until = time.monotonic() + 60
    while len(proxy.bodies) < requests:
        assert time.monotonic() < until, f"{len(proxy.bodies)} requests came, {requests} were expected"
        time.sleep(0.01)


def test_a_sink_killed_after_the_answer_loses_and_doubles_nothing(kafka: str, influx: InfluxDB, tmp_path: Path) -> None:
    """Killed when InfluxDB has stored a batch but not answered, and when it has answered but nothing is committed."""
    plant = plant_with_bucket(influx, "killed", tmp_path)
    kafka_settings = plant.kafka.model_copy(update={"bootstrap": kafka, "prefix": "sinkkill", "partitions": 2})
    agents = plant.agents.model_copy(update={"checkpoint_s": 5.0})
    with fault_proxy(influx.url) as proxy:
        behind = plant.influxdb.model_copy(update={"url": proxy.url})
        plant = plant.model_copy(update={"kafka": kafka_settings, "influxdb": behind, "agents": agents})
        create_topics(plant.kafka)
        for place, (first, last) in (("before_answer", (0, 20)), ("after_answer", (20, 40))):
            with sink_process(plant) as process:
                proxy.kill_at(place, process)
                produce(plant, first, last)
                assert process.wait(60) == -9
        before = len(proxy.bodies)
        with sink_process(plant) as process:
            wait_for(proxy, before + 1)
            produce(plant, 40, FRAMES)
            wait_until_stored(plant)
            process.terminate()
            assert process.wait(20) == 0
    with Queries(plant.influxdb.model_copy(update={"url": influx.url})) as queries:
        found = queries.range("R101", "temperature", START_NS, START_NS + 10**12)
    assert found["value"].to_numpy().tobytes() == VALUES.tobytes()


def wait_until_stored(plant: Plant) -> None:
    """Wait until InfluxDB has as many readings as were sent."""
    until = time.monotonic() + 60
    with Queries(plant.influxdb) as queries:
        while len(queries.range("R101", "temperature", START_NS, START_NS + 10**12)) < len(VALUES):
            assert time.monotonic() < until, "readings are missing"
            time.sleep(0.2)
