"""Kafka's client settings from the configuration, and the topics of `schemas/topics.py` made and compared."""

from typing import Any

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, NewTopic

from runtime.config import Kafka
from schemas.topics import TOPICS


class TopicMismatch(RuntimeError):
    """A topic exists with another number of partitions than the configuration says."""


def client_settings(kafka: Kafka) -> dict[str, str | int]:
    """Settings that every confluent-kafka client shares: address and security."""
    settings: dict[str, Any] = {
        "bootstrap.servers": kafka.address,
        "security.protocol": kafka.security,
        "ssl.ca.location": kafka.ca_file and str(kafka.ca_file),
        "ssl.certificate.location": kafka.certificate_file and str(kafka.certificate_file),
        "ssl.key.location": kafka.key_file and str(kafka.key_file),
    }
    if kafka.security.startswith("SASL"):
        settings |= {
            "sasl.mechanism": kafka.sasl_mechanism,
            "sasl.username": kafka.username,
            "sasl.password": kafka.password,
        }
    return {name: value for name, value in settings.items() if value is not None}


def create_topics(kafka: Kafka, timeout_s: float = 30.0) -> list[str]:
    """Create what is missing of the table of topics and return the names made. Raises TopicMismatch, KafkaException."""
    admin = AdminClient(client_settings(kafka))
    existing = check_topics(kafka, admin, timeout_s)
    missing = [t for t in TOPICS if t.full_name(kafka.prefix) not in existing]
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
            if error.args[0].name() != "TOPIC_ALREADY_EXISTS":  # another process was faster
                raise KafkaException(*error.args, f"while creating topic {name}") from error
    return [t.full_name(kafka.prefix) for t in missing]


def check_topics(kafka: Kafka, admin: AdminClient | None = None, timeout_s: float = 30.0) -> set[str]:
    """Names of our topics that exist. Raises TopicMismatch where one has another number of partitions."""
    admin = admin or AdminClient(client_settings(kafka))
    found = admin.list_topics(timeout=timeout_s).topics
    ours = {name: len(found[name].partitions) for t in TOPICS if (name := t.full_name(kafka.prefix)) in found}
    wrong = [f"{name} has {n} partitions" for name, n in sorted(ours.items()) if n != kafka.partitions]
    if wrong:
        raise TopicMismatch(
            f"{'; '.join(wrong)}; kafka.partitions = {kafka.partitions}. An asset's readings and its state must share "
            "a partition, so the number cannot simply change. If kafka.partitions was changed: set it back. If the "
            f'topics were: stop everything, set a new kafka.prefix (like "{kafka.prefix}-2") with the kafka.partitions '
            f"that you want, run `twin topics copy {kafka.prefix}` and start again: nothing is lost."
        )
    return set(ours)
