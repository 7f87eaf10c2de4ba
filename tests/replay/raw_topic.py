"""A raw topic with frames of a few assets, over midnight, and with records that are no frames."""

import time
from contextlib import closing

from confluent_kafka import Producer

from replay.sources.records import RawRecord
from replay.sources.topic import Reader
from runtime.config import Kafka
from runtime.kafka import client_settings, create_topics
from runtime.partitions import home_partition
from schemas.codec import encode
from schemas.topics import RAW
from tests.audit.flow import Flow

PARTITIONS = 2
#: A midnight not long ago: what is older than the topic's retention is deleted before the test has read it.
MIDNIGHT_MS = (int(time.time()) // 86_400 - 1) * 86_400_000
STEP_MS = 1000
ASSETS = ("R-1", "R-2", "werk/süd 3", "_unreadable")


def raw_topic(bootstrap: str, prefix: str) -> Kafka:
    """A fresh prefix with all topics, empty."""
    kafka = Kafka(bootstrap=bootstrap, prefix=prefix, partitions=PARTITIONS)
    create_topics(kafka)
    return kafka


def fill(kafka: Kafka, first: int, last: int) -> None:
    """Frames `first` to before `last` of every asset, one a second around midnight, and one that is none before."""
    producer = Producer({**client_settings(kafka), "enable.idempotence": True})
    flow = Flow("raw")
    for n in range(first, last):
        time_ms = MIDNIGHT_MS + (n - 20) * STEP_MS
        if n % 10 == 0:
            producer.produce(RAW.full_name(kafka.prefix), b"no frame", b"R-1", n // 10 % 2, timestamp=time_ms)
        for asset in ASSETS:
            times = [(time_ms - 900) * 1_000_000 + i * 100_000_000 for i in range(4)]
            value = encode(flow.frame(asset, n, times, [85.0 + n, 2.5, 85.1, 2.4]))
            key = asset.encode()
            producer.produce(
                RAW.full_name(kafka.prefix), value, key, home_partition(key, PARTITIONS), timestamp=time_ms
            )
    assert producer.flush(30) == 0


def everything(kafka: Kafka) -> list[RawRecord]:
    """All that the topic has, by partition and offset."""
    topic = RAW.full_name(kafka.prefix)
    with closing(Reader(kafka)) as reader:
        return sorted(record for batch in reader.read(topic, reader.spans(topic)) for record in batch)
