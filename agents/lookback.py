"""Whether a part of a partition holds anything that a stage has a state for. May not know Faust."""

import logging
from collections.abc import Callable

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, TopicPartition

from agents.ownership import Partition
from runtime.config import Kafka
from runtime.kafka import close_aside, read_to_end_settings
from runtime.metrics import RETRIES

log = logging.getLogger(__name__)

READ_AT_ONCE, WAIT_S = 200, 0.05
QUEUE_KBYTES = 8 * 1024

IsFrame = Callable[[bytes | None, bytes | None], bool]


def holds_frame(
    kafka: Kafka, group: str, tp: Partition, end: int, *, is_frame: IsFrame, beat: Callable[[int], None]
) -> bool:
    """Whether a record of the partition before offset `end` is one for which `is_frame(key, value)` holds.

    Blocks; retries while Kafka does not answer. The client wants a group that its user may name, nothing is committed.
    `beat(looks)` is called now and then.
    """
    looks = 0
    consumer = Consumer(_settings(kafka, group))
    try:
        consumer.assign([TopicPartition(*tp, OFFSET_BEGINNING)])
        while True:
            for message in consumer.consume(READ_AT_ONCE, WAIT_S):
                error = message.error()
                if error is not None:
                    if error.code() == KafkaError._PARTITION_EOF:
                        return False
                    log.warning("reading %s/%d: %s (%s)", *tp, error.str(), error.name())
                    RETRIES.labels(dependency="kafka").inc()
                elif message.offset() >= end:
                    return False
                elif is_frame(message.key(), message.value()):
                    return True
            looks += 1
            beat(looks)
    finally:
        close_aside(consumer)


def _settings(kafka: Kafka, group: str) -> dict[str, object]:
    return {
        **read_to_end_settings(kafka, group),
        "auto.offset.reset": "earliest",
        "queued.max.messages.kbytes": QUEUE_KBYTES,
        "log.connection.close": False,
    }
