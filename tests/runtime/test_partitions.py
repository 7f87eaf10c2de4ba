"""Where a key lives, and what happens when somebody gives a topic of a running system more partitions."""

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from aiokafka.partitioner import murmur2
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewPartitions
from hypothesis import given
from hypothesis import strategies as st

from cli.moving import MoveError, move
from runtime import topic_watch
from runtime.config import Kafka
from runtime.exit_codes import BAD_CONFIGURATION, OK
from runtime.health import Health
from runtime.kafka import client_settings, create_topics
from runtime.partitions import home_partition
from runtime.topic_watch import TopicWatch
from schemas.codec import decode_as, encode
from schemas.frames import ValidatedFrame
from schemas.topics import RAW, VALIDATED, Topic
from services.mosquitto import Mosquitto
from services.processes import free_port
from tests.agents.counting import frame
from tests.agents.kill_audit import records
from tests.connectors.mqtt_tools import Bench as MqttBench
from tests.connectors.mqtt_tools import until
from tests.connectors.opcua_tools import bench as opcua_bench

ROOT = Path(__file__).parents[2]
ASSETS = tuple(f"R{n}" for n in range(12))


@given(st.binary(max_size=40), st.integers(1, 1024))
def test_a_key_lives_where_every_client_looks(key: bytes, partitions: int) -> None:
    """The partition of any key is the one that aiokafka and Java's client choose."""
    assert home_partition(key, partitions) == (murmur2(key) & 0x7FFFFFFF) % partitions


@pytest.fixture
def broker(kafka: str) -> Kafka:
    """Topics of this test's own."""
    settings = Kafka(bootstrap=kafka, prefix=f"w{uuid.uuid4().hex[:8]}", partitions=4)
    create_topics(settings)
    return settings


@pytest.fixture
def start() -> Iterator[Callable[[Kafka, Path], "subprocess.Popen[bytes]"]]:
    """Start a counting worker; killed at the end."""
    started: list[subprocess.Popen[bytes]] = []

    def start_one(kafka: Kafka, log: Path) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "tests.agents.stage_worker", kafka.address, kafka.prefix, "counting"]
        command += [f"partitions={kafka.partitions}", "checkpoint_s=0.5"]
        with log.open("ab") as file:
            started.append(subprocess.Popen(command, cwd=ROOT, stderr=file, env=dict(os.environ)))
        return started[-1]

    yield start_one
    for process in started:
        process.kill()
        process.wait()


def widen(kafka: Kafka, topic: Topic, partitions: int) -> None:
    """Give a topic more partitions."""
    admin = AdminClient(client_settings(kafka))
    name = topic.full_name(kafka.prefix)
    admin.create_partitions([NewPartitions(name, partitions)])[name].result(20)


def write(kafka: Kafka, seqs: range) -> None:
    """Frames of all assets, as a connector would."""
    producer = Producer({**client_settings(kafka), "enable.idempotence": True})
    for seq in seqs:
        for asset in ASSETS:
            home = home_partition(asset.encode(), kafka.partitions)
            producer.produce(RAW.full_name(kafka.prefix), encode(frame(asset, seq)), asset.encode(), home)
    assert producer.flush(20) == 0


def counted(kafka: Kafka) -> dict[str, list[tuple[int, int]]]:
    """Per asset: (seq, frames counted so far by its state) in the order of the topic."""
    found: dict[str, list[tuple[int, int]]] = {asset: [] for asset in ASSETS}
    for _, _, value in records(kafka, VALIDATED.full_name(kafka.prefix)):
        out = decode_as(value, ValidatedFrame)
        found[out.asset].append((out.seq, out.repeated))
    return found


@pytest.mark.services
def test_a_stage_refuses_and_the_remedy_is_exact(
    broker: Kafka, start: Callable[[Kafka, Path], "subprocess.Popen[bytes]"], tmp_path: Path
) -> None:
    """More partitions under a running stage: it ends with 78 and says what to do. Done so, with yet another number of
    partitions, every state goes on where it was and every frame is applied once."""
    log = tmp_path / "log"
    worker = start(broker, log)
    write(broker, range(5))
    until(lambda: all(len(seqs) == 5 for seqs in counted(broker).values()), 150, "the first frames")
    time.sleep(1.5)  # a checkpoint
    with pytest.raises(MoveError, match="still works"):
        move(broker, broker.model_copy(update={"prefix": f"{broker.prefix}-2"}))
    widen(broker, RAW, 8)
    assert worker.wait(150) == BAD_CONFIGURATION
    said = log.read_text()
    assert f"{RAW.full_name(broker.prefix)} has 8 partitions" in said
    assert f"`twin topics move {broker.prefix}`" in said
    write(broker, range(5, 9))

    new = broker.model_copy(update={"prefix": f"{broker.prefix}-2", "partitions": 6})

    def moved() -> bool:
        try:
            move(broker, new)
        except MoveError as error:
            assert "still works" in str(error)  # its session has not timed out
            return False
        return True

    until(moved, 150, "everything carried over")
    with pytest.raises(MoveError, match="is not empty"):
        move(broker, new)
    again = start(new, log)
    write(new, range(9, 12))
    until(lambda: all(seqs and seqs[-1][0] == 11 for seqs in counted(new).values()), 150, "the last frames")
    for asset, seqs in counted(new).items():
        assert dict(counted(broker)[asset] + seqs) == {seq: seq + 1 for seq in range(12)}, asset
    again.terminate()
    assert again.wait(20) == OK


@pytest.mark.services
def test_connectors_refuse_and_misplace_nothing(kafka: str, mqtt_broker: Mosquitto, tmp_path: Path) -> None:
    """More partitions under running connectors: each ends with 78 and says what to do, the others' partitions stay
    empty, and what was published meanwhile is still there for the next process."""
    (tmp_path / "ua").mkdir()
    with MqttBench(kafka, mqtt_broker, tmp_path) as bench, opcua_bench(kafka, tmp_path / "ua") as ua:
        process = bench.start_and_wait()
        client = bench.publisher()
        other = ua.connector(ua.server(assets=8))
        other.says("subscribed to")
        for n in range(50):
            bench.publish(client, f"R{n % 10}", "temperature", {"value": n, "timestamp": 1_761_474_615 + n})
        bench.wait_for_readings(50)
        until(lambda: ua.raw.count() >= 8, 90, "readings by OPC UA")
        widen(bench.kafka, RAW, 8)
        widen(ua.kafka, RAW, 8)
        sent = 50
        while process.poll() is None or other.process.poll() is None:
            bench.publish(client, f"R{sent % 10}", "temperature", {"value": sent, "timestamp": 1_761_474_615 + sent})
            sent += 1
            assert sent < 9000, "neither refuses"
            time.sleep(0.02)
        assert (process.returncode, other.process.returncode) == (BAD_CONFIGURATION, BAD_CONFIGURATION)
        assert "has 8 partitions" in bench.log.read_text() and "has 8 partitions" in other.tail()
        for settings in (bench.kafka, ua.kafka):
            wide = settings.model_copy(update={"partitions": 8})
            places = {(p, home_partition(key, 4)) for p, key, _ in records(wide, RAW.full_name(settings.prefix))}
            assert places and all(partition == home for partition, home in places)


def test_kafka_away_is_a_reason_and_not_an_end() -> None:
    """While Kafka does not answer, the process is not ready because of it, and nobody takes it for a mismatch."""
    left: list[str] = []
    health = Health()
    kafka = Kafka(bootstrap=f"127.0.0.1:{free_port()}")
    topic_watch_answer_s, topic_watch.ANSWER_S = topic_watch.ANSWER_S, 0.5
    try:
        watch = TopicWatch(kafka, Producer(client_settings(kafka)), health, lambda reason, code: left.append(reason))
        until(lambda: health.reason("kafka"), 10, "a reason")
        watch.stop()
    finally:
        topic_watch.ANSWER_S = topic_watch_answer_s
    assert health.why_not_ready()[0].startswith(f"kafka: {kafka.bootstrap}")
    assert left == []
