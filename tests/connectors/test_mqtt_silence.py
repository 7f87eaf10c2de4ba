"""A broker that says nothing, although it could."""

import time

import pytest

from connectors.mqtt_silence import PART, Silence
from runtime.config import Mqtt
from runtime.health import Health


class Clock:
    """Monotonic time as the test wants it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 0.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now_s)


def test_silence_is_unhealthy_and_ends_with_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the limit the reason names broker, filters and user; a message ends it, and only then a gap is due."""
    clock, health = Clock(monkeypatch), Health()
    silence = Silence(Mqtt(host="broker", port=1, username="twin", silence_s=10), health)
    silence.look(waits=True)
    clock.now_s = 10.0
    silence.look(waits=True)
    assert health.reason(PART) == ""
    assert not silence.ended()
    silence.look(waits=True)
    clock.now_s = 20.1
    silence.look(waits=True)
    assert all(word in health.reason(PART) for word in ("broker:1", "10 s", "reactor/+/sensor/#", "twin"))
    assert silence.ended()
    assert health.reason(PART) == ""
    assert not silence.ended()


def test_no_connection_and_a_kafka_that_is_away_are_no_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time counts only while a message could come and be taken; "off" counts none."""
    clock, health = Clock(monkeypatch), Health()
    silence = Silence(Mqtt(silence_s=10), health)
    off = Silence(Mqtt.model_validate({"silence_s": "off"}), health)
    for clock.now_s in range(0, 100, 8):
        silence.look(waits=clock.now_s % 16 == 0)
        off.look(waits=True)
    assert health.reason(PART) == ""
