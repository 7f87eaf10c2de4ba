"""Records between two offsets, straight from a real broker."""

import time
from contextlib import closing

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from replay.sources.topic import LostRecords, Reader, only, spans_of
from runtime.config import Kafka

TOPIC = "source-test"
START_MS = int(time.time()) * 1000 - 3_600_000
pytestmark = pytest.mark.services


@pytest.fixture(scope="module")
def filled(kafka: str) -> Kafka:
    """A topic of two partitions with 3,000 records each."""
    admin = AdminClient({"bootstrap.servers": kafka})
    admin.create_topics([NewTopic(TOPIC, 2, 1)])[TOPIC].result(30)
    producer = Producer({"bootstrap.servers": kafka, "enable.idempotence": True})
    for n in range(3000):
        for partition in (0, 1):
            producer.produce(TOPIC, b"%d" % n, b"key", partition, timestamp=START_MS + n)
    assert producer.flush(30) == 0
    return Kafka(bootstrap=kafka)


def test_every_record_of_the_spans_comes_once_in_order(filled: Kafka) -> None:
    """Per partition, exactly the offsets from the start to before the end, each with its own bytes and time."""
    spans = {0: (10, 2500), 1: (0, 3000)}
    assert spans_of(filled, TOPIC) == {0: (0, 3000), 1: (0, 3000)}
    with closing(Reader(filled)) as reader:
        records = [record for batch in reader.read(TOPIC, spans) for record in batch]
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
    with (
        closing(Reader(filled)) as reader,
        pytest.raises(LostRecords, match=r"partition 1: offsets 50 to 2999 are not there"),
    ):
        list(reader.read(TOPIC, {1: (50, 3000)}))


def test_one_connection_reads_one_part_after_the_other(filled: Kafka) -> None:
    """What was fetched for one part, and not read, never comes in another; only wanted keys come."""
    with closing(Reader(filled)) as reader:
        for start, end in ((200, 250), (210, 220), (2990, 3000)):
            found = [r for batch in reader.read(TOPIC, {1: (start, end)}) for r in batch]
            assert [(r.partition, r.offset) for r in found] == [(1, offset) for offset in range(start, end)]
        first = next(iter(reader.read(TOPIC, {0: (0, 3000)})))  # left in the middle
        assert first[0].offset == 0
        assert [r.offset for batch in reader.read(TOPIC, {0: (5, 7), 1: (150, 150)}) for r in batch] == [5, 6]
        assert [r for batch in reader.read(TOPIC, {0: (0, 9)}, wanted=only(["other*"])) for r in batch] == []
        wanted = reader.read(TOPIC, {0: (0, 9)}, wanted=only(["k*"]))
        assert len([r for batch in wanted for r in batch]) == 9
