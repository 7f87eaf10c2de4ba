"""docker-compose.yml describes the same system: valid, complete, watched, and closed to the outside."""

import os
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from runtime.load import load
from schemas.topics import TOPICS
from services.install import compose_command
from services.kafka import Kafka
from services.mosquitto import Mosquitto

ROOT = Path(__file__).parents[2]
OFFICIAL = {"kafka": "apache/kafka:4.1.0", "influxdb": "influxdb:2.7", "mosquitto": "eclipse-mosquitto:2.0"}
STAGES = {
    "mqtt": ["twin", "connector", "mqtt"],
    "opcua": ["twin", "connector", "opcua"],
    **{name: ["twin", "agent", name] for name in ("validation", "estimation", "twin", "sink")},
}
ONE_SHOTS = {"topics", "tokens"}
SECRETS = {"INFLUX_TOKEN": "a-token", "INFLUX_PASSWORD": "a-password"}


def services() -> dict[str, dict[str, Any]]:
    """The services as YAML merges them."""
    parsed: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    return parsed


def compose(tmp_path: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Docker Compose on our file, in a project folder of its own so that no .env of ours is read."""
    command = [*compose_command(), "--project-directory", str(tmp_path), "-f", str(ROOT / "docker-compose.yml")]
    kept = {key: value for key, value in os.environ.items() if key not in {*SECRETS, "OPCUA_URL"}}
    return subprocess.run(
        [*command, *arguments], env={**kept, **environment}, capture_output=True, text=True, check=False, cwd=tmp_path
    )


def test_docker_compose_accepts_it(tmp_path: Path) -> None:
    """Docker Compose finds nothing wrong with the file."""
    checked = compose(tmp_path, "config", "-q", **SECRETS)
    assert checked.returncode == 0, checked.stderr


def test_without_secrets_it_says_how_to_make_them(tmp_path: Path) -> None:
    """Without the token nothing starts with a default one; the error names the script that makes it."""
    checked = compose(tmp_path, "config", "-q")
    assert checked.returncode != 0
    assert "run deploy/make-env.sh once" in checked.stderr


def test_make_env_makes_private_secrets_once(tmp_path: Path) -> None:
    """The script makes different secrets each time, readable by the owner only, and keeps those that exist."""
    made = []
    for name in ("one", "two"):
        script = tmp_path / name / "deploy" / "make-env.sh"
        script.parent.mkdir(parents=True)
        script.write_bytes((ROOT / "deploy" / "make-env.sh").read_bytes())
        for _ in range(2):
            subprocess.run(["sh", str(script)], check=True, capture_output=True)
            made.append((tmp_path / name / ".env").read_text())
        assert stat.S_IMODE((tmp_path / name / ".env").stat().st_mode) == 0o600
    assert made[0] == made[1] != made[2] == made[3]
    values = dict(line.split("=") for line in made[0].splitlines())
    assert values.keys() == SECRETS.keys()
    assert all(len(value) == 64 for value in values.values())


def test_every_part_is_there_and_no_other() -> None:
    """Official images for the services, one service per connector and agent from one Dockerfile, topics and tokens."""
    found = services()
    assert {name: found[name]["image"] for name in OFFICIAL} == OFFICIAL
    assert {name: found[name]["command"] for name in STAGES} == STAGES
    assert found["topics"]["command"] == ["twin", "topics", "create"]
    assert found.keys() == OFFICIAL.keys() | STAGES.keys() | ONE_SHOTS
    assert {found[name]["build"] for name in (*STAGES, *ONE_SHOTS)} == {"."}


def test_nothing_is_published_beyond_loopback() -> None:
    """Every published port is bound to 127.0.0.1, and connectors and agents publish none."""
    found = services()
    ports = [port for service in found.values() for port in service.get("ports", [])]
    assert len(ports) == len(OFFICIAL)
    assert all(isinstance(port, str) and port.startswith("127.0.0.1:") and port.count(":") == 2 for port in ports)
    assert not any("ports" in found[name] or "network_mode" in found[name] for name in (*STAGES, *ONE_SHOTS))


def test_every_service_is_watched_and_comes_back() -> None:
    """Every service has a health check and restarts, except the one-shots, which do neither."""
    for name, service in services().items():
        if name in ONE_SHOTS:
            assert service["restart"] == "no"
        else:
            assert service["healthcheck"]["test"][0] == "CMD", name
            assert service["restart"] == "unless-stopped", name


def test_stages_wait_for_what_they_need() -> None:
    """Stages start after the topics are made, the MQTT connector after mosquitto, the sink after its token is made."""
    found = services()
    for name in STAGES:
        assert found[name]["depends_on"]["topics"] == {"condition": "service_completed_successfully"}
    assert found["topics"]["depends_on"]["kafka"] == {"condition": "service_healthy"}
    assert found["mqtt"]["depends_on"]["mosquitto"] == {"condition": "service_healthy"}
    assert found["tokens"]["depends_on"]["influxdb"] == {"condition": "service_healthy"}
    assert found["sink"]["depends_on"]["tokens"] == {"condition": "service_completed_successfully"}


def test_stages_have_least_rights() -> None:
    """Connectors and agents drop all capabilities, cannot write their image, and none has the operator's token: the
    sink has one of its own, which only writes, and nobody else may read its volume."""
    found = services()
    for name in (*STAGES, *ONE_SHOTS):
        assert found[name]["cap_drop"] == ["ALL"]
        assert found[name]["read_only"] is True
        assert ("INFLUX_TOKEN" in found[name]["environment"]) == (name == "tokens")
        has_volume = any(volume.startswith("sink-token:") for volume in found[name].get("volumes", []))
        assert has_volume == (name in ("tokens", "sink"))
    folder = found["sink"]["environment"]["INFLUX_TOKENS_DIR"]
    assert found["tokens"]["command"] == ["twin", "tokens", folder, "--role", "sink"]
    assert "USER twin" in (ROOT / "Dockerfile").read_text().splitlines()


def test_services_keep_their_data() -> None:
    """Data of the services, and what the connectors must remember, is on named volumes."""
    found = services()
    volumes = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["volumes"]
    used = {
        volume.split(":")[0]
        for service in found.values()
        for volume in service["volumes"]
        if not volume.startswith("./")
    }
    services_data = {"kafka-data", "influxdb-data", "mosquitto-data"}
    assert used == volumes.keys() == services_data | {"mqtt-state", "opcua-config", "opcua-state", "sink-token"}


def test_the_mounted_configuration_is_good() -> None:
    """deploy/plant.toml passes the configuration's own check and names both connectors."""
    plant = load(ROOT / "deploy" / "plant.toml")
    assert [one.id for one in plant.mqtt] == ["mqtt-1"]
    assert [one.id for one in plant.opcua] == ["opcua-1"]


def test_mounted_files_exist() -> None:
    """Every file of ours that is mounted is in the repository; Docker would silently make a folder in its place."""
    mounted = {
        volume.split(":")[0]
        for service in services().values()
        for volume in service["volumes"]
        if volume.startswith("./")
    }
    assert mounted == {"./deploy/plant.toml", "./deploy/mosquitto.conf"}
    assert all((ROOT / path).is_file() for path in mounted)


@pytest.mark.parametrize(
    "key",
    [
        "auto.create.topics.enable",
        "message.max.bytes",
        "replica.fetch.max.bytes",
        "group.initial.rebalance.delay.ms",
        "broker.session.timeout.ms",
        "offsets.topic.replication.factor",
        "offsets.retention.minutes",
        "transaction.state.log.replication.factor",
        "log.cleaner.dedupe.buffer.size",
    ],
)
def test_kafka_is_set_up_as_without_docker(key: str, tmp_path: Path) -> None:
    """A Kafka setting that matters to us is the same in Docker and on one machine."""
    own = Kafka(tmp_path, tmp_path / "log").settings()[key]
    assert services()["kafka"]["environment"]["KAFKA_" + key.upper().replace(".", "_")] == own


def test_a_group_is_remembered_for_longer_than_any_record(tmp_path: Path) -> None:
    """A group that comes back after a long stop finds where it was, so what expired meanwhile is told."""
    kept_minutes = int(Kafka(tmp_path, tmp_path / "log").settings()["offsets.retention.minutes"])
    assert kept_minutes * 60_000 > 2 * max(topic.retention_ms or 0 for topic in TOPICS)


def test_mosquitto_is_set_up_as_without_docker(tmp_path: Path) -> None:
    """mosquitto's limits, persistence and packet size are the same in Docker and on one machine."""
    own = Mosquitto(tmp_path, tmp_path / "log").settings()
    lines = (ROOT / "deploy" / "mosquitto.conf").read_text().splitlines()
    in_docker = dict(line.split(" ", 1) for line in lines if line and not line.startswith("#"))
    same = [
        "persistence", "autosave_interval", "max_inflight_messages", "max_queued_messages", "queue_qos0_messages",
        "max_packet_size", "set_tcp_nodelay",
    ]  # fmt: skip
    assert {key: in_docker[key] for key in same} == {key: own[key] for key in same}
