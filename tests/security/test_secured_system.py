"""The whole system on secured services: it works with the least rights, and no secret is seen anywhere."""

import json
import ssl
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import psutil
import pytest

from audit.store import Database, StoreError
from services.kafka import ADMIN
from tests.end_to_end.system_tools import System, twin
from tests.secured import MQTT_USER, SecuredStack

pytestmark = [pytest.mark.services, pytest.mark.timeout(900)]
PREFIX = "secured"
DEVICES = ("R101", "R102")


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredStack]:
    """Kafka, InfluxDB and mosquitto, all with TLS and users, and an installation on them."""
    made = SecuredStack(tmp_path_factory.mktemp("secured-stack"), DEVICES)
    try:
        made.start()
        made.add(PREFIX)
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="module")
def system(services: SecuredStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """Connector and agents under the supervisor, as `twin up` starts them."""
    run_dir = tmp_path_factory.mktemp("secured-run")
    config = run_dir / "plant.toml"
    config.write_text(services.configuration(PREFIX))
    up = twin("up", "--run-dir", str(run_dir), "--config", str(config))
    try:
        assert up.returncode == 0, up.stderr
        yield System(run_dir, config, {})
    finally:
        twin("down", "--run-dir", str(run_dir))


class Client:
    """An MQTT client with TLS, connected or refused."""

    def __init__(self, services: SecuredStack, user: str | None, password: str | None = None) -> None:
        broker = services.stack.mosquitto
        self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, f"test-{user}", protocol=mqtt.MQTTv5)
        self.client.tls_set_context(ssl.create_default_context(cafile=str(services.authority.certificate)))
        if user is not None:
            self.client.username_pw_set(user, password or services.mqtt_users[user])
        self.answer, self.messages = "", list[str]()
        self._answered = threading.Event()
        self.client.on_connect = self._connected
        self.client.on_message = lambda _client, _data, message: self.messages.append(message.topic)
        self.client.connect(broker.host, broker.port)
        self.client.loop_start()
        assert self._answered.wait(20)

    def _connected(self, _client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        self.answer = str(reason)
        self._answered.set()

    def publish(self, topic: str, payload: str) -> str:
        """Publish and return the broker's reason."""
        reasons: list[str] = []
        done = threading.Event()

        def confirmed(_client: Any, _data: Any, _mid: int, reason: Any, _properties: Any) -> None:
            reasons.append(str(reason))
            done.set()

        self.client.on_publish = confirmed
        self.client.publish(topic, payload, qos=1)
        assert done.wait(20)
        return reasons[0]

    def subscribe(self, topic: str) -> None:
        """Subscribe, and wait until the broker has it."""
        done = threading.Event()
        self.client.on_subscribe = lambda *_: done.set()
        self.client.subscribe(topic, qos=1)
        assert done.wait(20)

    def close(self) -> None:
        """Disconnect."""
        self.client.disconnect()
        self.client.loop_stop()


def until(condition: Any, what: str, timeout_s: float = 120) -> Any:
    """Poll until the condition is true, and return it."""
    end_s = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < end_s, what
        time.sleep(0.2)
    return found


def test_a_reading_comes_through_and_no_secret_is_seen(services: SecuredStack, system: System) -> None:
    """A device publishes over TLS with its password; the reading is in InfluxDB and can be queried, tailed and seen in
    the status, each with rights of its own, and by the checker, which trusts no other authority. Afterwards no
    password, token or private key stands in any log, in the arguments of any process, in an environment where it does
    not belong, nor in anything that was printed."""
    device = Client(services, "R101")
    payload = json.dumps({"value": 85.5, "unit": "degC", "timestamp": time.time()})
    assert device.publish("reactor/R101/sensor/temperature", payload) == "Success"
    assert device.publish("reactor/R101/sensor/pressure", "no number at all") == "Success"
    device.close()

    def queried() -> str:
        return system.twin("query", "latest", "R101", "temperature", "--format", "json").stdout

    assert json.loads(until(queried, "the reading is stored"))["value"] == 85.5
    influx = services.stack.influxdb
    viewer = (influx.tokens_dir / "viewer").read_text().strip()
    store = Database(url=influx.url, bucket=influx.bucket, token=viewer, ca_file=services.authority.certificate)
    assert [point.value for point in store.readings("R101", "temperature", 0, time.time_ns())] == [85.5]
    with pytest.raises(StoreError, match="certificate"):
        replace(store, ca_file=None).readings("R101", "temperature", 0, time.time_ns())
    commands = (
        ("query", "latest", "R101", "temperature"),
        ("tail", "state", "--from-start", "--seconds", "8"),
        ("tail", "rejected", "--from-start", "--seconds", "8"),
        ("topics", "list"),
        ("check", str(system.config)),
        ("status", "--json"),
        ("env",),
    )
    with ThreadPoolExecutor(max_workers=len(commands)) as pool:
        done = list(pool.map(lambda command: system.twin(*command), commands))
    for command, one in zip(commands, done, strict=True):
        assert one.returncode == 0, one.stderr
        assert one.stdout, command
    stages = {row["name"]: row for row in map(json.loads, done[-2].stdout.splitlines())}
    assert all(stages[name]["lag_frames"] is not None for name in ("validation", "estimation", "twin", "sink"))

    secrets = services.secrets()
    assert len(secrets) > 20
    env = dict(line.split("=", 1) for line in done[-1].stdout.splitlines())
    for one in done[:-1]:
        assert not [secret for secret in secrets if secret in one.stdout + one.stderr], one.args
    # `twin env` is there to hand a token on: the one that only reads.
    assert env["INFLUX_TOKEN"] == viewer
    logs = [*(system.run_dir / "logs").iterdir(), *(services.directory / "logs").iterdir()]
    assert len(logs) >= 8
    for log in logs:
        assert not [secret for secret in secrets if secret in log.read_text(errors="replace")], log
    assert not [line for line in arguments_of_all_processes() if any(secret in line for secret in secrets)]
    for name, row in stages.items():
        if name != "supervisor" and row["pid"]:
            environment = Path(f"/proc/{row['pid']}/environ").read_bytes().decode(errors="replace")
            assert not [secret for secret in secrets if secret in environment], name


def arguments_of_all_processes() -> list[str]:
    """As anybody on the machine can read them."""
    lines = []
    for process in psutil.process_iter():
        try:
            lines.append(" ".join(process.cmdline()))
        except psutil.Error:  # it has ended
            continue
    assert any("kafka.Kafka" in line for line in lines)
    return lines


@pytest.mark.soak
def test_a_rescale_and_a_replay_have_the_rights_they_need(services: SecuredStack, system: System) -> None:
    """The administrator rescales while everything runs: on the new topics every process has its rights, and the next
    reading comes through. A replay of it all, made and compared by their own users, is equal to the byte."""
    admin = {"KAFKA_USERNAME": ADMIN, "KAFKA_PASSWORD": services.security.users[ADMIN]}
    before = Client(services, "R101")
    assert before.publish("reactor/R101/sensor/level", "0.5") == "Success"
    before.close()
    until(lambda: system.twin("query", "latest", "R101", "level").stdout, "the reading before it is stored")
    refused = system.twin("rescale", "--partitions", "3")
    assert refused.returncode == 1
    rescaled = system.twin("rescale", "--partitions", "3", env=admin)
    assert rescaled.returncode == 0, rescaled.stderr
    device = Client(services, "R102")
    payload = json.dumps({"value": 86.25, "unit": "degC", "timestamp": time.time()})
    assert device.publish("reactor/R102/sensor/temperature", payload) == "Success"
    device.close()
    latest = ("query", "latest", "R102", "temperature", "--format", "json")
    assert json.loads(until(lambda: system.twin(*latest).stdout, "the reading is stored"))["value"] == 86.25
    replayed = system.twin("replay", "--from", "beginning", "--to", "now", "--run", "again")
    assert replayed.returncode == 0, replayed.stderr
    compared = system.twin("compare", PREFIX, "again", "--common")  # heartbeats go on
    assert compared.returncode == 0, compared.stdout + compared.stderr
    assert "of 2 assets, to the byte" in compared.stdout


def test_files_with_secrets_are_their_owners(services: SecuredStack, system: System) -> None:
    """Every file of the services, of the run folder and beside the passwords that holds a secret has mode 0600."""
    secrets = [secret.encode() for secret in services.secrets()]
    holding = []
    for folder in (services.directory, system.run_dir):
        for path in folder.rglob("*"):
            # InfluxDB's own database has its mode from InfluxDB, in a folder of ours.
            if path.is_file() and path.suffix not in (".bolt", ".sqlite") and path.stat().st_size < 1_000_000:
                content = path.read_bytes()
                if any(secret in content for secret in secrets):
                    holding.append(path)
    assert len(holding) > 10
    assert {path.stat().st_mode & 0o077 for path in holding} == {0}, holding


def test_mqtt_users_may_do_what_the_file_says_and_nothing_else(services: SecuredStack) -> None:
    """A device writes its own asset's readings and no others, and reads nothing; the connector reads them and writes
    nothing; without a password or with a wrong one nobody is let in."""
    for user, topic in (
        (MQTT_USER, "reactor/R102/sensor/a"),
        (MQTT_USER, f"reactor/{MQTT_USER}/sensor/a"),
        ("R102", "reactor/R101/sensor/a"),
        ("R102", "reactor/R102/command/a"),
    ):
        client = Client(services, user)  # a new one each time: some brokers break the connection after a refusal
        assert client.publish(topic, "1") == "Not authorized"
        client.close()
    device, connector = Client(services, "R102"), Client(services, MQTT_USER)
    for client in (device, connector):
        client.subscribe("#")
    assert device.publish("reactor/R102/sensor/a", "1") == "Success"
    until(lambda: connector.messages, "the connector reads what the device wrote", 20)
    assert (connector.messages, device.messages) == (["reactor/R102/sensor/a"], [])
    device.close()
    connector.close()
    for user, password in ((None, None), ("R101", "wrong"), ("nobody", "x")):
        refused = Client(services, user, password)
        assert refused.answer == "Not authorized"
        refused.close()


def test_mosquitto_speaks_tls_only(services: SecuredStack) -> None:
    """A client without TLS gets no answer from the broker."""
    plain = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, "plain", protocol=mqtt.MQTTv5)
    answered = threading.Event()
    plain.on_connect = lambda *_: answered.set()
    plain.connect(services.stack.mosquitto.host, services.stack.mosquitto.port)
    plain.loop_start()
    assert not answered.wait(2)
    plain.loop_stop()
