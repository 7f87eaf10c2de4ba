"""The three services together: started in parallel, with the environment other programs need to find them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from services import kafka as kafka_service
from services import mosquitto as mosquitto_service
from services.certificates import Issued
from services.influxdb import InfluxDB
from services.kafka import Kafka
from services.mosquitto import Mosquitto
from services.service import Service

READY_TIMEOUT_S = 90.0


@dataclass(frozen=True)
class Security:
    """How each of the three services is secured."""

    kafka: kafka_service.Security
    mosquitto: mosquitto_service.Security
    influxdb: Issued
    ca_file: Path


class Stack:
    """Real services in one folder: data under `directory`/<service>, logs under `directory`/logs.

    As a context manager it starts the wanted services, waits until they answer, and stops them at the end. Without
    `with`, `start("kafka")` starts what is asked for, once. With `security` all of them ask for passwords over TLS.
    """

    def __init__(
        self,
        directory: Path,
        kafka: bool = True,
        influxdb: bool = True,
        mosquitto: bool = True,
        ports: dict[str, int] | None = None,
        *,
        security: Security | None = None,
    ) -> None:
        wanted = {"kafka": kafka, "influxdb": influxdb, "mosquitto": mosquitto}
        self.wanted = [name for name, want in wanted.items() if want]
        fixed = ports or {}
        logs = directory / "logs"
        own = security
        self.kafka = Kafka(
            directory / "kafka", logs / "kafka.log", fixed.get("kafka"), security=None if own is None else own.kafka
        )
        self.influxdb = InfluxDB(
            directory / "influxdb",
            logs / "influxdb.log",
            fixed.get("influxdb"),
            tls=None if own is None else own.influxdb,
            ca_file=None if own is None else own.ca_file,
        )
        self.mosquitto = Mosquitto(
            directory / "mosquitto",
            logs / "mosquitto.log",
            fixed.get("mosquitto"),
            security=None if own is None else own.mosquitto,
        )
        self._started: list[Service] = []

    def start(self, *names: str) -> None:
        """Start the named services that do not run yet, in parallel, and wait until they answer.

        Raises ServiceError when one cannot be installed, started or reached; the others keep running until `stop`.
        """
        services = [self._service(name) for name in names]
        fresh = [service for service in services if service not in self._started]
        self._started += fresh
        with ThreadPoolExecutor(max_workers=3) as pool:
            list(pool.map(_start_and_wait, fresh))

    def stop(self) -> None:
        """Stop what was started, the last first. Never raises."""
        with ThreadPoolExecutor(max_workers=3) as pool:
            list(pool.map(lambda service: service.stop(), self._started))
        self._started.clear()

    @property
    def env(self) -> dict[str, str]:
        """The addresses and the token of the started services, under the names of `twin env`."""
        return {key: value for service in self._started for key, value in service.environment().items()}

    def __enter__(self) -> Stack:
        """Start the wanted services; stops all again when one fails."""
        try:
            self.start(*self.wanted)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop all services."""
        self.stop()

    def _service(self, name: str) -> Service:
        return {"kafka": self.kafka, "influxdb": self.influxdb, "mosquitto": self.mosquitto}[name]


def _start_and_wait(service: Service) -> None:
    service.start()
    service.wait_ready(READY_TIMEOUT_S)
