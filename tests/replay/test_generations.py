"""Parts of a rescale on a real broker: the plan, who follows it, the fence, the mirror, the comparison."""

import time
import uuid
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaError, Producer
from confluent_kafka.admin import AdminClient

from cli.rescaling import Rescale
from replay.compare.agreement import OUTPUTS, Range, agree
from replay.mirror import FOLLOWED, Mirror, ends_of
from replay.sources.topic import Reader
from runtime import topic_watch
from runtime.config import Kafka
from runtime.exit_codes import RESTART_ME
from runtime.generations import as_forced, at_work, newest, write
from runtime.kafka import client_settings, create_topics, set_largest_record
from runtime.partitions import home_partition
from runtime.topic_watch import TopicWatch
from schemas.codec import decode_as, encode
from schemas.frames import Frame, ValidatedFrame
from schemas.generations import Generation, Plan
from schemas.records import Rejected
from schemas.topics import MAX_RECORD_BYTES, RAW, REJECTED, VALIDATED, Topic, user_id
from tests.agents.counting import frame, initial, step
from tests.agents.kill_audit import records
from tests.connectors.mqtt_tools import until

pytestmark = pytest.mark.services
ASSETS = tuple(f"R{n}" for n in range(9))


@pytest.fixture
def old(kafka: str) -> Kafka:
    """Topics of this test's own, with 3 partitions."""
    settings = Kafka(bootstrap=kafka, prefix=f"g{uuid.uuid4().hex[:8]}", partitions=3)
    create_topics(settings)
    return settings


@pytest.fixture
def new(old: Kafka) -> Kafka:
    """The next generation of them, with 7."""
    settings = old.at(Generation(number=2, prefix=f"{old.prefix}.g2", partitions=7))
    create_topics(settings)
    return settings


def send(kafka: Kafka, topic: Topic, frames: list[Any]) -> list[KafkaError | None]:
    """Write frames as a connector or a stage would; what Kafka says to each."""
    said: list[KafkaError | None] = []
    producer = Producer({**client_settings(kafka), "log_level": 0, "enable.idempotence": True})
    for one in frames:
        key = one.asset.encode()
        producer.produce(
            topic.full_name(kafka.prefix),
            encode(one),
            key,
            home_partition(key, kafka.partitions),
            on_delivery=lambda error, _: said.append(error),
        )
    assert producer.flush(30) == 0
    return said


def counted(one: Frame) -> ValidatedFrame:
    """An output for a frame."""
    found = step(initial(one.asset), one, None)[1]
    assert found is not None
    return found


def marks(kafka: Kafka, topics: tuple[Topic, ...]) -> dict[str, tuple[int, ...]]:
    """Where topics end."""
    return {topic.name: ends_of(kafka, topic) for topic in topics}


def test_who_looks_follows_the_plan(old: Kafka, new: Kafka, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a plan the configured topics are at work; a watch leaves to be started again when others are; a process
    with a forced generation does not; users keep the names that the configuration gives them."""
    monkeypatch.setattr(topic_watch, "EVERY_S", 0.2)
    left: list[tuple[str, int]] = []
    assert newest(old) is None and at_work(old) == old
    watch = TopicWatch(old, AdminClient(client_settings(old)), None, lambda reason, code: left.append((reason, code)))
    plan = Plan.initial(old.prefix, old.partitions).build(old.prefix, 7)
    write(old, plan)
    time.sleep(1)
    assert newest(old) == plan and not left
    after = plan.verify({}, {}).switch().activate({}, {})
    write(old, after)
    until(lambda: left, 30, "the watch to leave")
    watch.stop()
    assert left[0][1] == RESTART_ME and f"{old.prefix}.g2.* with 7 partitions" in left[0][0]
    found = at_work(old)
    assert (found.prefix, found.partitions, found.configured_prefix) == (new.prefix, 7, old.prefix)
    with_users = found.model_copy(update={"passwords_dir": Path("secrets")})
    assert with_users.as_role("sink").username == user_id("sink", old.prefix)
    assert after.previous is not None
    for name, value in as_forced(after.previous).items():
        monkeypatch.setenv(name, value)
    assert at_work(old).prefix == old.prefix


def test_a_closed_topic_takes_nothing_from_anybody(old: Kafka) -> None:
    """Closed, Kafka refuses every record, the smallest as well; opened, it takes them again."""
    admin, name = AdminClient(client_settings(old)), RAW.full_name(old.prefix)
    set_largest_record(admin, [name], 1)
    refused: list[KafkaError | None] = []

    def is_closed() -> bool:
        refused[:] = send(old, RAW, [frame(asset, 0, readings=0) for asset in ASSETS])
        return all(error is not None and error.code() == KafkaError.MSG_SIZE_TOO_LARGE for error in refused)

    until(is_closed, 10, "it refuses")
    before = ends_of(old, RAW)
    set_largest_record(admin, [name], MAX_RECORD_BYTES)
    until(lambda: send(old, RAW, [frame("R1", 1)]) == [None], 10, "it takes records")
    assert sum(ends_of(old, RAW)) == sum(before) + 1


def test_a_mirror_begun_again_copies_the_rest(old: Kafka, new: Kafka) -> None:
    """Whatever earlier mirrors copied, in the end every frame is there once, in order, in its home."""
    read_from, written_from = marks(old, FOLLOWED), marks(new, FOLLOWED)
    for seqs in (range(5), range(5, 12), range(12, 15)):
        send(old, RAW, [frame(asset, seq) for seq in seqs for asset in ASSETS])
        mirror = Mirror(old, new, read_from, written_from)
        ends = ends_of(old, RAW)
        until(lambda m=mirror, e=ends: m.step() is not None and not m.behind(RAW, e), 30, "all looked at")  # type: ignore[misc]
        mirror.flush()
        assert mirror.copied == len(seqs) * len(ASSETS)
        mirror.close()
    found: dict[str, list[int]] = {asset: [] for asset in ASSETS}
    for partition, key, value in records(new, RAW.full_name(new.prefix)):
        one = decode_as(value, Frame)
        assert partition == home_partition(key, 7)
        found[one.asset].append(one.seq)
    assert found == {asset: list(range(15)) for asset in ASSETS}


def test_a_difference_is_named(old: Kafka, new: Kafka) -> None:
    """Equal outputs agree however often they stand; one that is missing and one that differs in a bit are named."""
    starts = marks(old, OUTPUTS), marks(new, OUTPUTS)
    outputs = [counted(frame(asset, seq)) for seq in range(3) for asset in ASSETS]
    send(old, VALIDATED, outputs[:-1])
    send(new, VALIDATED, [*outputs, *outputs[3:]])

    def compared() -> Any:
        sides = [Range(k.prefix, start, marks(k, OUTPUTS)) for k, start in zip((old, new), starts, strict=True)]
        with closing(Reader(old)) as reader:
            return agree(reader, *sides)

    assert compared() == (len(outputs) - 1, "")
    send(old, VALIDATED, [replace(outputs[0], seq=7)])
    assert "validated of R0, test, epoch 1, seq 7 is not in" in compared().difference
    send(new, VALIDATED, [replace(outputs[0], seq=7, repeated=9)])
    assert "seq 7 is another one in" in compared().difference
    send(new, VALIDATED, [replace(outputs[0], seq=7)])
    assert "another record of its identity before" in compared().difference


class Nobody:
    """Stages that have nothing to do."""

    def start(self, generation: Generation) -> None:
        """No stage."""

    def tend(self) -> None:
        """No stage."""

    def stop(self) -> None:
        """No stage."""


class Killed(BaseException):
    """The run ends here."""


class Deaths:
    """Ends a run at the first point that it has not been ended at."""

    def __init__(self) -> None:
        self.at: list[str] = []

    def __call__(self, point: str) -> None:
        """The point is reached."""
        if point not in self.at:
            self.at.append(point)
            raise Killed


def complain(kafka: Kafka, numbers: range) -> list[int]:
    """Rejected records as a connector writes them, to their homes; those that Kafka took."""
    taken: list[int] = []
    producer = Producer({**client_settings(kafka), "log_level": 0})
    for number in numbers:
        asset = ASSETS[number % len(ASSETS)]
        wrong = Rejected(stage="connector.mqtt", reason=str(number), asset=asset, topic="t", time_ns=1, payload=b"")
        name, home = REJECTED.full_name(kafka.prefix), home_partition(asset.encode(), kafka.partitions)
        producer.produce(
            name, encode(wrong), asset.encode(), home, on_delivery=lambda e, _, n=number: None if e else taken.append(n)
        )
    assert producer.flush(30) == 0
    return taken


def complaints(kafka: Kafka) -> list[int]:
    """All of them that are there."""
    return sorted(
        int(decode_as(value, Rejected).reason) for _, _, value in records(kafka, REJECTED.full_name(kafka.prefix))
    )


@pytest.mark.soak
def test_ended_after_every_step_it_ends_as_if_it_never_had_been(old: Kafka) -> None:
    """A run that dies after each of its steps in turn is resumed each time; what the old topics took is in the new ones
    once, whenever it came. Rolled back, and killed in that as well, it is in the old ones once."""
    deaths, sent = Deaths(), []
    plan: Plan | None = None
    for n in range(20):
        sent += complain(old, range(5 * n, 5 * n + 5))
        try:
            plan = Rescale(old, Nobody(), print, print, deaths).run(7)
            break
        except Killed:
            found = newest(old)
            assert found is not None and found.active.number == 1
    assert deaths.at == ["created", "copied raw", "copied", "caught up", "verified", "closed", "agreed", "complete"]
    assert plan is not None and plan == newest(old) and plan.active.partitions == 7
    at_work_now = old.at(plan.active)
    assert complaints(at_work_now) == sorted(sent) and len(sent) >= 35
    sent += complain(at_work_now, range(1000, 1009))
    assert not complain(old, range(2000, 2009))
    with pytest.raises(Killed):
        Rescale(old, Nobody(), print, print, deaths).roll_back()
    assert Rescale(old, Nobody(), print, print, deaths).roll_back().active.number == 1
    assert at_work(old).prefix == old.prefix
    assert complaints(old) == sorted(sent)
    assert not complain(at_work_now, range(2000, 2009))
