"""Records between two offsets, straight from a real broker."""

import time

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from replay.topic import LostRecords, read, spans_of
from runtime.config import Kafka

TOPIC = "source-test"
START_MS = int(time.time()) * 1000 - 3_600_000
pytestmark = pytest.mark.services


@pytest.fixture(scope="module")
def filled(kafka: str) -> Kafka:
    """A topic of two partitions with 3,000 records each."""
    admin = AdminClient({"bootstrap.servers": kafka})
    admin.create_topics([NewTopic(TOPIC, 2, 1)])[TOPIC].result(30)
    producer = Producer({"bootstrap.servers": kafka})
    for n in range(3000):
        for partition in (0, 1):
            producer.produce(TOPIC, b"%d" % n, b"key", partition, timestamp=START_MS + n)
    assert producer.flush(30) == 0
    return Kafka(bootstrap=kafka)


def test_every_record_of_the_spans_comes_once_in_order(filled: Kafka) -> None:
    """Per partition, exactly the offsets from the start to before the end, each with its own bytes and time."""
    spans = {0: (10, 2500), 1: (0, 3000)}
    assert spans_of(filled, TOPIC) == {0: (0, 3000), 1: (0, 3000)}
    records = [record for batch in read(filled, TOPIC, spans) for record in batch]
    for partition, (start, end) in spans.items():
        of_partition = [r for r in records if r.partition == partition]
        assert [r.offset for r in of_partition] == list(range(start, end))
        assert all((r.key, r.value) == (b"key", b"%d" % r.offset) for r in of_partition)
        assert all(r.time_ms == START_MS + r.offset for r in of_partition)


def test_records_that_retention_took_are_an_error(filled: Kafka) -> None:
    """A span that begins before the log does is refused, never read from its first record."""
    admin = AdminClient({"bootstrap.servers": filled.address})
    place = TopicPartition(TOPIC, 1, 100)
    admin.delete_records([place])[place].result(30)
    assert spans_of(filled, TOPIC)[1] == (100, 3000)
    with pytest.raises(LostRecords, match=r"partition 1: offsets 50 to 2999 are not there"):
        list(read(filled, TOPIC, {1: (50, 3000)}))
