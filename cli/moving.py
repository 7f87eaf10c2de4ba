"""Carries a stopped system over to topics of another prefix, with any number of partitions; nothing is lost.

States go as they are, to the partition that is their asset's home now. Records go in their order per asset: first those
that every stage has acknowledged, and the new groups begin behind them; then the others. Of these, what was applied
already is recognised by its identity, as after any crash.
"""

from collections.abc import Iterator
from contextlib import closing
from typing import Any

from confluent_kafka import (
    Consumer,
    ConsumerGroupState,
    ConsumerGroupTopicPartitions,
    KafkaError,
    KafkaException,
    Producer,
)
from confluent_kafka import TopicPartition as Place
from confluent_kafka.admin import AdminClient

from cli.lag import INPUTS
from runtime.changelog import Row, pack, recover, unpack
from runtime.config import Kafka
from runtime.kafka import client_settings, create_topics, read_to_end_settings, watermarks
from runtime.partitions import home_partition
from schemas.topics import CHANGELOGS, MAX_RECORD_BYTES, TOPICS, Topic, app_id

SILENCE_S = 30.0


class MoveError(RuntimeError):
    """It cannot be carried over now, and why."""


class CopyFailed(RuntimeError):
    """Not everything is where it should be, and why."""


def move(old: Kafka, new: Kafka) -> dict[str, int]:
    """Carry everything over; records per new topic. Raises MoveError, TopicMismatch, KafkaException."""
    try:
        return _move(old, new)
    except CopyFailed as error:
        raise MoveError(f"{error}; use another new kafka.prefix") from error


def _move(old: Kafka, new: Kafka) -> dict[str, int]:
    admin = AdminClient(client_settings(old))
    found = admin.list_topics(timeout=30).topics
    there = {topic: len(found[name].partitions) for topic in TOPICS if (name := topic.full_name(old.prefix)) in found}
    if not there:
        raise MoveError(f"there are no topics {old.prefix}.* at {old.address}")
    _refuse_while_working(admin, old)
    create_topics(new)
    consumer = history_reader(old)
    with closing(consumer), closing(Sender(new)) as sender:
        for topic in TOPICS:
            name = topic.full_name(new.prefix)
            if any(low < high for low, high in (watermarks(consumer, name, p) for p in range(new.partitions))):
                raise MoveError(f"{name} is not empty: use a kafka.prefix that is new")
        before = {topic: all_ends(consumer, topic, old, count) for topic, count in there.items()}
        for topic, count in there.items():
            if topic in CHANGELOGS:
                move_states(topic, old, count, sender)
            else:
                name = topic.full_name(old.prefix)
                kept = {Place(name, p): watermarks(consumer, name, p)[0] for p in range(count)}
                done = acknowledged(admin, topic, old, kept)
                copy_history(consumer, sender, topic, kept, done, before[topic])
        moved = sender.finish()
        grown = [t.name for t, count in there.items() if all_ends(consumer, t, old, count) != before[t]]
    if grown:
        raise MoveError(f"{', '.join(grown)}: something was still writing; stop it and use another new kafka.prefix")
    return moved


class Sender:
    """Writes to the topics of `kafka`, each record to its key's home."""

    def __init__(self, kafka: Kafka) -> None:
        self.kafka = kafka
        self._failed: list[str] = []
        self._moved = {topic.full_name(kafka.prefix): 0 for topic in TOPICS}
        self._producer = Producer(
            {
                **client_settings(kafka),
                "enable.idempotence": True,
                "acks": "all",
                "message.max.bytes": MAX_RECORD_BYTES,
                "compression.type": "lz4",
            }
        )

    def send(self, topic: Topic, key: bytes, value: bytes, time_ms: int = 0) -> None:
        """Hand over, with the record's time (ms since 1970, 0: now); waits while the queue is full."""
        kafka = self.kafka
        name, partition = topic.full_name(kafka.prefix), home_partition(key, kafka.partitions)
        while True:
            try:
                self._producer.produce(name, value, key, partition, on_delivery=self._delivered, timestamp=time_ms)
            except BufferError:
                self._producer.poll(0.1)
            else:
                self._producer.poll(0)
                self._moved[name] += 1
                return

    def finish(self) -> dict[str, int]:
        """Wait until Kafka has everything. Raises CopyFailed."""
        if self._producer.flush(10 * SILENCE_S) or self._failed:
            why = "; ".join(self._failed[:3])
            raise CopyFailed(f"Kafka did not take everything ({why})")
        return self._moved

    def close(self) -> None:
        """Nothing is left to do."""

    def _delivered(self, error: Any, _message: object) -> None:
        if error is not None:
            self._failed.append(error.str())


def _refuse_while_working(admin: AdminClient, old: Kafka) -> None:
    for group, answer in admin.describe_consumer_groups([app_id(stage, old.prefix) for stage in INPUTS]).items():
        try:
            state = answer.result().state
        except KafkaException:
            continue  # never worked
        if state not in (ConsumerGroupState.EMPTY, ConsumerGroupState.DEAD):
            raise MoveError(f"{group} still works, or ended seconds ago: stop everything (`twin down`), then try again")


def history_reader(kafka: Kafka) -> Consumer:
    """A client that reads topics from offset to offset and joins no group."""
    return Consumer(
        {
            **read_to_end_settings(kafka, "unused"),
            "fetch.message.max.bytes": MAX_RECORD_BYTES,
        }
    )


def copy_history(
    consumer: Consumer,
    sender: Sender,
    topic: Topic,
    kept: dict[Place, int],
    done: dict[Place, int],
    ends: dict[Place, int],
) -> None:
    """Copy from `kept` to before `ends`; the new groups begin behind what lies before `done`. Raises CopyFailed."""
    for key, value, time_ms in _records(consumer, kept, done):
        sender.send(topic, key, value, time_ms)
    sender.finish()
    _acknowledge(topic, sender.kafka, all_ends(consumer, topic, sender.kafka, sender.kafka.partitions))
    for key, value, time_ms in _records(consumer, done, ends):
        sender.send(topic, key, value, time_ms)


def move_states(topic: Topic, old: Kafka, count: int, sender: Sender) -> None:
    """Write every state of a changelog to where it lives in the new one."""
    found = recover(old, topic.full_name(old.prefix), range(count), lambda read: None)
    for key, data in found.rows.items():
        sender.send(topic, key, pack(Row(-1, unpack(data).state)))  # nothing of the new topic is applied yet


def _readers(topic: Topic) -> list[str]:
    return [stage for stage, topics in INPUTS.items() if topic in topics]


def acknowledged(admin: AdminClient, topic: Topic, old: Kafka, kept: dict[Place, int]) -> dict[Place, int]:
    """Per partition, the first offset that not every stage has acknowledged; of a topic that no stage reads, any."""
    least: dict[int, int] = {}
    for stage in _readers(topic):
        asked = ConsumerGroupTopicPartitions(app_id(stage, old.prefix), list(kept))
        for place in next(iter(admin.list_consumer_group_offsets([asked]).values())).result().topic_partitions:
            least[place.partition] = min(least.get(place.partition, place.offset), place.offset)
    return {place: max(low, least.get(place.partition, low)) for place, low in kept.items()}


def _acknowledge(topic: Topic, new: Kafka, ends: dict[Place, int]) -> None:
    """Let the groups of the new topic begin at these offsets."""
    for stage in _readers(topic):
        group = {**client_settings(new), "group.id": app_id(stage, new.prefix), "enable.auto.commit": False}
        with closing(Consumer(group)) as member:
            places = [Place(place.topic, place.partition, end) for place, end in ends.items()]
            for place in member.commit(offsets=places, asynchronous=False):
                if place.error is not None:
                    raise CopyFailed(f"{place.topic}: {place.error.str()}")


def _records(
    consumer: Consumer, starts: dict[Place, int], ends: dict[Place, int]
) -> Iterator[tuple[bytes, bytes, int]]:
    """Keys, values and times from the starts to before the ends, in order per partition. Raises CopyFailed."""
    end_of = {place.partition: end for place, end in ends.items() if starts[place] < end}
    if not end_of:
        return
    name = next(iter(ends)).topic
    consumer.assign([Place(name, place.partition, starts[place]) for place in ends if place.partition in end_of])
    while end_of:
        message = consumer.poll(SILENCE_S)  # not consume(): that waits until it has all it was asked for
        if message is None:
            raise CopyFailed(f"{name}: nothing came for {SILENCE_S:.0f} s")
        error, partition = message.error(), message.partition()
        if error is not None:
            if error.code() != KafkaError._PARTITION_EOF:
                raise CopyFailed(f"{message.topic()}: {error.str()}")
            end_of.pop(partition, None)
        elif partition in end_of:
            if message.offset() < end_of[partition]:
                yield message.key() or b"", message.value() or b"", message.timestamp()[1]
            if message.offset() + 1 >= end_of[partition]:
                del end_of[partition]
    consumer.unassign()


def all_ends(consumer: Consumer, topic: Topic, old: Kafka, count: int) -> dict[Place, int]:
    """Where each partition of a topic ends."""
    name = topic.full_name(old.prefix)
    return {Place(name, p): watermarks(consumer, name, p)[1] for p in range(count)}
