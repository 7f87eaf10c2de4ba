"""Kafka's client settings from the configuration, and the topics of `schemas/topics.py` made and compared."""

import contextlib
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewTopic, ResourceType

from runtime.config import Kafka
from schemas.topics import TOPICS, Topic

_TIMING = re.compile(r" \(after \d+ms in state [^)]*\)")
_NOT_ALLOWED = {"TOPIC_AUTHORIZATION_FAILED", "CLUSTER_AUTHORIZATION_FAILED"}

#: The longest that a client waits before it looks for a broker again, but for librdkafka's jitter of up to half of it.
#: Its default lets a broker that is back wait for 10 s, and everything behind that client with it.
RECONNECT_MS = 1000
#: When a thread of ours ends a client that was asked something at a start; until then its user has forgotten it. One
#: that is used for longer ends where it is forgotten, and only takes its time there.
END_AFTER_S = 1.0
LEARN_S = 2.0

#: How often and how a question about offsets is asked again while a partition has no leader.
ASK_ATTEMPTS, ASK_AGAIN_S, ASK_TIMEOUT_S = 20, 0.5, 10.0

T = TypeVar("T")


class TopicMismatch(RuntimeError):
    """A topic exists with another number of partitions than the configuration says."""


class TopicsMissing(RuntimeError):
    """Topics are not there and may not be made by this user."""


def client_settings(kafka: Kafka) -> dict[str, str | int]:
    """Settings that every confluent-kafka client shares: address, how soon it comes back, and security."""
    settings: dict[str, Any] = {
        "bootstrap.servers": kafka.address,
        "reconnect.backoff.max.ms": RECONNECT_MS,
        "security.protocol": kafka.protocol,
        "ssl.ca.location": kafka.ca and str(kafka.ca),
        "ssl.certificate.location": kafka.certificate_file and str(kafka.certificate_file),
        "ssl.key.location": kafka.key_file and str(kafka.key_file),
    }
    if kafka.protocol.startswith("SASL"):
        settings |= {
            "sasl.mechanism": kafka.sasl_mechanism,
            "sasl.username": kafka.user,
            "sasl.password": kafka.password,
        }
    return {name: value for name, value in settings.items() if value is not None}


def read_to_end_settings(kafka: Kafka, group: str) -> dict[str, Any]:
    """Settings of a consumer that reads to the end of what is there, and commits nothing. The client wants a group all
    the same: one that its user may name.
    """
    return {
        **client_settings(kafka),
        "group.id": group,
        "enable.auto.commit": False,
        "enable.partition.eof": True,
    }


def watermarks(consumer: Consumer, topic: str, partition: int) -> tuple[int, int]:
    """First and next offset of a partition, asked patiently. Raises KafkaException."""
    place = TopicPartition(topic, partition)
    low, high = patiently(lambda: consumer.get_watermark_offsets(place, timeout=ASK_TIMEOUT_S))
    return low, high


def patiently(ask: Callable[[], T]) -> T:
    """What Kafka answers, asked again while a partition has no leader: of a topic just made, or as its broker starts.
    Raises KafkaException.
    """
    for _ in range(ASK_ATTEMPTS - 1):
        with contextlib.suppress(KafkaException):
            return ask()
        time.sleep(ASK_AGAIN_S)
    return ask()


def untimed(text: str) -> str:
    """What librdkafka says of a connection, the same for the same trouble."""
    return _TIMING.sub("", text)


def reached(kafka: Kafka, timeout_s: float) -> AdminClient:
    """A client that Kafka has answered. Raises KafkaException with why nobody answers."""
    causes: list[str] = []
    admin = AdminClient({**client_settings(kafka), "error_cb": lambda error: causes.append(untimed(error.str()))})
    try:
        admin.list_topics(timeout=timeout_s)
    except KafkaException as error:
        admin.poll(0)  # the answer is only "no broker"; a wrong password or certificate is told to the callback
        raise KafkaException(error.args[0], *causes[:1]) from error
    end_later(admin)
    return admin


def end_later(client: AdminClient) -> None:
    """Let a thread end this client when its user has forgotten it.

    librdkafka takes up to a second to end one, and a process that starts asks several one after the other.
    """

    def end(kept: list[AdminClient]) -> None:
        time.sleep(END_AFTER_S)
        kept.clear()

    threading.Thread(target=end, args=([client],), name="kafka-end", daemon=True).start()


def close_aside(consumer: Consumer) -> None:
    """Close a consumer of no group in a thread: it takes up to a second, and nothing depends on it."""
    threading.Thread(target=consumer.close, name="kafka-close", daemon=True).start()


def learn_topics(producer: Producer, names: Iterable[str]) -> None:
    """Let a producer learn where the partitions of these topics are; nothing more where Kafka does not answer soon.

    The first record of a topic that it does not know waits until librdkafka looks for what it does not know, which is
    once a second; to ask for all topics at once teaches it none.
    """
    with contextlib.suppress(KafkaException):
        for name in names:
            producer.list_topics(name, timeout=LEARN_S)


def topics_of(role: str) -> tuple[Topic, ...]:
    """The topics that a process writes or reads, by its name in the table of topics."""
    return tuple(topic for topic in TOPICS if role in (*topic.writers, *topic.readers))


def create_topics(kafka: Kafka, topics: Sequence[Topic] = TOPICS, timeout_s: float = 30.0) -> list[str]:
    """Create what is missing of these topics and return the names made.

    Raises TopicMismatch, TopicsMissing where this user may not create them, KafkaException with why nobody answers.
    """
    admin = reached(kafka, timeout_s)
    existing = check_topics(kafka, admin, timeout_s)
    missing = [t for t in topics if t.full_name(kafka.prefix) not in existing]
    wanted = [
        NewTopic(
            t.full_name(kafka.prefix),
            num_partitions=kafka.partitions,
            replication_factor=kafka.replication,
            config=t.settings(),
        )
        for t in missing
    ]
    if not wanted:
        return []
    for name, created in admin.create_topics(wanted, request_timeout=timeout_s).items():
        try:
            created.result()
        except KafkaException as error:
            reason = error.args[0].name()
            if reason in _NOT_ALLOWED:
                names = ", ".join(t.full_name(kafka.prefix) for t in missing)
                raise TopicsMissing(
                    f"topics are missing, or this user has no right on them: {names}. User {kafka.user} may not create "
                    "topics: `twin topics create` as a user who may, and `twin acl` shows who needs which rights"
                ) from error
            if reason != "TOPIC_ALREADY_EXISTS":
                raise KafkaException(*error.args, f"while creating topic {name}") from error
            _wait_for(name, kafka, admin, timeout_s)  # another process was faster; perhaps with other partitions
    return [t.full_name(kafka.prefix) for t in missing]


def set_largest_record(admin: AdminClient, names: Sequence[str], size_bytes: int, timeout_s: float = 30.0) -> None:
    """Change the size in bytes of the largest record that topics take: with 1 they take none. Raises KafkaException."""
    entry = ConfigEntry("max.message.bytes", str(size_bytes), incremental_operation=AlterConfigOpType.SET)
    wanted = [ConfigResource(ResourceType.TOPIC, name, incremental_configs=[entry]) for name in names]
    for answer in admin.incremental_alter_configs(wanted, request_timeout=timeout_s).values():
        answer.result(timeout_s)


def _wait_for(name: str, kafka: Kafka, admin: AdminClient, timeout_s: float) -> None:
    """Until a topic that exists is in the broker's answers, and checked. Raises TopicMismatch, KafkaException."""
    end_s = time.monotonic() + timeout_s
    while name not in check_topics(kafka, admin, timeout_s):
        if time.monotonic() > end_s:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT, f"topic {name} exists but is not shown"))
        time.sleep(0.05)


def check_topics(kafka: Kafka, admin: AdminClient | None = None, timeout_s: float = 30.0) -> set[str]:
    """Names of our topics that exist. Raises TopicMismatch where one has another number of partitions."""
    admin = admin or AdminClient(client_settings(kafka))
    return check_found(kafka, admin.list_topics(timeout=timeout_s).topics)


def check_found(kafka: Kafka, found: Mapping[str, Any]) -> set[str]:
    """The same for topics as Kafka has told them."""
    ours = {name: len(found[name].partitions) for t in TOPICS if (name := t.full_name(kafka.prefix)) in found}
    wrong = [f"{name} has {n} partitions" for name, n in sorted(ours.items()) if n != kafka.partitions]
    if wrong:
        prefix = kafka.configured_prefix
        raise TopicMismatch(
            f"{'; '.join(wrong)}; kafka.partitions = {kafka.partitions}. An asset's readings and its state must share "
            "a partition, so the number cannot simply change. If kafka.partitions was changed: set it back, and use "
            "`twin rescale --partitions N`, which changes it while everything runs. If the topics were: stop "
            f'everything, set a new kafka.prefix (like "{prefix}-2") with the kafka.partitions that you want, run '
            f"`twin topics move {prefix}` and start again: nothing is lost."
        )
    return set(ours)
