"""The topic of generations, read and written: which topics a process works with.

What it says: `schemas/generations.py`. Where the topic does not exist, the configured prefix and partitions are at
work.
"""

import logging
import os
from contextlib import closing
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from runtime.config import Kafka
from runtime.kafka import client_settings, close_aside, reached
from schemas.generations import SETTINGS, Generation, Plan, PlanError, topic_name

#: NUMBER:PREFIX:PARTITIONS. A process with this works with that generation and no other: those of a rescale.
FORCED = "TWIN_GENERATION"
READ_S = 30.0
#: What matters comes as an error to whoever asks.
_SILENT = logging.getLogger(f"{__name__}.librdkafka")
_SILENT.disabled = True


def forced(kafka: Kafka) -> Kafka | None:
    """The configuration for the generation that the environment demands; None where it demands none."""
    text = os.environ.get(FORCED)
    if text is None:
        return None
    number, prefix, partitions = text.split(":")
    return kafka.at(Generation(number=int(number), prefix=prefix, partitions=int(partitions)))


def as_forced(generation: Generation) -> dict[str, str]:
    """The environment for a process of this generation."""
    return {FORCED: f"{generation.number}:{generation.prefix}:{generation.partitions}"}


def at_work(kafka: Kafka, timeout_s: float = READ_S) -> Kafka:
    """The configuration with prefix and partitions of the generation that is at work now.

    Raises KafkaException, PlanError where the record cannot be read.
    """
    found = forced(kafka)
    if found is not None:
        return found
    plan = newest(kafka, timeout_s)
    return kafka if plan is None else kafka.at(plan.active)


def newest(kafka: Kafka, timeout_s: float = READ_S) -> Plan | None:
    """The plan as it stands; None where there never was one. Raises KafkaException, PlanError."""
    admin = reached(kafka, timeout_s)
    if topic_name(kafka.configured_prefix) not in admin.list_topics(timeout=timeout_s).topics:
        return None
    with closing(PlanReader(kafka)) as reader:
        return reader.newest(timeout_s)


class PlanReader:
    """Reads the newest plan; where nothing is new that is one small request. For one thread."""

    def __init__(self, kafka: Kafka) -> None:
        self._name = topic_name(kafka.configured_prefix)
        self._consumer = Consumer(
            {
                **client_settings(kafka),
                "group.id": "unused",
                "enable.auto.commit": False,
                "auto.offset.reset": "error",
                "log.connection.close": False,
            },
            logger=_SILENT,
        )
        self._end = 0
        self._plan: Plan | None = None

    def newest(self, timeout_s: float) -> Plan | None:
        """The last record; None before the first one. Raises KafkaException, PlanError."""
        _, end = self._consumer.get_watermark_offsets(TopicPartition(self._name, 0), timeout=timeout_s)
        if end > self._end:
            self._consumer.assign([TopicPartition(self._name, 0, end - 1)])
            while self._end < end:
                message = self._consumer.poll(timeout_s)
                if message is None:
                    raise KafkaException(KafkaError(KafkaError._TIMED_OUT, f"{self._name} is not sent"))
                if message.error() is None:  # others concern a group that nobody joins, or are tried again
                    self._plan, self._end = Plan.decode(message.value() or b""), message.offset() + 1
            self._consumer.unassign()
        return self._plan

    def list_topics(self, timeout: float) -> Any:
        """Kafka's answer. Raises KafkaException."""
        return self._consumer.list_topics(timeout=timeout)

    def close(self) -> None:
        """Let go of the connection."""
        close_aside(self._consumer)


def write(kafka: Kafka, plan: Plan) -> None:
    """Make this the plan; returns when Kafka has it. Makes the topic where there is none. Raises KafkaException."""
    name = topic_name(kafka.configured_prefix)
    admin = reached(kafka, READ_S)
    if name not in admin.list_topics(timeout=READ_S).topics:
        _create(admin, name, kafka.replication)
    failed: list[KafkaError] = []
    producer = Producer({**client_settings(kafka), "acks": "all", "enable.idempotence": True})
    producer.produce(name, plan.encode(), on_delivery=lambda error, _: failed.append(error) if error else None)
    if producer.flush(READ_S) or failed:
        raise KafkaException(failed[0] if failed else KafkaError(KafkaError._TIMED_OUT, f"{name} takes no record"))


def _create(admin: AdminClient, name: str, replication: int) -> None:
    wanted = NewTopic(name, num_partitions=1, replication_factor=replication, config=SETTINGS)
    try:
        admin.create_topics([wanted])[name].result(READ_S)
    except KafkaException as error:
        if error.args[0].name() != "TOPIC_ALREADY_EXISTS":
            raise


__all__ = ["PlanError", "PlanReader", "as_forced", "at_work", "forced", "newest", "write"]
