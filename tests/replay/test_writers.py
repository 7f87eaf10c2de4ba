"""What writers do with results that do not go where they belong. No Kafka, no InfluxDB."""

from typing import Any

import numpy as np
import pytest
from confluent_kafka import KafkaError, KafkaException

from replay.fold.lane import Folded
from replay.results import points, writers
from replay.results.points import PointsWriter
from replay.results.writers import TopicWriter
from replay.sources.raw import Raw
from runtime.config import Kafka, Plant, Sink
from schemas.codec import decode_as
from schemas.records import OUTPUT_TOO_LARGE, Rejected
from schemas.topics import MAX_RECORD_BYTES
from store.influx_writer import Unwanted
from tests.replay import made_runs


class SmallTopics:
    """A producer that takes what Kafka takes."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.sent: list[tuple[str, bytes]] = []

    def produce(self, topic: str, data: bytes, *_: object, **__: object) -> None:
        """Refuses as the client does."""
        if len(data) >= MAX_RECORD_BYTES:
            raise KafkaException(KafkaError(KafkaError.MSG_SIZE_TOO_LARGE))
        self.sent.append((topic, data))

    def poll(self, timeout_s: float) -> None:
        """Nothing waits."""


def test_what_is_too_large_for_a_topic_is_rejected_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The record goes to the rejected ones, once, and whoever counts them sees it."""
    made: list[SmallTopics] = []
    monkeypatch.setattr(writers, "Producer", lambda settings: made.append(SmallTopics(settings)) or made[0])
    frame = made_runs.frames("R101", {"temperature": np.full(5, 80.0)})[0]
    found = Folded(key=b"R101", raws=[Raw("raw", 0, 7, b"", frame)], encoded=[b"validated", bytes(MAX_RECORD_BYTES)])
    TopicWriter(Kafka(prefix="small")).take(found)
    assert [(r.stage, r.asset, r.offset) for r in found.rejected] == [("estimation", "R101", 7)]
    assert found.rejected[0].reason.startswith(f"{OUTPUT_TOO_LARGE}: {MAX_RECORD_BYTES} bytes")
    assert [topic for topic, _ in made[0].sent] == ["small.validated", "small.rejected"]
    assert decode_as(made[0].sent[1][1], Rejected) == found.rejected[0]


class Requests:
    """A client of InfluxDB that notes how many lines each request has."""

    def __init__(self, *_: object) -> None:
        self.sizes: list[int] = []

    async def write(self, lines: list[str]) -> list[Unwanted]:
        """Stored."""
        self.sizes.append(len(lines))
        return []

    async def close(self) -> None:
        """Nothing to close."""


def test_a_frame_with_many_readings_goes_in_several_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """No request has more lines than the sink's, however many readings one frame has."""
    client = Requests()
    monkeypatch.setattr(points, "InfluxWriter", lambda *_: client)
    raw = made_runs.frames("R101", {"temperature": np.full(250, 80.0)}, per_frame=250)
    ((estimates, _),) = made_runs.results("R101", raw, made_runs.settings())
    writer = PointsWriter(Plant(sink=Sink(batch_lines=100)), "corrected-1")
    writer.begin(0)
    writer.take(Folded(key=b"R101", raws=(), estimates=estimates))
    writer.end()
    assert client.sizes == [100, 100, 50]
