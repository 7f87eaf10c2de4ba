"""Devices of the plant and a real broker that goes away."""

import time
from pathlib import Path

import orjson
import paho.mqtt.client as paho
import pytest

from plant.journal import Journal
from plant.mqtt_devices import Devices
from plant.samples import Sample
from services.mosquitto import Mosquitto

pytestmark = pytest.mark.services


def sample(n: int) -> Sample:
    """The n-th reading."""
    return Sample(asset="R1", tag="t", unit="", protocol="mqtt", source_time_ns=n * 1000, value=float(n))


def test_what_is_sent_while_a_connection_is_made_does_not_overtake(tmp_path: Path) -> None:
    """Messages reach the broker in the order in which a device sent them, those of an outage of the broker, too."""
    broker = Mosquitto(tmp_path / "mosquitto", tmp_path / "mosquitto.log")
    broker.start()
    broker.wait_ready(20)
    seen: list[float] = []
    reader = paho.Client(paho.CallbackAPIVersion.VERSION2, "reader", clean_session=False, protocol=paho.MQTTv311)
    reader.on_message = lambda _client, _data, message: seen.append(orjson.loads(message.payload)["value"])
    reader.reconnect_delay_set(1, 1)
    try:
        reader.connect(broker.host, broker.port)
        reader.subscribe("reactor/#", qos=1)
        reader.loop_start()
        devices = Devices(broker.host, broker.port, Journal(None))
        devices.connect(["R1"])
        sent = 0
        for event, lasts_s in ((lambda: None, 0.5), (broker.stop, 1.0), (broker.start, 3.0)):
            event()
            end_s = time.monotonic() + lasts_s
            while time.monotonic() < end_s:  # as fast as it gets: some are sent between TCP's and MQTT's connect
                devices.publish([sample(sent)])
                sent += 1
                devices.poll(0.001)
        devices.drain(20)
        end_s = time.monotonic() + 20
        while len(set(seen)) < sent and time.monotonic() < end_s:
            time.sleep(0.05)
    finally:
        reader.loop_stop()
        broker.stop()
    assert list(dict.fromkeys(seen)) == [float(n) for n in range(sent)]
