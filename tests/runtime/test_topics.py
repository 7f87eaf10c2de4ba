"""Topics on the real broker: made from the table with their settings, and compared with it."""

import pytest
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType

from runtime.config import Kafka
from runtime.kafka import TopicMismatch, create_topics
from schemas.topics import TOPICS

pytestmark = pytest.mark.services


def test_topics_are_made_once_with_their_settings(kafka: str) -> None:
    """All topics of the table are made with partitions, retention and clean-up policy; a second call makes none."""
    settings = Kafka(bootstrap=kafka, prefix="topics-made", partitions=3)
    assert sorted(create_topics(settings)) == sorted(t.full_name("topics-made") for t in TOPICS)
    assert create_topics(settings) == []
    admin = AdminClient({"bootstrap.servers": kafka})
    for topic in TOPICS:
        name = topic.full_name("topics-made")
        assert len(admin.list_topics(name, timeout=10).topics[name].partitions) == 3
        resource = ConfigResource(ResourceType.TOPIC, name)
        actual = admin.describe_configs([resource])[resource].result()
        for key, value in topic.settings().items():
            assert actual[key].value == value, (name, key)


def test_another_number_of_partitions_is_refused_with_the_remedy(kafka: str) -> None:
    """Topics with another number of partitions than configured are an error that says what to do."""
    create_topics(Kafka(bootstrap=kafka, prefix="topics-cut", partitions=2))
    with pytest.raises(
        TopicMismatch, match=r"topics-cut\.raw has 2 partitions.*kafka\.partitions = 4.*twin topics move topics-cut"
    ):
        create_topics(Kafka(bootstrap=kafka, prefix="topics-cut", partitions=4))
