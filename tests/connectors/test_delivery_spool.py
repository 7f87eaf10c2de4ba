"""Delivery with the disk spool against a real Kafka that is killed, refuses and comes back."""

import json
import random
import subprocess
import sys
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer, TopicPartition

from runtime import config
from runtime.kafka import create_topics
from schemas.codec import decode
from schemas.frames import Frame
from schemas.topics import RAW, Topic
from services.kafka import Kafka
from tests.connectors.mqtt_tools import until

pytestmark = pytest.mark.services

ROOT = Path(__file__).parents[2]
PARTITIONS = 4
READINGS = 10  # per frame of the worker
SOON_S = 60.0  # a limit for a busy machine, not a criterion


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    """A Kafka of our own, which tests may kill, with ACLs; who has none may do everything."""
    directory = tmp_path_factory.mktemp("kafka")
    settings = {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "allow.everyone.if.no.acl.found": "true",
    }
    kafka = Kafka(directory / "kafka", directory / "kafka.log", extra_settings=settings)
    kafka.start()
    kafka.wait_ready(180)
    yield kafka
    kafka.stop()


class Worker:
    """The process `spool_worker` and what it said. `safe`: (epoch, asset) → seqs that it said are safe, in order."""

    def __init__(self, kafka: Kafka, prefix: str, directory: Path, rate: float, drops: bool = False, **limits: float):
        command = [sys.executable, "-m", "tests.connectors.spool_worker", kafka.bootstrap, prefix, str(directory)]
        self.log = directory / "worker.log"
        directory.mkdir(exist_ok=True)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, json.dumps({"after_s": 0.5, **limits}), str(int(drops)), str(rate)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, cwd=ROOT,
            )  # fmt: skip
        self.safe: dict[tuple[int, str], list[int]] = defaultdict(list)
        self.epoch = 0
        self.closed = ""
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        until(lambda: self.epoch, SOON_S, "the worker's start")

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            first, second = line.split()
            if first == "ready":
                self.epoch = int(second)
            elif first == "closed":
                self.closed = second
            else:
                self.safe[self.epoch, first].append(int(second))

    @property
    def count(self) -> int:
        """How many frames are safe."""
        return sum(map(len, list(self.safe.values())))

    def says(self, text: str, times: int = 1) -> None:
        """Wait for a text in its log."""
        until(lambda: self.log.read_text().count(text) >= times, SOON_S, f"{text!r} in\n{self.log.read_text()}")

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self._thread.join()
        self.process.wait()

    def close(self) -> str:
        """A clean stop; whether everything was safe."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(SOON_S)
        self._thread.join()
        return self.closed


def prefix_in(kafka: Kafka) -> str:
    """A prefix with topics."""
    prefix = f"s{uuid.uuid4().hex[:8]}"
    create_topics(config.Kafka(bootstrap=kafka.bootstrap, prefix=prefix, partitions=PARTITIONS))
    return prefix


def records(kafka: Kafka, prefix: str, topic: Topic = RAW) -> list[bytes]:
    """Everything in a topic now, in order per partition."""
    name = topic.full_name(prefix)
    consumer = Consumer({"bootstrap.servers": kafka.bootstrap, "group.id": "none", "enable.auto.commit": False})
    ends = [consumer.get_watermark_offsets(TopicPartition(name, p), timeout=20)[1] for p in range(PARTITIONS)]
    consumer.assign([TopicPartition(name, p, 0) for p in range(PARTITIONS)])
    found: list[bytes] = []
    while len(found) < sum(ends):
        found += [m.value() for m in consumer.consume(1000, 1) if m.error() is None]
    consumer.close()
    return found


def frames(kafka: Kafka, prefix: str) -> list[Frame]:
    """All raw frames, each where it first appears."""
    seen = {}
    for value in records(kafka, prefix):
        frame = decode(value)
        assert isinstance(frame, Frame)
        seen.setdefault(frame.identity, frame)
    return list(seen.values())


def assert_in_order(found: list[Frame], holes: bool = False) -> dict[tuple[int, str], list[int]]:
    """No frame first appears after a later one of its asset, epochs included; gives the seqs."""
    seqs: dict[tuple[int, str], list[int]] = defaultdict(list)
    newest: dict[str, tuple[int, int]] = {}
    for frame in found:
        assert newest.get(frame.asset, (0, 0)) < (frame.epoch, frame.seq + 1), "a frame came after its successor"
        newest[frame.asset] = frame.epoch, frame.seq + 1
        seqs[frame.epoch, frame.asset].append(frame.seq)
    if not holes:
        assert all(numbers == list(range(len(numbers))) for numbers in seqs.values())
    return seqs


def drained(directory: Path) -> bool:
    """Whether the spool is empty, and so its file gone."""
    return not list(directory.glob("*.spool-*"))


@pytest.mark.kill
def test_kafka_and_connector_killed_at_random(broker: Kafka, tmp_path: Path) -> None:
    """Kafka and the connector are killed in turn while frames flow: every frame that was safe is in Kafka, none after
    its successor, old epochs before new ones, and the spool is empty at the end."""
    rng = random.Random(7)
    prefix = prefix_in(broker)
    safe: dict[tuple[int, str], list[int]] = {}
    lives = [Worker(broker, prefix, tmp_path, 200)]

    def kill_and_start() -> None:
        lives[-1].kill()
        safe.update(lives[-1].safe)
        lives.append(Worker(broker, prefix, tmp_path, 200))

    def grows_by(number: int) -> None:
        before = lives[-1].count
        until(lambda: lives[-1].count > before + number, SOON_S, "frames that are safe")

    for round_ in range(2):
        grows_by(50)
        broker.kill()
        until(lambda: not drained(tmp_path), SOON_S, "the spool to take over")
        for _ in range(2):
            grows_by(rng.randrange(20, 200))
            kill_and_start()
        broker.start()
        if round_ == 1:  # once more in the middle of draining
            broker.wait_ready(180)
            time.sleep(rng.random())
            kill_and_start()
    broker.wait_ready(180)
    until(lambda: drained(tmp_path), SOON_S, "the spool to be empty")
    assert lives[-1].close() == "True"
    safe.update(lives[-1].safe)
    found = assert_in_order(frames(broker, prefix))
    for key, numbers in safe.items():
        assert numbers[-1] < len(found[key]), "a frame that was safe is lost"
    assert len({epoch for epoch, _ in safe}) == len(lives) == 6
