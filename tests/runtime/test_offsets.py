"""Questions about offsets while the broker elects a leader; its answers are as librdkafka gives them."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

import runtime.kafka
from replay.sources.span import at_time
from runtime.kafka import ASK_ATTEMPTS, watermarks

NO_LEADER = KafkaError(KafkaError.NOT_LEADER_FOR_PARTITION)


class Electing:
    """A consumer whose broker knows no leader for the first answers."""

    def __init__(self, refusals: int) -> None:
        self.refusals = refusals
        self.asked = 0

    def refuses(self) -> bool:
        """Whether this answer is without a leader."""
        self.asked += 1
        return self.asked <= self.refusals

    def get_watermark_offsets(self, place: TopicPartition, timeout: float) -> tuple[int, int]:
        """3 and 7."""
        if self.refuses():
            raise KafkaException(NO_LEADER)
        return 3, 7

    def offsets_for_times(self, places: list[TopicPartition], timeout: float) -> list[Any]:
        """5 for every partition; without a leader the last one has no offset and an error of its own."""
        found = [SimpleNamespace(partition=p.partition, offset=5, error=None) for p in places]
        if self.refuses():
            found[-1].offset, found[-1].error = -1001, NO_LEADER
        return found


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask again at once."""
    monkeypatch.setattr(runtime.kafka, "ASK_AGAIN_S", 0.0)


def test_watermarks_wait_for_a_leader() -> None:
    """A topic whose leader is not elected yet is asked again until it answers."""
    consumer = Electing(ASK_ATTEMPTS - 1)
    assert watermarks(cast(Consumer, consumer), "twin.raw", 0) == (3, 7)
    assert consumer.asked == ASK_ATTEMPTS


def test_watermarks_do_not_wait_for_ever() -> None:
    """Where no leader comes, Kafka's reason is raised after as many questions as are allowed."""
    consumer = Electing(ASK_ATTEMPTS)
    with pytest.raises(KafkaException, match="NOT_LEADER_FOR_PARTITION"):
        watermarks(cast(Consumer, consumer), "twin.raw", 0)
    assert consumer.asked == ASK_ATTEMPTS


def test_a_partition_without_a_leader_is_not_one_whose_records_are_all_older() -> None:
    """A span's first offsets are those of the log, also where a partition had no leader when they were first asked."""
    consumer = Electing(1)
    assert at_time(cast(Consumer, consumer), "twin.raw", {0: (0, 9), 1: (0, 9)}, 1_000) == {0: 5, 1: 5}
    assert consumer.asked == 2
