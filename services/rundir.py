"""The run folder of one system: where its plan, state, addresses, logs and service data are, and who may use it."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from services.errors import ServiceError
from services.influxdb import InfluxDB
from services.install import influxd_program, kafka_jars, mosquitto_program
from services.kafka import Kafka
from services.mosquitto import Mosquitto
from services.processes import port_is_free
from services.service import Service
from services.spec import SupervisorState, write_private

SURVIVOR_STOP_TIMEOUT_S = 15.0
# What an address of one's own must consist of, so that the service is not started.
EXTERNAL_KEYS = {
    "kafka": ("KAFKA_BOOTSTRAP",),
    "influxdb": ("INFLUX_URL", "INFLUX_ORG", "INFLUX_BUCKET", "INFLUX_TOKEN"),
    "mosquitto": ("MQTT_HOST", "MQTT_PORT"),
}
_INSTALL = {"kafka": kafka_jars, "influxdb": influxd_program, "mosquitto": mosquitto_program}


def own_services(external: Mapping[str, str]) -> list[str]:
    """Return the services to start, given the addresses of the user's own.

    Raises ServiceError where an address is incomplete, as a URL of InfluxDB without a token.
    """
    wanted = []
    for name, keys in EXTERNAL_KEYS.items():
        given = [key for key in keys if external.get(key)]
        if given and len(given) < len(keys):
            missing = ", ".join(key for key in keys if key not in given)
            raise ServiceError(f"an own {name} is given by {', '.join(given)}, but {missing} is missing")
        if not given:
            wanted.append(name)
    return wanted


def install_services(names: list[str]) -> None:
    """Fetch or build the named services where needed, with progress on standard error."""
    for name in names:
        _INSTALL[name]()


class RunDir:
    """Paths in a run folder and what is done with them."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.logs = self.path / "logs"
        self.plan_file = self.path / "plan.json"
        self.state_file = self.path / "supervisor.json"
        self.env_file = self.path / "env"

    def create(self) -> None:
        """Make the folder; looking at one that is not there makes none."""
        self.logs.mkdir(parents=True, exist_ok=True)

    def log(self, name: str) -> Path:
        """Return the log file of a process; names may contain spaces, file names should not."""
        return self.logs / f"{name.replace(' ', '-').replace('/', '-')}.log"

    def state(self) -> SupervisorState | None:
        """Return what the supervisor wrote last, None when there never was one."""
        return SupervisorState.read(self.state_file)

    def services(self, external: Mapping[str, str]) -> list[Service]:
        """Return the services to start, on the ports they had the last time where these are free."""
        known = self._ports()
        wanted: list[Service] = []
        for name in own_services(external):
            port = known.get(name)
            port = port if port and port_is_free(port) else None
            wanted.append(_make(name, self.path / name, self.log(name), port))
        write_private(self._ports_file, json.dumps({service.name: service.port for service in wanted}))
        return wanted

    def write_env(self, env: Mapping[str, str]) -> None:
        """Write the addresses for other programs as KEY=value lines."""
        write_private(self.env_file, "".join(f"{key}={value}\n" for key, value in env.items()))

    def read_env(self) -> dict[str, str]:
        """Return the addresses; raises ServiceError when the system was never up here."""
        try:
            lines = self.env_file.read_text().splitlines()
        except OSError as error:
            raise ServiceError(f"nothing was started in {self.path} yet") from error
        return dict(line.split("=", 1) for line in lines)

    def end_survivors(self) -> list[str]:
        """End processes that a killed supervisor left behind; returns their names. Never touches a reused pid."""
        state = self.state()
        if state is None:
            return []
        left = [
            (one.name, one.identity)
            for one in state.processes
            if one.identity is not None and one.identity.find() is not None
        ]
        for name, identity in left:
            print(f"ending {name} (pid {identity.pid}), left behind by an earlier supervisor", flush=True)
            identity.stop(SURVIVOR_STOP_TIMEOUT_S)
        return [name for name, _ in left]

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Be the only supervisor here; the lock ends with the process. Raises ServiceError when there is one."""
        with (self.path / "lock").open("w") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ServiceError(f"another supervisor runs in {self.path}") from error
            yield

    @property
    def _ports_file(self) -> Path:
        return self.path / "ports.json"

    def _ports(self) -> dict[str, int]:
        try:
            ports: dict[str, int] = json.loads(self._ports_file.read_text())
        except (OSError, ValueError):
            return {}
        return ports


def _make(name: str, directory: Path, log: Path, port: int | None) -> Service:
    if name == "kafka":
        return Kafka(directory, log, port)
    if name == "influxdb":
        return InfluxDB(directory, log, port)
    return Mosquitto(directory, log, port)
