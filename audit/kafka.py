"""Reads whole topics of Kafka, and says in which partition a key belongs. Commits nothing, joins no group."""

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, Self

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from schemas.topics import DEFAULT_PREFIX, Topic

READ_AT_ONCE = 1000
WAIT_S = 0.1
SILENCE_MAX_S = 60.0
ANSWER_S = 30.0


class KafkaAuditError(RuntimeError):
    """Kafka does not answer, or a topic cannot be audited. The message says which and why."""


class Record(NamedTuple):
    """One record as it stands in a topic."""

    partition: int
    offset: int
    key: bytes
    value: bytes


class Span(NamedTuple):
    """Offsets of a partition: the first that is kept, and the one after the last."""

    start: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Where the topics are. `properties`: further settings as librdkafka names them (security, passwords)."""

    bootstrap: str
    prefix: str = DEFAULT_PREFIX
    properties: Mapping[str, str] = field(default_factory=dict, repr=False)
    ignored: frozenset[bytes] = frozenset()  # keys of records that are not looked at

    def without(self, assets: Set[str]) -> Self:
        """The same without the records of some assets."""
        return replace(self, ignored=frozenset(asset.encode() for asset in assets))

    def spans(self, topics: Mapping[str, Topic]) -> dict[str, dict[int, Span]]:
        """The offsets of every partition of the topics, by the names given. Each end is asked after those of the topics
        before it. Raises KafkaAuditError.
        """
        try:
            admin = AdminClient(self._settings())
            known = admin.list_topics(timeout=ANSWER_S).topics
            found = {}
            for name, topic in topics.items():
                full_name = topic.full_name(self.prefix)
                if full_name not in known:
                    raise KafkaAuditError(f"Kafka at {self.bootstrap} has no topic {full_name}")
                partitions = [TopicPartition(full_name, p) for p in sorted(known[full_name].partitions)]
                starts, ends = (
                    _offsets(admin, partitions, spec) for spec in (OffsetSpec.earliest(), OffsetSpec.latest())
                )
                found[name] = {tp.partition: Span(starts[tp], ends[tp]) for tp in partitions}
            return found
        except KafkaException as error:
            raise KafkaAuditError(f"Kafka at {self.bootstrap}: {error}") from error

    def records(self, topic: Topic, spans: Mapping[int, Span]) -> Iterator[Record]:
        """All records within `spans` that are not ignored, per partition in order. Raises KafkaAuditError."""
        name = topic.full_name(self.prefix)
        waiting = {p: span.end for p, span in spans.items() if span.end > span.start}
        consumer = self._consumer()
        silent_s = 0.0
        try:
            consumer.assign([TopicPartition(name, p, spans[p].start) for p in waiting])
            while waiting:
                messages = consumer.consume(READ_AT_ONCE, WAIT_S)
                silent_s = 0.0 if messages else silent_s + WAIT_S
                if silent_s > SILENCE_MAX_S:
                    raise KafkaAuditError(f"Kafka at {self.bootstrap}: {name} cannot be read to its end: {waiting}")
                for message in messages:
                    partition, error = message.partition(), message.error()
                    end = waiting.get(partition)
                    if error is not None:
                        if error.code() == KafkaError._PARTITION_EOF:
                            waiting.pop(partition, None)
                        elif not error.retriable():
                            raise KafkaAuditError(f"Kafka at {self.bootstrap}, topic {name}: {error.str()}")
                        continue
                    if end is None or message.offset() >= end:
                        waiting.pop(partition, None)
                        continue
                    if message.key() not in self.ignored:
                        yield Record(partition, message.offset(), message.key() or b"", message.value() or b"")
                    if message.offset() + 1 == end:
                        del waiting[partition]
        except KafkaException as error:
            raise KafkaAuditError(f"Kafka at {self.bootstrap}, topic {name}: {error}") from error
        finally:
            consumer.close()

    def _consumer(self) -> Consumer:
        settings = {
            **self._settings(),
            "group.id": "unused",  # the client wants one; nothing is ever committed
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "error",
            "queued.max.messages.kbytes": 16_384,
            "fetch.queue.backoff.ms": 5,  # the default stands still for a second when the queue was full
            "fetch.wait.max.ms": 10,
        }
        try:
            return Consumer(settings)
        except KafkaException as error:
            raise KafkaAuditError(f"settings of Kafka's client: {error}") from error

    def _settings(self) -> dict[str, str | int | bool]:
        return {**self.properties, "bootstrap.servers": self.bootstrap, "log.connection.close": False}


def _offsets(admin: AdminClient, partitions: Sequence[TopicPartition], spec: Any) -> dict[TopicPartition, int]:
    asked = admin.list_offsets(dict.fromkeys(partitions, spec), request_timeout=ANSWER_S)
    return {tp: answer.result().offset for tp, answer in asked.items()}


def properties(path: Path) -> dict[str, str]:
    """The settings in a properties file: `name=value` lines, `#` before a comment. Raises KafkaAuditError."""
    found = {}
    try:
        lines = path.read_text("utf-8").splitlines()
    except OSError as error:
        raise KafkaAuditError(f"{path}: cannot be read ({error.strerror})") from error
    for number, line in enumerate(map(str.strip, lines), 1):
        name, equals, value = line.partition("=")
        if line and not line.startswith("#"):
            if not equals:
                raise KafkaAuditError(f"{path}, line {number}: allowed is name=value")  # the line may hold a password
            found[name.strip()] = value.strip()
    return found


def home(key: bytes, partitions: int) -> int:
    """The partition of a key, as Kafka's Java client chooses it."""
    return (murmur2(key) & 0x7FFFFFFF) % partitions


def murmur2(data: bytes) -> int:
    """MurmurHash2, 32 bits, with Kafka's seed (org.apache.kafka.common.utils.Utils.murmur2)."""
    mask, m = 0xFFFFFFFF, 0x5BD1E995
    h = 0x9747B28C ^ len(data)
    whole = len(data) & ~3
    for at in range(0, whole, 4):
        k = int.from_bytes(data[at : at + 4], "little") * m & mask
        k = (k ^ k >> 24) * m & mask
        h = h * m & mask ^ k
    if rest := data[whole:]:
        h = (h ^ int.from_bytes(rest, "little")) * m & mask
    h = (h ^ h >> 13) * m & mask
    return h ^ h >> 15
