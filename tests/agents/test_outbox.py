"""The producer of an agent."""

import asyncio
import statistics
import time
import uuid
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from agents.outbox import Outbox, Receipts, TooLarge
from runtime.config import Kafka
from runtime.kafka import create_topics
from schemas.topics import VALIDATED

IDLE_S = 2.1  # longer than librdkafka waits between two looks for what it does not know, and just behind one
SOON_S = 0.5  # it takes some 0.01 s, and took 0.9 to 1.0 s


async def test_a_record_is_counted_before_it_can_be_confirmed() -> None:
    """The client's thread may confirm a record before `produce` has returned; one that it does not take counts not."""
    receipts = Receipts()
    answers: list[Any] = [BufferError(), None, KafkaException(KafkaError(KafkaError.MSG_SIZE_TOO_LARGE))]
    counted: list[int] = []

    class Client:
        def produce(self, *_: Any, on_delivery: Any) -> None:
            counted.append(receipts.sent)
            if (answer := answers.pop(0)) is not None:
                raise answer
            on_delivery(None, None)

    outbox = object.__new__(Outbox)
    outbox._producer = Client()
    await outbox.send(receipts, "topic", b"R1", b"frame", 0)
    with pytest.raises(TooLarge):
        await outbox.send(receipts, "topic", b"R1", b"frame", 0)
    assert (counted, receipts.sent) == ([1, 1, 2], 1)
    await receipts.wait()


@pytest.mark.services
def test_the_first_record_does_not_wait(kafka: str) -> None:
    """A process that was idle since its start delivers its first record at once, not at librdkafka's next look."""
    settings = Kafka(bootstrap=kafka, prefix=f"first-{uuid.uuid4().hex[:8]}", partitions=2)
    create_topics(settings)
    topic = VALIDATED.full_name(settings.prefix)

    async def first_s() -> float:
        outbox, receipts = Outbox(settings, [topic]), Receipts()
        await asyncio.sleep(IDLE_S)
        begun = time.monotonic()
        await outbox.send(receipts, topic, b"R1", b"frame", 1)
        await receipts.wait()
        took_s = time.monotonic() - begun
        await asyncio.to_thread(outbox.close, 5.0)
        return took_s

    assert statistics.median(asyncio.run(first_s()) for _ in range(3)) < SOON_S
