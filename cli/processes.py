"""What runs on one machine: the processes of a configuration in the order of the flow."""

import os
import sys
from pathlib import Path

from runtime.config import Plant
from services.processes import free_port
from services.spec import ProcessSpec

#: Agents in the order of the flow; connectors stop before them, so what is on its way is finished.
STAGES = ("validation", "estimation", "twin", "sink")
ADDRESS_KEYS = (
    "KAFKA_BOOTSTRAP", "MQTT_HOST", "MQTT_PORT", "INFLUX_URL", "INFLUX_ORG", "INFLUX_BUCKET", "INFLUX_TOKEN",
    "INFLUX_TOKENS_DIR", "OPCUA_URL",
)  # fmt: skip
#: Secrets are given by name; each process has its own and no other.
KAFKA = ("KAFKA_PASSWORD",)


def twin_command(*arguments: str) -> tuple[str, ...]:
    """The command line of this installation with these arguments."""
    return (sys.executable, "-m", "cli.main", *arguments)


def topics_command() -> ProcessSpec:
    """The one-shot that makes the topics before anything else starts."""
    return ProcessSpec(name="topics", argv=twin_command("topics", "create"), has_metrics=False, secrets=KAFKA)


def processes(plant: Plant, run_dir: Path) -> list[ProcessSpec]:
    """Agents first, so that what a connector delivers is processed from its first frame."""
    agents = [
        ProcessSpec(
            name=stage,
            argv=twin_command("agent", stage),
            stop_order=order,
            secrets=(*KAFKA, "INFLUX_TOKEN") if stage == "sink" else KAFKA,
        )
        for order, stage in enumerate(STAGES, start=1)
    ]
    state = {"TWIN_STATE_DIR": str(run_dir.absolute() / "state")}
    connectors = [
        ProcessSpec(
            name=connector_id,
            argv=twin_command("connector", kind, "--id", connector_id),
            env=state,
            secrets=(*KAFKA, f"{kind.upper()}_PASSWORD"),
        )
        for kind, ids in (("mqtt", [m.id for m in plant.mqtt]), ("opcua", [o.id for o in plant.opcua]))
        for connector_id in ids
    ]
    return [*agents, *connectors]


def external_addresses(plant: Plant) -> dict[str, str]:
    """Addresses of services that are not ours to start: from the configuration, else from the environment."""
    found = {key: os.environ[key] for key in ADDRESS_KEYS if key in os.environ}
    if plant.kafka.bootstrap:
        found["KAFKA_BOOTSTRAP"] = plant.kafka.bootstrap
    if plant.influxdb.url:
        found |= {
            "INFLUX_URL": plant.influxdb.url,
            "INFLUX_ORG": plant.influxdb.organisation,
            "INFLUX_BUCKET": plant.influxdb.bucket_name,
            "INFLUX_TOKEN": plant.influxdb.token,
        }
    if plant.influxdb.tokens_dir:
        found["INFLUX_TOKENS_DIR"] = str(plant.influxdb.tokens_dir.absolute())
    if plant.mqtt and plant.mqtt[0].host:
        host, port = plant.mqtt[0].address
        found |= {"MQTT_HOST": host, "MQTT_PORT": str(port)}
    if plant.opcua:
        found["OPCUA_URL"] = plant.opcua[0].url or found.get("OPCUA_URL") or f"opc.tcp://127.0.0.1:{free_port()}"
    return found
