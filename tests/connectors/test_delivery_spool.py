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
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from runtime import config
from runtime.kafka import create_topics, watermarks
from schemas.codec import decode
from schemas.frames import Frame
from schemas.records import Alert
from schemas.topics import ALERTS, RAW, Topic
from services.kafka import Kafka
from services.mosquitto import Mosquitto
from tests.connectors import mqtt_tools
from tests.connectors.mqtt_tools import until

pytestmark = pytest.mark.services

ROOT = Path(__file__).parents[2]
PARTITIONS = 4
READINGS = 10  # per frame of the worker
SOON_S = 150.0  # a limit for a busy machine, not a criterion


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


STARTED: list["Worker"] = []


@pytest.fixture(autouse=True)
def _nothing_stays() -> Iterator[None]:
    """Whatever a test started is ended."""
    yield
    while STARTED:
        STARTED.pop().process.kill()


class Worker:
    """The process `spool_worker` and what it said. `safe`: (epoch, asset) → seqs that it said are safe, in order."""

    def __init__(  # noqa: PLR0917
        self,
        kafka: Kafka,
        prefix: str,
        directory: Path,
        rate: float,
        frames: int = 10**9,
        drops: bool = False,
        **limits: float,
    ):
        command = [sys.executable, "-m", "tests.connectors.spool_worker", kafka.bootstrap, prefix, str(directory)]
        self.log = directory / "worker.log"
        directory.mkdir(exist_ok=True)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, json.dumps({"after_s": 0.5, **limits}), str(int(drops)), str(rate), str(frames)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, cwd=ROOT,
            )  # fmt: skip
        self.safe: dict[tuple[int, str], list[int]] = defaultdict(list)
        self.epoch = 0
        self.closed = ""
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        STARTED.append(self)
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
    ends = [watermarks(consumer, name, p)[1] for p in range(PARTITIONS)]
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


def alerts(kafka: Kafka, prefix: str) -> list[str]:
    """What the alerts say."""
    found = [decode(value) for value in records(kafka, prefix, ALERTS)]
    return [alert.message for alert in found if isinstance(alert, Alert) and alert.kind == "spool"]


@pytest.mark.soak
@pytest.mark.kill
def test_what_exceeds_the_bounds_is_told_and_the_rest_drains(broker: Kafka, tmp_path: Path) -> None:
    """In one outage of Kafka: a full spool holds back a field that can wait and loses nothing; where the field cannot
    wait, and for what is too old, gap frames stand for exactly the readings that are missing; each raises an alert. A
    spool within its bounds drains at three times the rate of the input or more, while new frames arrive."""
    names = ("waits", "drops", "ages", "fits")
    prefixes = {name: prefix_in(broker) for name in names}
    broker.kill()
    small = {"bytes_max": 1024**2}
    workers = {
        "waits": Worker(broker, prefixes["waits"], tmp_path / "waits", 1000, 3000, **small),
        "drops": Worker(broker, prefixes["drops"], tmp_path / "drops", 1000, 5000, drops=True, **small),
        "ages": Worker(broker, prefixes["ages"], tmp_path / "ages", 50, age_max_s=2.0),
        "fits": Worker(broker, prefixes["fits"], tmp_path / "fits", 100),
    }
    workers["waits"].says("spool: full: the field has to wait")
    held = workers["waits"].count
    workers["drops"].says("other records dropped")
    workers["ages"].says("other records dropped")
    until(lambda: workers["fits"].count > 1000, SOON_S, "frames in the spool")
    assert workers["waits"].count == held, "nothing is safe that has no place"
    broker.start()
    broker.wait_ready(180)
    until(lambda: len(records(broker, prefixes["fits"])) > 100, SOON_S, "the first frames")
    start_s, start = time.monotonic(), len(records(broker, prefixes["fits"]))
    until(lambda: drained(tmp_path / "fits"), SOON_S, "the spool to be empty")
    rate = (len(records(broker, prefixes["fits"])) - start) / (time.monotonic() - start_s)
    backlog = workers["fits"].count
    for name, worker in workers.items():
        assert worker.close() == "True"
        if not drained(tmp_path / name):
            rest = Worker(broker, prefixes[name], tmp_path / name, 0)
            until(lambda name=name: drained(tmp_path / name), SOON_S, "the spool to be empty")  # type: ignore[misc]
            assert rest.close() == "True"

    assert rate > 3 * 100 or start > backlog / 2, f"drained {rate:.0f} frames/s"
    for name in ("waits", "fits"):
        found = assert_in_order(frames(broker, prefixes[name]))
        assert {key: len(numbers) for key, numbers in found.items()} == {
            key: len(numbers) for key, numbers in workers[name].safe.items()
        }
    assert any("full" in message for message in alerts(broker, prefixes["waits"]))
    assert not alerts(broker, prefixes["fits"])
    for name in ("drops", "ages"):
        assert alerts(broker, prefixes[name])
        assert_gaps_are_exact(frames(broker, prefixes[name]), workers[name])


def assert_gaps_are_exact(found: list[Frame], worker: Worker) -> None:
    """Every hole in `seq` ends with a gap frame that has the number of readings, and lies between its neighbours."""
    assert_in_order(found, holes=True)
    gaps = 0
    for (_, asset), sent in worker.safe.items():
        mine = [frame for frame in found if frame.asset == asset]
        before, newest_ns = -1, 0
        for frame in mine:
            if frame.gap is None:
                assert frame.seq == before + 1, "a hole that no gap frame tells of"
                assert newest_ns < int(frame.source_time_ns[0])
                newest_ns = int(frame.source_time_ns[-1])
            else:
                gaps += 1
                assert frame.tags == ("t",)
                assert frame.gap.lost == READINGS * (frame.seq - before)
                assert newest_ns < frame.gap.from_ns < frame.gap.to_ns
                newest_ns = frame.gap.to_ns
            before = frame.seq
        assert before == max(sent)
    assert gaps


def test_a_right_that_is_revoked_and_granted_again(broker: Kafka, tmp_path: Path) -> None:
    """Without the right to write the connector goes on, says why once, and spools; with the right again all of it
    arrives in order, without a restart."""
    prefix = prefix_in(broker)
    admin = AdminClient({"bootstrap.servers": broker.bootstrap})
    topic = RAW.full_name(prefix)
    rules = [
        AclBinding(ResourceType.TOPIC, topic, ResourcePatternType.LITERAL, "User:ANONYMOUS", "*", operation, permission)
        for operation, permission in (
            (AclOperation.WRITE, AclPermissionType.DENY),
            (AclOperation.DESCRIBE, AclPermissionType.ALLOW),
            (AclOperation.READ, AclPermissionType.ALLOW),
        )
    ]
    any_rule = AclBindingFilter(
        ResourceType.TOPIC, topic, ResourcePatternType.LITERAL, None, None, AclOperation.ANY, AclPermissionType.ANY
    )
    worker = Worker(broker, prefix, tmp_path, 200)
    for time_ in (1, 2):
        before = worker.count
        until(lambda b=before: worker.count > b + 200, SOON_S, "frames")  # type: ignore[misc]
        for made in admin.create_acls(rules).values():
            made.result(30)
        worker.says(f"kafka: Kafka refuses records for {topic}: Broker: Topic authorization failed", time_)
        before = worker.count
        until(lambda b=before: worker.count > b + 400, SOON_S, "frames in the spool")  # type: ignore[misc]
        for gone in admin.delete_acls([any_rule]).values():
            gone.result(30)
        until(lambda: drained(tmp_path), SOON_S, "the spool to be empty")
    assert worker.close() == "True"
    found = assert_in_order(frames(broker, prefix))
    assert {key: len(numbers) for key, numbers in found.items()} == {k: len(n) for k, n in worker.safe.items()}
    assert (
        worker.log.read_text().count("TOPIC_AUTHORIZATION_FAILED") <= 4
    )  # when it begins, and after "connected again"


@pytest.mark.kill
def test_mqtt_with_qos_0_and_kafka_away(broker: Kafka, mqtt_broker: Mosquitto, tmp_path: Path) -> None:
    """Messages of a QoS 0 subscription that came while Kafka was away are in Kafka afterwards, in order, though the
    connector was killed; the time without connector is a gap."""
    spool = "[mqtt.spool]\nafter_s = 0.5"
    with mqtt_tools.Bench(broker.bootstrap, mqtt_broker, tmp_path, mqtt="qos = 0", more=spool) as made:
        process = made.start_and_wait()
        client = made.publisher()
        broker.kill()
        for n in range(300):
            made.publish(client, f"R{n % 3}", "t", {"value": n, "timestamp": 1_700_000_000 + n}).wait_for_publish(30)
        until(lambda: made.metric("twin_spool_frames") > 0 and not made.metric("twin_unconfirmed_records"), SOON_S, "")
        until(lambda: list((tmp_path / "state").glob("*.assets.json")), SOON_S, "what the connector remembers")
        process.kill()
        process.wait()
        process = made.start_and_wait()
        for n in range(300, 400):
            made.publish(client, f"R{n % 3}", "t", {"value": n, "timestamp": 1_700_000_000 + n}).wait_for_publish(30)
        broker.start()
        broker.wait_ready(180)
        until(lambda: drained(tmp_path / "state"), SOON_S, "the spool to be empty")
        found = mqtt_tools.readings(made.wait_for_readings(400, SOON_S))
        for asset in range(3):
            values = [row[1] for row in found[f"R{asset}", "t"]]
            assert values == [mqtt_tools.bits(n) for n in range(400) if n % 3 == asset]
        assert {f.asset for f in made.raw() if f.gap and f.gap.cause == "MQTT session lost"} == {"R0", "R1", "R2"}
        assert made.stop(process) == 0
