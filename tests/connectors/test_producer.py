"""The client of Kafka: what it hands over, and what has to wait."""

import threading
from collections.abc import Callable
from typing import Any

import pytest

from connectors import producer
from connectors.producer import Client, Record
from runtime.config import Kafka

Report = Callable[[object, object], None]


class Silent:
    """librdkafka's producer, whose broker answers only what the test reports."""

    def __init__(self, _settings: dict[str, Any], **_more: object) -> None:
        self.taken: list[tuple[str, bytes, Report]] = []

    def produce(self, topic: str, _value: bytes, key: bytes, _partition: int, on_delivery: Report) -> None:
        """Take a record."""
        self.taken.append((topic, key, on_delivery))


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Client:
    """A new client of a broker that has confirmed nothing yet."""
    monkeypatch.setattr(producer, "Producer", Silent)
    return Client(Kafka(), threading.Condition(), lambda _record: None, lambda _reason, _clear: None)


def takes(client: Client, topic: str, asset: str) -> bool:
    """Whether the client takes a record for this place."""
    return client.take(Record(topic, asset, b"", lambda: None), topic, 4)


def test_the_second_record_waits_for_the_first_one_of_its_place(client: Client) -> None:
    """What Kafka has of an asset in one topic says nothing about its partition of another topic, which may refuse the
    first record and take the second; so there, too, the second one waits."""
    taken = client._producer.taken
    assert takes(client, "rejected", "A")
    assert not takes(client, "raw", "A"), "until one record is confirmed, nobody knows whether anything will be"
    taken[0][2](None, None)
    assert takes(client, "rejected", "A")
    assert takes(client, "raw", "A")
    assert not takes(client, "raw", "A"), "the first one is on its way"
    assert takes(client, "raw", "B")
    assert [(topic, key) for topic, key, _ in taken[2:]] == [("raw", b"A"), ("raw", b"B")]
    taken[2][2](None, None)
    assert takes(client, "raw", "A")
    assert takes(client, "raw", "A")
    assert not takes(client, "raw", "B")
