"""The MQTT connector's loop between a scripted session and a scripted Kafka."""

import json
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from connectors import mqtt
from connectors.mqtt_client import Connection, Message
from runtime.config import Framing, Mqtt, Plant
from runtime.health import Health
from schemas.frames import Frame, Gap

SECOND_NS = 1_000_000_000
NOW_NS = 1_800_000_000 * SECOND_NS


class Broker:
    """The session: `rounds` of messages, one for each time the connector waits; then it is told to stop."""

    up = True
    stop: Callable[[], None]

    def __init__(self, rounds: list[list[Message]]) -> None:
        self.rounds = deque(rounds)
        self.acknowledged: list[Message] = []
        self._arrived: deque[Message] = deque()

    def poll(self, _timeout_s: float) -> None:
        """Wait."""
        if self.rounds:
            self._arrived += self.rounds.popleft()
        else:
            self.stop()

    def next(self) -> Message | None:
        """The next message."""
        return self._arrived.popleft() if self._arrived else None

    def acknowledge(self, messages: list[Message]) -> None:
        """They are safe."""
        self.acknowledged += messages

    def wake(self) -> None:
        """It never sleeps."""

    def close(self) -> None:
        """It is over."""


class Kafka:
    """Delivery: confirms the first `confirms` frames at once, the others never."""

    def __init__(self, confirms: float = float("inf")) -> None:
        self.frames: list[Frame] = []
        self.losses: deque[Gap] = deque()
        self._confirms = confirms

    def send(self, frame: Frame, on_safe: Callable[[], None]) -> None:
        """Take a frame."""
        self.frames.append(frame)
        if len(self.frames) <= self._confirms:
            on_safe()

    def stop_waiting(self) -> None:
        """It never does."""

    def close(self, _timeout_s: float) -> bool:
        """Whether everything is safe."""
        return len(self.frames) <= self._confirms


def message(asset: str, times_s: list[float | None], mid: int = 0, connection: object = None) -> Message:
    """A batch with a reading for each time, relative to its arrival; None for one that has no time."""
    readings: list[dict[str, Any]] = [{"value": n} for n in range(len(times_s))]
    for reading, time_s in zip(readings, times_s, strict=True):
        if time_s is not None:
            reading["timestamp"] = NOW_NS + round(time_s * SECOND_NS)
    payload = json.dumps(readings).encode()
    topic = f"reactor/{asset}/sensor/t".encode()
    return Message(cast(Connection, connection), mid, topic, payload, len(payload), False, NOW_NS)


def run(monkeypatch: pytest.MonkeyPatch, state_dir: Path, broker: Broker, kafka: Kafka, qos: int = 1) -> None:
    """A connector's life from its start until the broker has no more messages."""
    monkeypatch.setattr(mqtt, "HEALTH", Health())
    monkeypatch.setattr(mqtt, "Session", lambda *_given, **_more: broker)
    monkeypatch.setattr(mqtt, "Delivery", lambda *_given: kafka)
    config = Mqtt.model_validate({"state_dir": state_dir, "qos": qos, "framing": Framing(linger_s=0)})
    connector = mqtt.Connector(Plant(), config)
    broker.stop = connector.stop
    connector.run()


def test_only_what_is_safe_counts_as_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a restarted process takes for heard ends with what is safe: with QoS 0 the rest has died with the process,
    and the gap has to begin before it, also where it is a batch of old readings."""
    broker = Broker(
        [
            [message("R1", [-10.0])],
            [message("R1", [-8.0]), message("R1", [-6.0]), message("R2", [-30.0, -90.0, -1.0]), message("R3", [None])],
        ]
    )
    kafka = Kafka(confirms=1)
    run(monkeypatch, tmp_path, broker, kafka, qos=0)
    assert sum(map(len, kafka.frames)) == 7
    saved = json.loads((tmp_path / "mqtt-1.assets.json").read_text())
    assert saved == {"R1": NOW_NS - 8 * SECOND_NS, "R2": NOW_NS - 90 * SECOND_NS, "R3": NOW_NS}


def test_what_is_safe_counts_as_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When everything is safe, a gap would begin with the last message."""
    broker = Broker([[message("R1", [-10.0])], [message("R1", [-8.0]), message("R1", [-9.0])]])
    run(monkeypatch, tmp_path, broker, Kafka(), qos=0)
    saved = json.loads((tmp_path / "mqtt-1.assets.json").read_text())
    assert saved == {"R1": NOW_NS - 9 * SECOND_NS}
