"""What the MQTT tests share: the connector's process, a publisher, and the topics as read back."""

import json
import os
import re
import signal
import struct
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import paho.mqtt.client as paho
from confluent_kafka import Consumer, TopicPartition
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from runtime.config import Kafka
from runtime.kafka import create_topics, watermarks
from schemas.codec import decode_as
from schemas.frames import Frame
from schemas.records import Rejected
from schemas.topics import RAW, REJECTED, Topic
from services.processes import free_port

ROOT = Path(__file__).parents[2]
PARTITIONS = 4
PROGRAM = """
import sys
from pathlib import Path
from connectors.mqtt import run
from runtime import logs, probes
from runtime.load import load
logs.configure("mqtt")
probes.serve("mqtt")
sys.exit(run(load(Path(sys.argv[1])), sys.argv[2]))
"""
T = TypeVar("T")


def until(condition: Callable[[], T | None], timeout_s: float, what: str) -> T:
    """Wait for a condition and return what it gave; AssertionError after the time."""
    end_s = time.monotonic() + timeout_s
    while time.monotonic() < end_s:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError(f"not within {timeout_s} s: {what}")


def bits(value: float) -> bytes:
    """The eight bytes of a double."""
    return struct.pack("<d", value)


class Bench:
    """Topics of its own in Kafka, an MQTT root and client id of its own, and the processes of one test.

    `broker` needs `host` and `port`. `mqtt` are further keys of [[mqtt]], `more` further tables of the file.
    """

    def __init__(self, bootstrap: str, broker: Any, directory: Path, mqtt: str = "", more: str = "") -> None:
        self.root = f"t{uuid.uuid4().hex[:8]}"
        self.kafka = Kafka(bootstrap=bootstrap, prefix=self.root, partitions=PARTITIONS)
        self.broker = broker
        self.log = directory / "connector.log"
        self.log.touch()
        self.metrics_port = free_port()
        create_topics(self.kafka)
        self._config = directory / "plant.toml"
        port = "" if "port =" in mqtt else f"port = {broker.port}\n"
        self._config.write_text(
            f'[kafka]\nbootstrap = "{bootstrap}"\nprefix = "{self.root}"\npartitions = {PARTITIONS}\n'
            f'[[mqtt]]\nid = "{self.root}"\nhost = "127.0.0.1"\n{port}filters = ["{self.root}/+/sensor/#"]\n'
            f'state_dir = "{directory}/state"\n{mqtt}\n{more}\n'
        )
        self._processes: list[subprocess.Popen[bytes]] = []
        self._publishers: list[paho.Client] = []

    def __enter__(self) -> "Bench":
        return self

    def __exit__(self, kind: type[BaseException] | None, _error: object, _trace: TracebackType | None) -> None:
        for client in self._publishers:
            client.disconnect()
            client.loop_stop()
        for process in self._processes:
            if process.poll() is None:
                process.kill()
                process.wait()
        if kind is not None:
            print(self.log.read_text()[-5000:])

    def configure(self, **keys: str) -> None:
        """Change lines of the configuration, for the next start."""
        text = self._config.read_text()
        for key, value in keys.items():
            text = re.sub(rf"^{key} = .*$", f"{key} = {value}", text, flags=re.MULTILINE)
        self._config.write_text(text)

    def start(self) -> subprocess.Popen[bytes]:
        """Start the connector, without waiting for it."""
        env = {**os.environ, "TWIN_METRICS_PORT": str(self.metrics_port)}
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, str(self._config), self.root], stderr=log, cwd=ROOT, env=env
            )
        self._processes.append(process)
        return process

    def start_and_wait(self) -> subprocess.Popen[bytes]:
        """Start the connector and wait until it has subscribed."""
        before = self.log.read_text().count("mqtt: connected")
        process = self.start()
        self.says("mqtt: connected", before + 1)
        return process

    def stop(self, process: subprocess.Popen[bytes]) -> int:
        """SIGTERM, and the exit code."""
        process.send_signal(signal.SIGTERM)
        return process.wait(20)

    def says(self, text: str, times: int = 1, timeout_s: float = 20.0) -> None:
        """Wait until the log has this text (so many times)."""
        until(lambda: self.log.read_text().count(text) >= times, timeout_s, f"{text!r} in:\n{self.log.read_text()}")

    def metric(self, name: str) -> float:
        """A metric of the running connector, by its name with labels."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=5) as answer:
            found = re.search(rf"^{re.escape(name)} (\S+)$", answer.read().decode(), re.MULTILINE)
        assert found is not None, name
        return float(found[1])

    def publisher(self) -> paho.Client:
        """A connected publisher that queues without limit."""
        client = paho.Client(paho.CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5, client_id=f"p{uuid.uuid4().hex}")
        client.max_queued_messages_set(0)
        client.max_inflight_messages_set(200)
        client.connect(self.broker.host, self.broker.port)
        client.loop_start()
        self._publishers.append(client)
        return client

    def publish(self, client: paho.Client, asset: str, tag: str, payload: object, **more: Any) -> paho.MQTTMessageInfo:
        """Publish with QoS 1; bytes and text as they are, anything else as JSON."""
        data = payload if isinstance(payload, bytes | str) else json.dumps(payload)
        return client.publish(f"{self.root}/{asset}/sensor/{tag}", data, qos=1, **more)

    def raw(self) -> list[Frame]:
        """All frames in Kafka now, in the order of each partition."""
        return [decode_as(value, Frame) for value in self._all(RAW)]

    def rejected(self) -> list[Rejected]:
        """All rejected records in Kafka now."""
        return [decode_as(value, Rejected) for value in self._all(REJECTED)]

    def wait_for_readings(self, number: int, timeout_s: float = 30.0) -> list[Frame]:
        """Wait until Kafka has at least so many readings, and return all frames."""
        return until(
            lambda: frames if sum(map(len, frames := self.raw())) >= number else None, timeout_s, f"{number} readings"
        )

    def _all(self, topic: Topic) -> list[bytes]:
        name = topic.full_name(self.kafka.prefix)
        consumer = Consumer({"bootstrap.servers": self.kafka.address, "group.id": "none", "enable.auto.commit": False})
        ends = {p: watermarks(consumer, name, p)[1] for p in range(PARTITIONS)}
        consumer.assign([TopicPartition(name, p, 0) for p in range(PARTITIONS)])
        values, missing = [], sum(ends.values())
        end_s = time.monotonic() + 20
        while missing > 0 and time.monotonic() < end_s:
            for message in consumer.consume(min(500, missing), 0.2):
                assert message.error() is None
                values.append(message.value())
                missing -= 1
        consumer.close()
        assert missing <= 0
        return values


def assert_identities_have_no_holes(frames: list[Frame]) -> None:
    """Per asset, source and epoch `seq` counts 0, 1, 2, … in the order of the topic."""
    found: dict[tuple[str, str, int], list[int]] = {}
    for frame in frames:
        found.setdefault(frame.identity[:3], []).append(frame.seq)
    for key, seqs in found.items():
        assert seqs == list(range(len(seqs))), key


def readings(frames: list[Frame]) -> dict[tuple[str, str], list[tuple[Any, ...]]]:
    """Per asset and tag, in order: (unit, bits of the value, source time, status, mark, text)."""
    found: dict[tuple[str, str], list[tuple[Any, ...]]] = {}
    for frame in frames:
        for i, tag in enumerate(frame.tag):
            row = (
                frame.units[tag],
                bits(float(frame.value[i])),
                int(frame.source_time_ns[i]),
                int(frame.status[i]),
                int(frame.mark[i]),
                frame.texts.get(i),
            )
            found.setdefault((frame.asset, frame.tags[tag]), []).append(row)
    return found


def make_authority(directory: Path) -> Path:
    """A certificate authority with a server's (127.0.0.1) and a client's certificate: ca, server, client .pem, .key."""
    directory.mkdir()
    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"CA {directory.name}")])
    for name in ("ca", "server", "client"):
        key = ca_key if name == "ca" else ec.generate_private_key(ec.SECP256R1())
        subject = ca_name if name == "ca" else x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now = datetime.now(UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(ca_name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=name == "ca", path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
            .sign(ca_key, hashes.SHA256())
        )
        (directory / f"{name}.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
        secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (directory / f"{name}.key").write_bytes(secret)
    return directory
