"""Agent processes on a real Kafka: clean ends, refusals, and batches."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from runtime.changelog import Row, pack, recover, unpack
from runtime.config import Kafka
from runtime.exit_codes import FAILED, OK, RESTART_ME
from runtime.kafka import client_settings, create_topics
from runtime.partitions import home_partition
from schemas.codec import decode_as, encode
from schemas.frames import ValidatedFrame
from schemas.records import Alert, Rejected
from schemas.topics import ALERTS, CHANGELOGS, RAW, REJECTED, VALIDATED, Topic, app_id
from tests.agents.counting import COUNTING, frame
from tests.agents.kill_audit import records
from tests.agents.kill_drive import ROOT

pytestmark = [pytest.mark.services, pytest.mark.timeout(90)]
CHANGELOG = next(t for t in CHANGELOGS if t.name == "validation")
PARTITIONS = 4
Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def broker(kafka: str, request: pytest.FixtureRequest) -> Kafka:
    """Topics of this test's own."""
    prefix = request.node.name.replace("_", "-").replace("[", "-").replace("]", "")[5:60]
    settings = Kafka(bootstrap=kafka, prefix=prefix, partitions=PARTITIONS)
    create_topics(settings)
    return settings


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a worker module; its log is kept in `tmp_path`/log; all are killed at the end."""
    started: list[subprocess.Popen[bytes]] = []

    def start_one(module: str, *arguments: str) -> "subprocess.Popen[bytes]":
        with (tmp_path / "log").open("ab") as log:
            command = [sys.executable, "-m", f"tests.agents.{module}", *arguments]
            started.append(subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, env=dict(os.environ)))
        return started[-1]

    yield start_one
    for process in started:
        process.kill()
        process.wait()


def _write(broker: Kafka, topic: Topic, *rows: tuple[bytes, bytes]) -> None:
    """Records (key, value), each into the partition of its key."""
    producer = Producer({**client_settings(broker), "enable.idempotence": True})
    for key, value in rows:
        producer.produce(topic.full_name(broker.prefix), value, key, home_partition(key, PARTITIONS))
    assert producer.flush(20) == 0


def _read(broker: Kafka, topic: Topic) -> list[bytes]:
    return [value for _, _, value in records(broker, topic.full_name(broker.prefix))]


def _until(condition: Callable[[], bool], timeout_s: float = 25) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.1)


def _counting(broker: Kafka) -> tuple[str, ...]:
    return ("stage_worker", broker.address, broker.prefix, "counting", "partitions=4", "checkpoint_s=30")


def _committed(broker: Kafka, group: str, topic: Topic) -> int:
    consumer = Consumer({**client_settings(broker), "group.id": app_id(group, broker.prefix)})
    tps = [TopicPartition(topic.full_name(broker.prefix), p) for p in range(PARTITIONS)]
    total = sum(max(0, tp.offset) for tp in consumer.committed(tps, timeout=10))
    consumer.close()
    return total


def test_a_clean_stop_saves_everything_within_five_seconds(broker: Kafka, start: Start) -> None:
    """SIGTERM: what was taken is saved and acknowledged long before the next checkpoint is due; exit code 0."""
    worker = start(*_counting(broker))
    _write(broker, RAW, *((b"R1", encode(frame("R1", seq))) for seq in range(20)))
    _until(lambda: len(_read(broker, VALIDATED)) == 20)
    assert _committed(broker, "validation", RAW) == 0
    begun = time.monotonic()
    worker.terminate()
    assert worker.wait(10) == OK
    assert time.monotonic() - begun < 5
    assert _committed(broker, "validation", RAW) == 20
    rows = recover(broker, CHANGELOG.full_name(broker.prefix), range(PARTITIONS), lambda read: None).rows
    assert unpack(rows[b"R1"]).state.applied == {("test", 1): 19}


def test_work_goes_on_where_it_ended(broker: Kafka, start: Start) -> None:
    """A second process continues the count of the first, repeats nothing, and rejects what is no frame."""
    _write(broker, RAW, (b"R1", encode(frame("R1", 0))), (b"R1", b"garbage"), (b"R1", encode(frame("R1", 1))))
    first = start(*_counting(broker))
    _until(lambda: len(_read(broker, VALIDATED)) == 2)
    first.terminate()
    assert first.wait(10) == OK
    _write(broker, RAW, (b"R1", encode(frame("R1", 1))), (b"R1", encode(frame("R1", 2))))
    start(*_counting(broker))
    _until(lambda: len(_read(broker, VALIDATED)) == 3)
    outs = [decode_as(value, ValidatedFrame) for value in _read(broker, VALIDATED)]
    assert [(out.seq, out.repeated) for out in outs] == [(0, 1), (1, 2), (2, 3)]
    (rejected,) = [decode_as(value, Rejected) for value in _read(broker, REJECTED)]
    assert (rejected.payload, rejected.offset, rejected.stage) == (b"garbage", 1, "validation")


def test_an_unreadable_changelog_ends_the_process(broker: Kafka, start: Start, tmp_path: Path) -> None:
    """A row that cannot be read ends the process with a sentence; it never begins with an empty state."""
    _write(broker, CHANGELOG, (b"R1", b"\0" * 8 + b"no state"))
    _write(broker, RAW, (b"R2", encode(frame("R2", 0))))
    assert start(*_counting(broker)).wait(25) == FAILED
    assert "cannot be read" in (tmp_path / "log").read_text()
    assert _read(broker, VALIDATED) == []


def test_a_changelog_ahead_of_its_topic_ends_the_process(broker: Kafka, start: Start, tmp_path: Path) -> None:
    """Where the topic was made anew under an old changelog, the process says so instead of mixing both."""
    _write(broker, CHANGELOG, (b"R1", pack(Row(99, COUNTING.initial("R1")))))
    _write(broker, RAW, (b"R1", encode(frame("R1", 0))))
    assert start(*_counting(broker)).wait(25) == FAILED
    assert "made anew" in (tmp_path / "log").read_text()


def test_records_deleted_unread_raise_an_alert(broker: Kafka, start: Start) -> None:
    """Where retention deleted records before they were read, an alert says how many, and work goes on after them."""
    _write(broker, RAW, *((b"R1", encode(frame("R1", seq))) for seq in range(3)))
    first = start(*_counting(broker))
    _until(lambda: len(_read(broker, VALIDATED)) == 3)
    first.terminate()
    first.wait(10)
    _write(broker, RAW, *((b"R1", encode(frame("R1", seq))) for seq in range(3, 9)))
    raw = TopicPartition(RAW.full_name(broker.prefix), home_partition(b"R1", PARTITIONS), 7)
    admin = AdminClient(client_settings(broker))
    (deleted,) = admin.delete_records([raw]).values()
    deleted.result(20)
    start(*_counting(broker))
    _until(lambda: len(_read(broker, VALIDATED)) == 5)
    assert [decode_as(v, ValidatedFrame).seq for v in _read(broker, VALIDATED)] == [0, 1, 2, 7, 8]
    alerts = {a.kind: a.value for a in (decode_as(v, Alert) for v in _read(broker, ALERTS))}
    assert alerts == {"retention": 4.0, "lost_frames": 4.0}


def test_garbage_alone_is_no_lost_state(broker: Kafka, start: Start) -> None:
    """A partition that has only held a rejected record has no state; the next start takes none for lost."""
    _write(broker, RAW, (b"R1", b"garbage"))
    first = start(*_counting(broker))
    _until(lambda: len(_read(broker, REJECTED)) == 1)
    first.terminate()
    assert first.wait(10) == OK
    assert _committed(broker, "validation", RAW) == 1
    start(*_counting(broker))
    _write(broker, RAW, (b"R1", encode(frame("R1", 0))))
    _until(lambda: len(_read(broker, VALIDATED)) == 1)
    assert (len(_read(broker, ALERTS)), len(_read(broker, REJECTED))) == (0, 1)


def test_batches_are_acknowledged_after_they_were_handled(broker: Kafka, start: Start, tmp_path: Path) -> None:
    """Records of several topics come in order per partition; what was handled is committed, at a clean stop at once."""
    file = tmp_path / "records"
    _write(broker, RAW, *((f"R{n % 5}".encode(), str(n).encode()) for n in range(200)))
    _write(broker, ALERTS, (b"R1", b"poison"))
    worker = start("batch_worker", broker.address, broker.prefix, str(file))
    _until(lambda: file.exists() and len(file.read_text().splitlines()) >= 201)
    worker.terminate()
    assert worker.wait(10) == OK
    *lines, last = file.read_text().splitlines()
    assert last == "closed"
    per_partition: dict[tuple[str, str], list[int]] = {}
    for line in lines:
        topic, partition, offset, _ = line.split()
        per_partition.setdefault((topic, partition), []).append(int(offset))
    assert all(offsets == list(range(len(offsets))) for offsets in per_partition.values())
    assert (_committed(broker, "sink", RAW), _committed(broker, "sink", ALERTS)) == (200, 1)
    assert [decode_as(v, Rejected).reason for v in _read(broker, REJECTED)] == ["poison"]


def test_a_function_that_raises_acknowledges_nothing(broker: Kafka, start: Start, tmp_path: Path) -> None:
    """An exception from the function ends the process without an acknowledgement, to be started again."""
    _write(broker, RAW, (b"R1", b"fine"), (b"R1", b"bomb"))
    assert start("batch_worker", broker.address, broker.prefix, str(tmp_path / "records")).wait(25) == RESTART_ME
    assert _committed(broker, "sink", RAW) == 0


def test_a_slow_function_is_not_taken_for_a_stuck_process(broker: Kafka, start: Start, tmp_path: Path) -> None:
    """A function that waits for longer than the watchdog's patience, and says so, is left alone."""
    file = tmp_path / "records"
    file.touch()
    _write(broker, RAW, (b"R1", b"1"))
    worker = start("batch_worker", broker.address, broker.prefix, str(file), "handle_s=9", "watchdog_s=5")
    _until(lambda: len(file.read_text()) > 0)
    assert worker.poll() is None
    assert file.read_text() == f"raw {home_partition(b'R1', PARTITIONS)} 0 1\n"
