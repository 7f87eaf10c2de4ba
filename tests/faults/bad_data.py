"""What the rows about bad data share: a device that publishes anything, a forger of records, and what became of it."""

import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import paho.mqtt.client as mqtt
import pandas as pd
from confluent_kafka import Message, Producer

from queries.api import Queries
from runtime.changelog import recover, unpack
from runtime.kafka import client_settings
from runtime.partitions import home_partition
from schemas.quality import Mark
from schemas.records import Rejected
from schemas.topics import CHANGELOGS, MAX_RECORD_BYTES, REJECTED, Topic
from tests.faults.rig import Rig
from tests.faults.system import Load, System
from tests.fuzz.targets import FILTERS

SECOND_NS = 1_000_000_000
ALLOWED_MIB = 50.0
#: The good data among the bad: what these rows are about is not how much of it there is.
LIGHT = Load(assets=4, tags=4, rate_hz=2.0)
STORED_S = 120.0
Place = tuple[str, int, int]


class Device:
    """Publishes to the sensors of one asset, QoS 1; returns when the broker has it."""

    def __init__(self, system: System, asset: str) -> None:
        self._client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=f"device-{asset}-{time.time_ns()}")
        self._client.connect(system.env["MQTT_HOST"], int(system.env["MQTT_PORT"]))
        self._client.loop_start()
        self.asset = asset

    def publish(self, tag: str, payload: bytes | dict[str, Any]) -> None:
        """One message; a mapping goes as JSON (NaN and infinities as Python writes them)."""
        body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        self._client.publish(f"reactor/{self.asset}/sensor/{tag}", body, qos=1).wait_for_publish(60)

    def close(self) -> None:
        """Disconnect."""
        self._client.disconnect()
        self._client.loop_stop()


@contextmanager
def device(system: System, asset: str) -> Iterator[Device]:
    """A device for the block. What it sends is no part of the load, so its lag is nobody's."""
    system.pulse.ignored.add(asset)
    one = Device(system, asset)
    try:
        yield one
    finally:
        one.close()


class Forger:
    """Writes bytes to any topic under any key, and knows where Kafka put them: `places` → the bytes."""

    def __init__(self, system: System) -> None:
        self._kafka = system.plant.kafka
        self._producer = Producer({**client_settings(self._kafka), "message.max.bytes": MAX_RECORD_BYTES})
        self.places: dict[Place, bytes] = {}

    def write(self, topic: Topic, key: str, value: bytes, partition: int | None = None) -> None:
        """Hand over one record; by default for the partition where the key is at home."""
        home = home_partition(key.encode(), self._kafka.partitions) if partition is None else partition

        def delivered(error: Any, message: Message) -> None:
            assert error is None, error
            self.places[message.topic(), message.partition(), message.offset()] = value

        self._producer.produce(topic.full_name(self._kafka.prefix), value, key.encode(), home, on_delivery=delivered)
        self._producer.poll(0)

    def flush(self) -> None:
        """Return when Kafka has everything."""
        assert self._producer.flush(60) == 0


def rejected(system: System) -> list[Rejected]:
    """All rejected records."""
    return [record for record in system.records(REJECTED) if isinstance(record, Rejected)]


def refused_payloads(system: System, asset: str) -> dict[bytes, str]:
    """What the MQTT connector refused of an asset: the bytes, and why."""
    return {r.payload: r.reason for r in rejected(system) if r.stage == "connector.mqtt" and r.asset == asset}


def stored(system: System, asset: str, tag: str) -> pd.DataFrame:
    """All readings of a tag that came, without rows for missing ones."""
    with Queries(system.plant.influxdb) as queries:
        found = queries.range(asset, tag, -(2**63) + 2, 2**63 - 2)
    return found[(found["mark"] & int(Mark.IMPUTED)) == 0]


def wait_stored(rig: Rig, system: System, asset: str, tag: str, count: int) -> pd.DataFrame:
    """The readings of a tag, once there are so many; more or fewer is a failure."""
    rig.wait_for(
        lambda: len(stored(system, asset, tag)) >= count, f"{count} readings of {asset}/{tag} stored", STORED_S
    )
    found = stored(system, asset, tag)
    rig.require(len(found) == count, f"{count} readings of {asset}/{tag} are stored: {len(found)}")
    return found


def require_finite_filters(rig: Rig, system: System, assets: set[str]) -> None:
    """No filter's memory in any state row holds NaN or an infinity, and the assets are among the rows."""
    kafka = system.plant.kafka
    for topic in CHANGELOGS:
        name_in_kafka = topic.full_name(kafka.prefix)
        rows: dict[bytes, bytes] = {}

        def has_all(name_in_kafka: str = name_in_kafka, rows: dict[bytes, bytes] = rows) -> bool:
            rows |= recover(kafka, name_in_kafka, range(kafka.partitions), lambda _: None).rows
            return assets <= {key.decode() for key in rows}

        rig.wait_for(has_all, f"{topic.name} has a state of each of {sorted(assets)}", STORED_S)
        for key, data in rows.items():
            columns = unpack(data).state.columns
            for name in FILTERS[topic.name]:
                if name in columns:
                    rig.require(np.isfinite(columns[name]).all(), f"{topic.name}: {name} of {key.decode()} is finite")


@contextmanager
def little_memory(rig: Rig, system: System) -> Iterator[None]:
    """Require that no process takes more than 50 MiB more than before the block, and that none is started again."""
    rig.wait_for(system.resources.memory_mib, "memory is sampled", 30)
    before_mib, pids = dict(system.resources.memory_mib()), system.pids()
    most_before = {name: system.resources.uses[name].rss_max_mib for name in before_mib}
    yield
    grown = {n: round(system.resources.uses[n].rss_max_mib - before_mib[n], 1) for n in before_mib}
    rig.note("memory grown by (MiB)", {n: g for n, g in grown.items() if most_before[n] < before_mib[n] + g})
    for name, mib in grown.items():
        rig.require(mib <= ALLOWED_MIB, f"{name} takes at most {ALLOWED_MIB:g} MiB more: {mib} MiB")
    rig.require(system.pids() == pids, f"every process lives on: {system.pids()}, before {pids}")


def hexadecimal(value: float) -> str:
    """A double by its bits, for comparing −0.0 and denormals; NaN is NaN."""
    return "nan" if math.isnan(value) else float(value).hex()
