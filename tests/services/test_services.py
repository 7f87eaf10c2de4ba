"""Kafka, InfluxDB and mosquitto as real processes: ready when they say so, back on the same data after kill -9."""

import shutil
import signal
import stat
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import psutil
import pytest
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient, NewTopic
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from services.errors import ServiceError
from services.influxdb import InfluxDB
from services.install import kafka_classes, kafka_classes_name, kafka_jars
from services.kafka import Kafka
from services.kafka_classes import keep_classes
from services.mosquitto import Listener, Mosquitto
from services.processes import free_port, port_is_free
from services.service import Service
from services.stack import Stack

pytestmark = pytest.mark.services


@pytest.fixture(params=[Kafka, InfluxDB, Mosquitto])
def service(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Service]:
    """Each of the services, started and ready."""
    one: Service = request.param(tmp_path / "data", tmp_path / "log")
    one.start()
    one.wait_ready()
    yield one
    one.stop()


def test_nothing_listens_beyond_loopback(service: Service) -> None:
    """Every socket a service listens on is bound to 127.0.0.1."""
    listening = [
        one.laddr for one in psutil.Process(service.pid).net_connections("inet") if one.status == psutil.CONN_LISTEN
    ]
    assert service.port in {address.port for address in listening}
    # IPv6-mapped is how Java shows an IPv4 address.
    assert {address.ip.removeprefix("::ffff:") for address in listening} == {"127.0.0.1"}


@pytest.mark.kill
def test_a_service_comes_back_on_its_port_after_a_kill(service: Service) -> None:
    """After kill -9 the same object starts again with the same addresses, in a few seconds."""
    before, pid = service.environment(), service.pid
    service.kill()
    assert not service.answers()
    service.start()
    service.wait_ready(15.0)
    assert service.environment() == before
    assert service.pid != pid


def test_a_service_stops_by_itself(service: Service) -> None:
    """A regular stop needs no kill, and is over in seconds."""
    service.stop(15.0)
    assert service.exit_code in {0, 143}
    assert not service.answers()


def test_starting_twice_and_a_taken_port_are_refused(service: Service, tmp_path: Path) -> None:
    """A running service, and a port that another program uses, are each named in the error."""
    with pytest.raises(ServiceError, match=f"{service.name} runs already with pid {service.pid}"):
        service.start()
    other = Mosquitto(tmp_path / "other", tmp_path / "other.log", service.port)
    with pytest.raises(ServiceError, match=f"port {service.port} is used by another program"):
        other.start()


def test_kafka_starts_with_the_classes_that_were_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker maps the classes that an earlier start left; a file of them that was cut off is not taken."""
    kept = keep_classes()
    assert _is_mapped(kept, tmp_path / "kafka")
    monkeypatch.setattr("services.install.cache_dir", lambda: tmp_path)
    cut = tmp_path / kept.name
    shutil.copyfile(kept, cut)
    monkeypatch.setattr("services.install.kafka_classes_name", lambda: kept.stem.rpartition("-")[0])
    assert kafka_classes() == cut
    with cut.open("r+b") as file:
        file.truncate(10_000)
    assert kafka_classes() is None


def test_a_cache_that_was_moved_keeps_classes_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The JVM takes only classes of jars at the same place: a copied cache does not offer those of the original."""
    here, moved = kafka_classes_name(), shutil.copytree(kafka_jars(), tmp_path / "jars")
    monkeypatch.setattr("services.install.kafka_jars", lambda: moved)
    assert kafka_classes_name() != here


def _is_mapped(classes: Path, folder: Path) -> bool:
    broker = Kafka(folder, folder.with_suffix(".log"))
    broker.start()
    try:
        broker.wait_ready()
        return str(classes) in Path(f"/proc/{broker.pid}/maps").read_text()
    finally:
        broker.stop()


@pytest.mark.kill
def test_a_crash_of_kafkas_jvm_is_written_beside_its_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the JVM writes when it crashes goes to the broker's folder, not to the one that somebody works in."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    kafka = Kafka(tmp_path / "kafka", tmp_path / "kafka.log")
    kafka.start()
    try:
        kafka.wait_ready()
        crashed = psutil.Process(kafka.pid)
        crashed.send_signal(signal.SIGSEGV)
        crashed.wait(30)
    finally:
        kafka.stop()
    (report,) = (tmp_path / "kafka").glob("jvm-crash-*.log")
    assert "SIGSEGV" in report.read_text("utf-8", "replace")
    assert list(work.iterdir()) == []


@pytest.mark.kill
def test_kafka_keeps_what_it_confirmed(tmp_path: Path) -> None:
    """Records confirmed before kill -9 are read after the restart; a topic is not made by using it."""
    kafka = Kafka(tmp_path / "kafka", tmp_path / "kafka.log")
    kafka.start()
    try:
        kafka.wait_ready()
        admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
        admin.create_topics([NewTopic("kept", 2, 1)])["kept"].result(10)
        producer = Producer({"bootstrap.servers": kafka.bootstrap, "acks": "all", "enable.idempotence": True})
        failed: list[Any] = []
        for number in range(100):
            producer.produce("kept", str(number), on_delivery=lambda error, _: failed.append(error) if error else None)
        assert producer.flush(20) == 0
        assert failed == []
        kafka.kill()
        kafka.start()
        kafka.wait_ready()
        assert sorted(_read(kafka.bootstrap, "kept", 100)) == sorted(str(number) for number in range(100))
        assert "never-made" not in admin.list_topics(timeout=10).topics
        producer.produce("never-made", "x")
        producer.flush(1)
        assert "never-made" not in admin.list_topics(timeout=10).topics
    finally:
        kafka.stop()


def _read(bootstrap: str, topic: str, count: int) -> list[str]:
    settings = {"bootstrap.servers": bootstrap, "group.id": "reader", "auto.offset.reset": "earliest"}
    consumer = Consumer(settings)
    consumer.subscribe([topic])
    values: list[str] = []
    for _ in range(60):
        values += [message.value().decode() for message in consumer.consume(count, 0.5) if message.error() is None]
        if len(values) >= count:
            break
    consumer.close()
    return values


@pytest.mark.kill
def test_influxdb_keeps_points_and_token(tmp_path: Path) -> None:
    """A point written before kill -9 is read after the restart with the same token; without one nothing is."""
    influx = InfluxDB(tmp_path / "influxdb", tmp_path / "influxdb.log")
    influx.start()
    try:
        influx.wait_ready()
        token = influx.token
        _post(influx, "write?bucket=plant&precision=ns&org=process-twin", b"m,tag=t value=42.5 1700000000000000000")
        influx.kill()
        influx.start()
        influx.wait_ready()
        assert influx.token == token
        query = b'from(bucket:"plant") |> range(start: 2023-11-14T00:00:00Z, stop: 2023-11-15T00:00:00Z)'
        assert b"42.5" in _post(influx, "query?org=process-twin", query)
        with pytest.raises(urllib.error.HTTPError, match="401"):
            _post(influx, "query?org=process-twin", query, token="wrong")
        assert stat.S_IMODE((tmp_path / "influxdb" / "credentials.json").stat().st_mode) == 0o600
        assert token not in influx.log.read_text()
        assert token not in " ".join(psutil.Process(influx.pid).cmdline())
    finally:
        influx.stop()


def _post(influx: InfluxDB, path: str, body: bytes, token: str | None = None) -> bytes:
    headers = {"Authorization": f"Token {token or influx.token}", "Content-Type": "application/vnd.flux"}
    request = urllib.request.Request(f"{influx.url}/api/v2/{path}", body, headers)
    with urllib.request.urlopen(request, timeout=10) as answer:
        content: bytes = answer.read()
    return content


def test_mosquitto_is_the_buffer_of_a_client_that_is_away(tmp_path: Path) -> None:
    """Far more QoS 1 messages than mosquitto's defaults allow wait for a client, across a restart, none dropped."""
    count = 5_000
    broker = Mosquitto(tmp_path / "mosquitto", tmp_path / "mosquitto.log")
    broker.start()
    try:
        broker.wait_ready()
        _subscribe(broker, 0)
        _publish(broker, count)
        broker.stop()
        broker.start()
        broker.wait_ready()
        assert _subscribe(broker, count) == [str(number) for number in range(count)]
    finally:
        broker.stop()


def _client(name: str) -> mqtt.Client:
    return mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=name, protocol=mqtt.MQTTv5)


def _publish(broker: Mosquitto, count: int) -> None:
    client = _client("publisher")
    client.connect(broker.host, broker.port)
    client.loop_start()
    sent = [client.publish("plant/one", str(number), qos=1) for number in range(count)]
    for message in sent:
        message.wait_for_publish(30)
    assert all(message.is_published() for message in sent)
    client.disconnect()
    client.loop_stop()


def _subscribe(broker: Mosquitto, count: int) -> list[str]:
    """Connect the persistent session, subscribe, and return `count` messages in the order of their arrival."""
    client, subscribed, complete = _client("reader"), threading.Event(), threading.Event()
    received: list[str] = []

    def on_message(_client: Any, _data: Any, message: mqtt.MQTTMessage) -> None:
        received.append(message.payload.decode())
        if len(received) == count:
            complete.set()

    client.on_message = on_message
    client.on_subscribe = lambda *_: subscribed.set()
    session = Properties(PacketTypes.CONNECT)
    session.SessionExpiryInterval = 3600
    client.connect(broker.host, broker.port, clean_start=False, properties=session)
    client.loop_start()
    client.subscribe("plant/#", qos=1)
    assert subscribed.wait(10)
    assert count == 0 or complete.wait(30), f"{len(received)} of {count} arrived"
    client.disconnect()
    client.loop_stop()
    return received


def test_a_further_listener_may_ask_for_a_password(tmp_path: Path) -> None:
    """On a listener with a password file an anonymous client is refused, while the first stays open."""
    passwords = tmp_path / "passwords"
    passwords.write_text("")
    passwords.chmod(0o600)
    listener = Listener(free_port(), password_file=passwords)
    broker = Mosquitto(tmp_path / "mosquitto", tmp_path / "mosquitto.log", listeners=(listener,))
    broker.start()
    try:
        broker.wait_ready()
        answers: list[str] = []
        answered = threading.Event()

        def on_connect(_client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
            answers.append(str(reason))
            answered.set()

        client = _client("anonymous")
        client.on_connect = on_connect
        client.connect(broker.host, listener.port)
        client.loop_start()
        assert answered.wait(10)
        client.disconnect()
        client.loop_stop()
        assert answers[0] == "Not authorized"
    finally:
        broker.stop()


def test_a_service_that_ends_at_once_shows_its_log(tmp_path: Path) -> None:
    """The error of a service that cannot start holds the reason from its log."""
    broker = Mosquitto(tmp_path / "m", tmp_path / "m.log", extra_settings={"no_such_setting": "1"})
    broker.start()
    with pytest.raises(ServiceError, match=r"(?s)mosquitto ended with code \d+.*no_such_setting"):
        broker.wait_ready()


def test_the_stack_gives_all_addresses_and_stops_everything(tmp_path: Path) -> None:
    """With all three services started, `env` names every address, and after the block none of them runs."""
    with Stack(tmp_path) as stack:
        assert set(stack.env) == {
            "KAFKA_BOOTSTRAP", "MQTT_HOST", "MQTT_PORT",
            "INFLUX_URL", "INFLUX_ORG", "INFLUX_BUCKET", "INFLUX_TOKEN", "INFLUX_TOKENS_DIR",
        }  # fmt: skip
        services = [stack.kafka, stack.influxdb, stack.mosquitto]
        assert all(one.answers() for one in services)
    assert all(one.exit_code is not None for one in services)


def test_the_services_run_from_the_command_line(tmp_path: Path) -> None:
    """`python -m services run` writes a private file of addresses when all answer, and takes it away at SIGTERM."""
    directory, port = tmp_path / "run", free_port()
    command = ["-m", "services", "run", "--dir", str(directory), "--only", "mosquitto", "--mosquitto-port", str(port)]
    running = subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True)
    try:
        assert running.stdout is not None
        assert running.stdout.readline() == f"ready; addresses in {directory / 'env'}\n"
        env = directory / "env"
        assert env.read_text() == f"MQTT_HOST=127.0.0.1\nMQTT_PORT={port}\n"
        assert stat.S_IMODE(env.stat().st_mode) == 0o600
        running.terminate()
        assert running.wait(20) == 0
        assert not env.exists()
        assert port_is_free(port)
    finally:
        running.kill()
        running.communicate()


def test_a_stack_without_a_service_does_not_start_it(tmp_path: Path) -> None:
    """What is switched off is not started and not in the addresses."""
    with Stack(tmp_path, kafka=False, influxdb=False) as stack:
        assert set(stack.env) == {"MQTT_HOST", "MQTT_PORT"}
        with pytest.raises(ServiceError, match="kafka is not started"):
            _ = stack.kafka.pid
