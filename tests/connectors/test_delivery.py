"""Delivery: only what Kafka has confirmed counts, and what it cannot take is pushed back or ends the process."""

import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
from aiokafka.partitioner import DefaultPartitioner
from confluent_kafka import Consumer, TopicPartition

from connectors import delivery
from connectors.delivery import Delivery, QueueFull
from connectors.framer import Framer, Reading
from runtime.config import Framing, Kafka
from runtime.exit_codes import RESTART_ME
from runtime.health import Health
from runtime.kafka import create_topics
from runtime.metrics import HEALTHY
from schemas.codec import decode
from schemas.frames import Frame
from schemas.records import Rejected
from schemas.topics import RAW, REJECTED
from services.processes import free_port
from tests.connectors.mqtt_tools import until

ROOT = Path(__file__).parents[2]


def frame_of(asset: str, value: float = 1.0, text: str | None = None) -> Frame:
    """A frame with one reading."""
    framer = Framer("c", 0, Framing())
    framer.add(Reading(asset=asset, tag="t", unit="", value=value, source_time_ns=0, arrival_time_ns=0, text=text), 0)
    return framer.due(0, flush=True)[0][0]


@pytest.mark.services
def test_confirmed_means_kafka_has_it_where_everybody_looks(kafka: str) -> None:
    """Everything confirmed can be read back equal, in order per asset, in the partition that aiokafka would choose."""
    settings = Kafka(bootstrap=kafka, prefix=f"d{uuid.uuid4().hex[:8]}", partitions=16)
    create_topics(settings)
    frames = [frame_of(f"R{n % 20}", n) for n in range(200)]
    rejected = Rejected(stage="connector.mqtt", reason="why", asset="R1", payload=b"\xff" * 1_000_000)
    confirmed: list[int] = []
    sender = Delivery(settings, "connector.mqtt")
    for n, frame in enumerate(frames):
        sender.send(frame, lambda n=n: confirmed.append(n))  # type: ignore[misc]
    sender.reject(rejected, lambda: confirmed.append(-1))
    assert sender.close(120)
    assert sorted(confirmed) == list(range(-1, 200))

    consumer = Consumer({"bootstrap.servers": kafka, "group.id": "none", "enable.auto.commit": False})
    raw, bad = RAW.full_name(settings.prefix), REJECTED.full_name(settings.prefix)
    consumer.assign([TopicPartition(topic, p, 0) for topic in (raw, bad) for p in range(16)])
    found: list[Any] = []
    while len(found) < 201:
        found += consumer.consume(201, 1)
    consumer.close()
    partition = DefaultPartitioner()
    for message in found:
        assert message.partition() == partition(message.key(), list(range(16)), list(range(16)))
    for asset in {frame.asset for frame in frames}:
        got = [decode(m.value()) for m in found if m.topic() == raw and m.key() == asset.encode()]
        assert got == [frame for frame in frames if frame.asset == asset]
    assert [decode(m.value()) for m in found if m.topic() == bad] == [rejected]


def test_without_kafka_nothing_is_confirmed_and_the_queue_pushes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """While Kafka is away nothing counts as delivered, the process is unhealthy, `send` blocks when the queue is full,
    and gives up only when told to stop."""
    monkeypatch.setattr(delivery, "QUEUE_KBYTES", 1024)
    confirmed: list[None] = []
    health = Health()
    sender = Delivery(Kafka(bootstrap=f"127.0.0.1:{free_port()}"), "connector.mqtt", health)
    outcome: list[str] = []

    def fill() -> None:
        try:
            for _ in range(100):
                sender.send(frame_of("R1", text="x" * 100_000), lambda: confirmed.append(None))
        except QueueFull:
            outcome.append("told to stop")

    thread = threading.Thread(target=fill)
    thread.start()
    until(lambda: health.reason("kafka"), 10, "unhealthy")
    assert HEALTHY._value.get() == 0
    time.sleep(0.3)
    assert thread.is_alive()
    assert 5 <= sender.unconfirmed <= 12
    sender.stop_waiting()
    thread.join(5)
    assert outcome == ["told to stop"]
    assert not sender.close(0.1)
    assert not confirmed


LEAVES = """
import sys, time
from connectors.delivery import Delivery
from runtime.config import Kafka
from schemas.records import Rejected
sender = Delivery(Kafka(bootstrap=sys.argv[1], prefix=sys.argv[2], partitions=1), "connector.mqtt")
def confirmed(): print("confirmed", flush=True); {then}
sender.reject(Rejected(stage="s", reason="r", payload=bytes({size})), confirmed)
time.sleep(30)
"""


@pytest.mark.services
@pytest.mark.parametrize(
    ("size", "then", "said", "log"),
    [(17 * 1024 * 1024, "pass", "", "MSG_SIZE_TOO_LARGE"), (10, "1 / 0", "confirmed\n", "ZeroDivisionError")],
)
def test_what_cannot_be_repaired_ends_the_process(kafka: str, size: int, then: str, said: str, log: str) -> None:
    """A record that can never be delivered, or a failing callback, leaves the process with the code for a restart and
    says why; nothing is confirmed that is not."""
    settings = Kafka(bootstrap=kafka, prefix=f"d{uuid.uuid4().hex[:8]}", partitions=1)
    create_topics(settings)
    program = LEAVES.format(size=size, then=then)
    command = [sys.executable, "-c", program, kafka, settings.prefix]
    done = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == RESTART_ME
    assert done.stdout == said
    assert log in done.stderr
