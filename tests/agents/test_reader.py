"""Reading: which records come, in which order, and when; against a real Kafka."""

import asyncio
import queue
import time
from collections.abc import Iterator

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from agents import reader
from agents.reader import Reader
from runtime.config import Kafka

TOPIC = f"reader-{time.time_ns()}"
RECORDS = 3000


@pytest.fixture(scope="module")
def topic(kafka: str) -> Iterator[Kafka]:
    """A topic of two partitions; partition 0 holds the numbers from 0 on."""
    settings = {"bootstrap.servers": kafka}
    admin = AdminClient(settings)
    admin.create_topics([NewTopic(TOPIC, num_partitions=2, replication_factor=1)])[TOPIC].result()
    producer = Producer({**settings, "enable.idempotence": True})
    for number in range(RECORDS):
        producer.produce(TOPIC, str(number).encode(), partition=0)
    assert producer.flush(30) == 0
    yield Kafka(bootstrap=kafka)
    admin.delete_topics([TOPIC])[TOPIC].result()


async def _numbers(made: Reader, last: int) -> list[int]:
    found: list[int] = []
    async with asyncio.timeout(20):
        while not found or found[-1] != last:
            term, records = await made.batch()
            assert term == made.term and len(records) <= reader.BATCH_RECORDS
            found += [int(record.value()) for record in records]
    return found


async def test_records_come_in_order_from_the_offset_ordered(topic: Kafka) -> None:
    """Every record from the ordered offset to the end comes once and in order, and the log's end is known."""
    made = Reader(topic, "reader", 0.0)
    try:
        made.read({(TOPIC, 0): 5, (TOPIC, 1): 0})
        assert await _numbers(made, RECORDS - 1) == list(range(5, RECORDS))
        assert made.log_end((TOPIC, 0)) == RECORDS
    finally:
        made.close()


async def test_a_new_order_drops_what_was_read_for_the_old_one(topic: Kafka) -> None:
    """After another order the first record taken is the one it names, whatever waited or was on its way."""
    made = Reader(topic, "reader", 0.0)
    try:
        made.read({(TOPIC, 0): 0})
        assert int((await made.batch()).records[0].value()) == 0
        for begin in (7, 1000, 3):
            made.read({(TOPIC, 0): begin})
            assert int((await made.batch()).records[0].value()) == begin
        made.read({})
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await made.batch()
    finally:
        made.close()


async def test_an_offset_that_is_not_in_the_log_ends_the_process(topic: Kafka, monkeypatch: pytest.MonkeyPatch) -> None:
    """A position that was deleted, or never written, is not replaced by another one."""
    left: queue.Queue[str] = queue.Queue()
    monkeypatch.setattr(reader, "leave", left.put)
    made = Reader(topic, "reader", 0.0)
    try:
        made.read({(TOPIC, 0): RECORDS + 10})
        reason = await asyncio.to_thread(left.get, timeout=20)
    finally:
        made.close()
    assert f"{TOPIC}/0: the next offset is no longer in the log" in reason


async def test_stages_wake_up_one_after_the_other() -> None:
    """The ticks of every process are those of the wall clock, a hop later for every place down the chain."""
    first, second = Reader(Kafka(), "a", 0.25, hop=0), Reader(Kafka(), "a", 0.25, hop=1)
    try:
        assert first._until_tick(1000.1) == pytest.approx(0.15)
        assert second._until_tick(1000.1) == pytest.approx(0.19)
        assert second._until_tick(1000.0) == pytest.approx(reader.HOP_S)
    finally:
        first.close()
        second.close()
