"""Garbage by every way in, through the whole system: what is good goes on, what is not is accounted for."""

import json
import math
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import paho.mqtt.client as mqtt
import pytest
from confluent_kafka import Producer

from queries.api import Queries
from runtime.config import Influxdb
from schemas.codec import MARKER, decode, encode, versions
from schemas.frames import EstimateFrame, Frame, ValidatedFrame, columns_of
from schemas.quality import Flag, Mark, Test
from tests.end_to_end.system_tools import System

pytestmark = [pytest.mark.services, pytest.mark.timeout(300)]

SECOND_NS = 1_000_000_000


@pytest.fixture
def publisher(system: System) -> mqtt.Client:
    """A connected MQTT client whose publishes are confirmed."""
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=f"garbage-{time.time_ns()}")
    client.connect(system.env["MQTT_HOST"], int(system.env["MQTT_PORT"]))
    client.loop_start()
    return client


def publish(client: mqtt.Client, tag: str, payload: bytes | dict[str, Any]) -> None:
    """Publish and wait until the broker has it."""
    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    client.publish(f"reactor/G101/sensor/{tag}", body, qos=1).wait_for_publish(30)


def queries(system: System) -> Queries:
    """Queries of the system's store."""
    env = system.env
    return Queries(Influxdb(url=env["INFLUX_URL"], org=env["INFLUX_ORG"], bucket=env["INFLUX_BUCKET"]))


@pytest.fixture(autouse=True)
def _token(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFLUX_TOKEN", system.env["INFLUX_TOKEN"])


def stored(system: System, tag: str, count: int, timeout_s: float = 60) -> Any:
    """All readings of a tag, once there are `count` of them."""
    deadline = time.monotonic() + timeout_s
    while True:
        with queries(system) as q:
            found = q.range("G101", tag, 0, 9_223_000_000 * SECOND_NS)
        found = found[(found["mark"] & int(Mark.IMPUTED)) == 0]
        if len(found) >= count or time.monotonic() > deadline:
            assert len(found) == count, found
            return found
        time.sleep(0.5)


def rejected(system: System) -> list[dict[str, Any]]:
    """The topic of rejected records, from its beginning."""
    shown = system.twin("tail", "rejected", "--from-start", "--seconds", "6")
    assert shown.returncode == 0, shown.stderr
    return [json.loads(line) for line in shown.stdout.splitlines()]


def test_strange_numbers_and_times_are_stored_with_their_flags(system: System, publisher: mqtt.Client) -> None:
    """NaN, infinities, texts, booleans and extreme numbers are BAD or kept to the bit; estimates stay numbers."""
    now_ns = time.time_ns()
    values: list[tuple[Any, float | None]] = [
        (1.0, 1.0), (-0.0, -0.0), (1e308, 1e308), (5e-324, 5e-324), (2**63, 2.0**63), ("12,5", None), (True, None),
        ("", None), ("🌡", None), (None, None), ("Inp OutRange", None), ("NaN", None), (85.0, 85.0),
    ]  # fmt: skip
    for i, (value, _) in enumerate(values):
        publish(publisher, "strange", {"value": value, "unit": "x", "timestamp": now_ns + i * SECOND_NS // 10})
    found = stored(system, "strange", len(values))
    for (_, expected), (_, row) in zip(values, found.iterrows(), strict=True):
        if expected is None:
            assert row["flag"] == Flag.FAIL
            assert math.isnan(row["value"])
        else:
            assert row["value"].hex() == expected.hex()
    assert math.isfinite(found["estimate"].iloc[-1])


def test_late_repeated_and_wrong_times_are_told_apart(system: System, publisher: mqtt.Client) -> None:
    """A repetition leaves no trace, a late or equal-time reading is stored and flagged, a far future is suspect."""
    base_ns = time.time_ns() // SECOND_NS * SECOND_NS
    sent = [
        (0, 1.0), (1, 2.0), (2, 3.0),
        (1, 2.0),  # repeated
        (1, 2.5),  # the same time, another value
        (-3600, 0.5),  # an hour late
        (3600, 4.0),  # an hour ahead: a clock step
        (3, 3.5),
    ]  # fmt: skip
    for offset_s, value in sent:
        publish(publisher, "clocks", {"value": value, "unit": "x", "timestamp": base_ns + offset_s * SECOND_NS})
    for stamp in ("1970-01-02T00:00:00Z", "2261-12-31T00:00:00Z"):
        publish(publisher, "clocks", {"value": 9.0, "unit": "x", "timestamp": stamp})
    found = stored(system, "clocks", len(sent) - 1 + 2)
    flags = dict(zip(found["value"], found["flag"], strict=True))
    tests = dict(zip(found["value"], found["tests"], strict=True))
    assert flags[1.0] in (Flag.GOOD, Flag.NOT_EVALUATED)
    assert tests[2.5] & Test.LATE
    assert tests[0.5] & Test.LATE
    assert tests[4.0] & Test.TIME
    equal_time = found[found["value"] == 2.5].index[0].value
    assert equal_time == base_ns + SECOND_NS + 1  # stored one nanosecond on, so that neither overwrites the other


def test_damaged_records_on_every_topic_are_rejected_with_a_reason(system: System, publisher: mqtt.Client) -> None:
    """Records that are truncated, flipped, of an unknown schema or with wrong columns, on each stage's topic, end in
    rejected with topic, offset and reason, and a reading published after them is stored."""
    random_ = random.Random(5)
    topics = {"twin.raw": Frame, "twin.validated": ValidatedFrame, "twin.estimates": EstimateFrame}
    producer = Producer({"bootstrap.servers": system.env["KAFKA_BOOTSTRAP"], "partitioner": "murmur2_random"})
    sent = 0
    for topic, frame_type in topics.items():
        for body in damaged(frame_type, random_):
            producer.produce(topic, body, key=b"G101")
            sent += 1
    assert producer.flush(30) == 0
    assert sent == 999
    publish(publisher, "after", {"value": 7.0, "unit": "x", "timestamp": time.time_ns()})
    stored(system, "after", 1)
    records = [r for r in rejected(system) if r["stage"] in ("validation", "estimation", "twin", "sink")]
    places = {(r["topic"], r["partition"], r["offset"]) for r in records}
    assert all(r["reason"] for r in records)
    by_topic = {topic: {p for p in places if p[0] == topic} for topic in topics}
    assert {topic: len(found) for topic, found in by_topic.items()} == dict.fromkeys(topics, 333)
    status = system.twin("status", "--json")
    rows = [json.loads(line) for line in status.stdout.splitlines()]
    assert all(row["restarts"] == 0 for row in rows), rows


def damaged(frame_type: type[Frame], random_: random.Random) -> list[bytes]:
    """333 records that no reader may accept."""
    n = 20
    columns = {name: np.zeros(n, dtype) for name, dtype in columns_of(frame_type).items()}
    good = frame_type(asset="G101", source="s", epoch=1, seq=0, time_ns=1, tags=("t",), units=("",), **columns)
    body = encode(good)
    assert decode(body) == good
    other = next(v for v in versions() if v.name == "Alert")
    found = [
        b"", b"\xc3", body[:9], b"garbage", b"\x00" * 100,
        MARKER + random_.randbytes(8) + body[10:],
        MARKER + other.fingerprint + body[10:],
        body + b"\x00",
    ]  # fmt: skip
    while len(found) < 333:
        found.append(body[: random_.randrange(10, len(body) - 1)])
    return found


def test_configuration_of_another_partition_count_is_refused(system: System, tmp_path: Path) -> None:
    """Topics that exist with another number of partitions are an error that says what to do."""
    other = tmp_path / "other.toml"
    other.write_text("[kafka]\npartitions = 3\n", "utf-8")
    made = system.twin("topics", "create", "--config", str(other))
    assert made.returncode == 1
    assert "twin.raw has 16 partitions" in made.stderr.replace("\n", " ")
