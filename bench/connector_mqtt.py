"""What the MQTT connector costs and how fast it is: `python -m bench.connector_mqtt [--seconds 20] [--burst 50000]`.

Needs Kafka and mosquitto (KAFKA_BOOTSTRAP, MQTT_HOST, MQTT_PORT as `twin env` prints them). The connector runs as a
process of its own. Load: 1,000 sensors of 10 reactors, one QoS 1 message per sensor and second, evenly spread. Then a
burst: the messages wait in the broker, and the connector, started afresh, drains them; the time runs from the first
arrival to the last frame closed. CPU is the process's own, user and system.
"""

import argparse
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import paho.mqtt.client as paho
import psutil
from confluent_kafka import Consumer

from runtime.config import Plant
from runtime.kafka import client_settings, create_topics
from schemas.codec import decode_as
from schemas.frames import Frame
from schemas.topics import RAW

CODE = (
    "import sys; from connectors.mqtt import run; from runtime.config import Plant; from runtime import logs; "
    "logs.configure('connector'); sys.exit(run(Plant.model_validate_json(sys.argv[1]), sys.argv[2]))"
)
ASSETS, TAGS = 10, 100


@contextmanager
def connector(plant: Plant) -> Iterator[psutil.Process]:
    """The connector as a process that has subscribed; stopped at the end."""
    with tempfile.NamedTemporaryFile("w+") as log:
        command = [sys.executable, "-c", CODE, plant.model_dump_json(), plant.mqtt[0].id]
        child = subprocess.Popen(command, stderr=log)
        try:
            while "mqtt: connected" not in Path(log.name).read_text():
                time.sleep(0.05)
            yield psutil.Process(child.pid)
        finally:
            child.terminate()
            child.wait(30)


def publisher(plant: Plant) -> paho.Client:
    """A connected publisher."""
    client = paho.Client(paho.CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5, client_id=f"bench-{uuid.uuid4().hex}")
    client.max_inflight_messages_set(1000)
    client.connect(*plant.mqtt[0].address)
    client.loop_start()
    return client


def publish(client: paho.Client, root: str, number: int) -> paho.MQTTMessageInfo:
    """Publish reading `number` of the load: sensors in turn."""
    asset, tag = number % ASSETS, number // ASSETS % TAGS
    now_ns = time.time_ns()
    payload = f'{{"value": {20 + number * 0.001!r}, "unit": "degC", "timestamp": {now_ns}}}'
    return client.publish(f"{root}/R{asset:03d}/sensor/temperature_{tag:03d}", payload, qos=1)


class Raw:
    """Reads the raw topic and counts."""

    def __init__(self, plant: Plant) -> None:
        self._consumer = Consumer(
            {**client_settings(plant.kafka), "group.id": uuid.uuid4().hex, "auto.offset.reset": "earliest"}
        )
        self._consumer.subscribe([RAW.full_name(plant.kafka.prefix)])
        self.frames = self.readings = 0
        self.first_ns, self.last_ns = 2**63, 0

    def until(self, readings: int, timeout_s: float) -> bool:
        """Read until so many readings were seen; False when that takes too long."""
        end_s = time.monotonic() + timeout_s
        while self.readings < readings and time.monotonic() < end_s:
            for message in self._consumer.consume(500, 0.2):
                frame = decode_as(message.value(), Frame)
                if len(frame):
                    self.frames += 1
                    self.readings += len(frame)
                    self.first_ns = min(self.first_ns, int(frame.arrival_time_ns[0]))
                    self.last_ns = max(self.last_ns, frame.time_ns)
        return self.readings >= readings


def steady(plant: Plant, root: str, seconds: int) -> None:
    """CPU of the connector at 1,000 messages/s."""
    with connector(plant) as process:
        client, raw = publisher(plant), Raw(plant)
        begin, number = time.monotonic(), 0
        before = since = 0.0
        while time.monotonic() - begin < seconds + 5:
            while number < (time.monotonic() - begin) * 1000:
                publish(client, root, number)
                number += 1
            time.sleep(0.001)
            if not before and time.monotonic() - begin > 5:
                before, since = sum(process.cpu_times()[:2]), time.monotonic()
        used, took = sum(process.cpu_times()[:2]) - before, time.monotonic() - since
        for thread in process.threads():
            used_s = thread.user_time + thread.system_time
            print(f"steady: thread {psutil.Process(thread.id).name()}: {used_s:.2f} s with start")
        complete = raw.until(number, 30)
        print(f"steady: {number} sent, {raw.readings} in Kafka ({'complete' if complete else 'INCOMPLETE'})")
        print(f"steady: {raw.frames} frames, {raw.readings / max(1, raw.frames):.1f} readings each")
        print(f"steady: CPU {used / took:.1%} of a core, memory {process.memory_info().rss / 1e6:.0f} MB")
        client.disconnect()


def burst(plant: Plant, root: str, messages: int) -> None:
    """Messages/s when a full queue is drained."""
    with connector(plant):
        pass  # now the broker has its session
    client, raw = publisher(plant), Raw(plant)
    for info in [publish(client, root, number) for number in range(messages)]:
        info.wait_for_publish(60)
    with connector(plant) as process:
        complete = raw.until(messages, 120)
        took, cpu = (raw.last_ns - raw.first_ns) / 1e9, sum(process.cpu_times()[:2])
    print(f"burst: {messages} waiting, {raw.readings} in Kafka ({'complete' if complete else 'INCOMPLETE'})")
    print(f"burst: {messages / took:.0f} messages/s, {raw.frames} frames, CPU {cpu:.1f} s with start")
    client.disconnect()


def main() -> None:
    """Run both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--burst", type=int, default=50_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as state_dir:
        steady(*fresh("steady", state_dir), options.seconds)
        burst(*fresh("burst", state_dir), options.burst)


def fresh(name: str, state_dir: str) -> tuple[Plant, str]:
    """A configuration with topics of its own, and the first level of its MQTT topics."""
    run_id = f"bench-{name}-{uuid.uuid4().hex[:8]}"
    mqtt = {"id": run_id, "state_dir": state_dir, "filters": [f"{run_id}/+/sensor/#"]}
    plant = Plant.model_validate({"kafka": {"prefix": run_id}, "mqtt": [mqtt]})
    create_topics(plant.kafka)
    return plant, run_id


if __name__ == "__main__":
    main()
