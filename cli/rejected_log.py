"""What the topic of rejected records says, taken as a log: what was rejected, and what became of it.

A retry leaves two records of its own in the topic: the plan (the very frame to be sent, with its identity) and, when
Kafka or InfluxDB had it, that it was done. Everything about a record is decided from the log alone, so that two
operators who read it see the same. See docs/decisions/0010-retry.md.

A plan counts if its record has no earlier plan and its seq is the next of its asset, source and epoch: of two
operators who plan at the same time, one sees that the other was first, and plans what is left again.
"""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import NamedTuple

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition

from runtime.config import Kafka
from runtime.kafka import read_to_end_settings
from schemas.codec import DecodeError, decode, decode_as
from schemas.frames import Frame, Identity
from schemas.records import RETRY_DONE, RETRY_PLANNED, Rejected
from schemas.topics import REJECTED

SILENCE_S = 30.0
AT_ONCE, GATHER_S = 500, 0.05
GROUP = "twin-rejected"  # named because a client must have one; nothing is committed


class Place(NamedTuple):
    """Where a record stands in the topic of rejected ones."""

    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.partition}/{self.offset}"


class Plan(NamedTuple):
    """A retry that was decided: where it stands, what it sends again, and as which frame."""

    place: Place
    record: Place
    identity: Identity
    digest: bytes


@dataclass(slots=True, kw_only=True)
class Entry:
    """One rejected record, without its bytes. `at_ns`: when it was rejected. `copy_of`: the same thing, rejected twice
    because its stage was killed in between. `again_of`: the record whose retry this is; `again`: the other direction.
    """

    place: Place
    at_ns: int
    record: Rejected  # its payload is left out
    size_bytes: int
    digest: bytes
    copy_of: Place | None = None
    again_of: Place | None = None
    again: Place | None = None
    planned: bool = False
    done: str = ""

    @property
    def is_open(self) -> bool:
        """Whether nothing was done about it yet."""
        return not self.done and not self.planned and self.copy_of is None

    @property
    def status(self) -> str:
        """What became of it, in a few words."""
        if self.copy_of is not None:
            return f"copy of {self.copy_of}"
        if self.again is not None:
            return f"rejected again: {self.again}"
        if self.done:
            return self.done
        if self.planned:
            return "on its way"
        return "open" if self.again_of is None else f"open, again of {self.again_of}"


@dataclass(slots=True)
class RejectedLog:
    """The topic as read so far. `unreadable` counts records in it that are none of ours."""

    kafka: Kafka
    entries: dict[Place, Entry] = field(default_factory=dict)
    plans: dict[Place, Plan] = field(default_factory=dict)  # those that count, by the record they send again
    unreadable: int = 0
    newest_epoch: int = 0
    _planned: dict[Place, Plan] = field(default_factory=dict)
    _foreign: set[Place] = field(default_factory=set)  # planned by a later version, in a schema unknown to this one
    _done: dict[Place, tuple[Place, str]] = field(default_factory=dict)
    _next: dict[int, int] = field(default_factory=dict)
    _last_seq: dict[tuple[str, str, int], int] = field(default_factory=dict)

    def update(self) -> None:
        """Read what was added since the last time. Raises KafkaException."""
        for message in self._new_messages():
            self._next[message.partition()] = message.offset() + 1
            self._take(message)
        self._conclude()

    def next_seq(self, asset: str, source: str, epoch: int) -> int:
        """The seq that follows the plans of this asset, source and epoch."""
        return self._last_seq.get((asset, source, epoch), -1) + 1

    def pending(self) -> list[Plan]:
        """Plans of which nobody said that they were done, in the order in which they must be sent."""
        done = {record for record, _ in self._done.values()}
        return sorted(plan for plan in self.plans.values() if plan.record not in done)

    def read(self, places: Iterable[Place]) -> dict[Place, Rejected]:
        """These records with their bytes; places where there is none (any more) are left out. Raises KafkaException."""
        found = {}
        consumer = self._consumer()
        try:
            for place in places:
                consumer.assign([TopicPartition(REJECTED.full_name(self.kafka.prefix), *place)])
                message = self._next_of(consumer)
                if message is not None and message.offset() == place.offset:
                    found[place] = decode_as(message.value() or b"", Rejected)
        finally:
            consumer.close()
        return found

    def _next_of(self, consumer: Consumer) -> Message | None:
        end_s = time.monotonic() + SILENCE_S
        while time.monotonic() < end_s:
            message: Message | None = consumer.poll(0.5)
            if message is None:
                continue
            error = message.error()
            if error is None:
                return message
            if error.code() == KafkaError._PARTITION_EOF:
                return None
            raise KafkaException(error)
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT, f"Kafka is silent ({self.kafka.address})"))

    def _consumer(self) -> Consumer:
        return Consumer(
            {
                **read_to_end_settings(self.kafka, GROUP),
                "auto.offset.reset": "earliest",
                "fetch.wait.max.ms": 10,  # the end is told after a fetch that found nothing
            }
        )

    def _new_messages(self) -> Iterator[Message]:
        consumer = self._consumer()
        try:
            topic = REJECTED.full_name(self.kafka.prefix)
            found = consumer.list_topics(topic, timeout=10).topics[topic]
            if not found.partitions:
                raise KafkaException(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART, f"no topic {topic}"))
            waiting = set(found.partitions)
            consumer.assign([TopicPartition(topic, p, self._next.get(p, OFFSET_BEGINNING)) for p in waiting])
            heard_s = time.monotonic()
            while waiting:
                for message in consumer.consume(AT_ONCE, GATHER_S):
                    heard_s = time.monotonic()
                    error = message.error()
                    if error is None:
                        yield message
                    elif error.code() == KafkaError._PARTITION_EOF:
                        waiting.discard(message.partition())
                    else:
                        raise KafkaException(error)
                if time.monotonic() - heard_s > SILENCE_S:
                    raise KafkaException(KafkaError(KafkaError._TIMED_OUT, f"Kafka is silent ({self.kafka.address})"))
        finally:
            consumer.close()

    def _take(self, message: Message) -> None:
        place = Place(message.partition(), message.offset())
        try:
            record = decode_as(message.value() or b"", Rejected)
            about = Place(record.partition, record.offset)
            digest = blake2b(record.payload, digest_size=16).digest()
            if record.stage == RETRY_PLANNED:
                self._take_plan(place, about, record.payload, digest)
            elif record.stage == RETRY_DONE:
                self._done[place] = (about, record.reason)
            else:
                self.entries[place] = Entry(
                    place=place,
                    at_ns=message.timestamp()[1] * 1_000_000,
                    record=replace(record, payload=b""),
                    size_bytes=len(record.payload),
                    digest=digest,
                )
        except DecodeError:
            self.unreadable += 1

    def _take_plan(self, place: Place, about: Place, payload: bytes, digest: bytes) -> None:
        try:
            self._planned[place] = Plan(place, about, frame_in(payload).identity, digest)
        except DecodeError:
            self._foreign.add(about)

    def _conclude(self) -> None:
        """Everything that follows from the records read."""
        self.plans.clear()
        self._last_seq.clear()
        begun = set()
        for _, plan in sorted(self._planned.items()):
            asset, source, epoch, seq = plan.identity
            chain = (asset, source, epoch)
            # A chain that does not begin with 0 has lost its first plans to the topic's retention.
            expected = self._last_seq.get(chain, -1) + 1 if chain in begun else seq
            begun.add(chain)
            if seq == expected and plan.record not in self.plans:
                self.plans[plan.record] = plan
                self._last_seq[chain] = seq
            self.newest_epoch = max(self.newest_epoch, epoch)
        self._link()

    def _link(self) -> None:
        sent = {plan.digest: plan.record for plan in self.plans.values()}
        done = dict(self._done.values())
        first: dict[object, Place] = {}
        for entry in sorted(self.entries.values(), key=lambda e: (e.at_ns, e.place)):
            record = entry.record
            entry.planned = entry.place in self.plans or entry.place in self._foreign
            entry.done = done.get(entry.place, "")
            entry.again_of = sent.get(entry.digest)
            same = (
                record.stage,
                entry.digest,
                *((record.topic, record.partition, record.offset, record.tag) if entry.again_of is None else ()),
            )
            if record.offset >= 0:
                original = first.setdefault(same, entry.place)
                entry.copy_of = None if original == entry.place else original
            parent = self.entries.get(entry.again_of) if entry.again_of else None
            if parent is not None and entry.copy_of is None:
                parent.again = entry.place


def frame_in(data: bytes) -> Frame:
    """The frame, of whichever stage, in these bytes. Raises DecodeError."""
    record = decode(data)
    if not isinstance(record, Frame):
        raise DecodeError(f"record is a {type(record).__name__}, allowed here is a frame")
    return record
