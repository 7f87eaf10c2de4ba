"""One Apache Kafka node (KRaft, broker and controller in one process) on loopback."""

from __future__ import annotations

import base64
import logging
import socket
import subprocess
import uuid
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from services.errors import ServiceError
from services.install import kafka_jars
from services.processes import free_port
from services.service import Service

HEAP_MIB = 512
MAX_MESSAGE_BYTES = 16_777_216
# The serial collector has no threads of its own. Both compiler tiers stay on: measured on two cores, C1 alone halves
# the CPU of the first 15 s (0.26 against 0.48 cores at 300 records/s) and costs 70 % more from then on (0.20, 0.12).
JVM_OPTIONS = (f"-Xmx{HEAP_MIB}m", "-Xms128m", "-XX:+UseSerialGC", "-Xshare:auto")
# Only for the short run that formats a data folder.
FORMAT_OPTIONS = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto")

_LOG4J = """\
status = error
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{ISO8601} %p %m (%c{1})%n
rootLogger.level = warn
rootLogger.appenderRef.console.ref = console
logger.server.name = kafka.server.KafkaRaftServer
logger.server.level = info
logger.groups.name = org.apache.kafka.coordinator.group
logger.groups.level = info
"""


class Kafka(Service):
    """A Kafka broker; `bootstrap` is its address. Topics are never created by using them."""

    name = "kafka"

    def __init__(
        self,
        directory: Path,
        log: Path,
        port: int | None = None,
        controller_port: int | None = None,
        extra_settings: dict[str, str] | None = None,
    ) -> None:
        super().__init__(directory, log, port)
        self.controller_port = controller_port or free_port()
        self.extra_settings = extra_settings or {}
        self._admin: AdminClient | None = None

    @property
    def bootstrap(self) -> str:
        """The address for clients, host:port."""
        return f"{self.host}:{self.port}"

    def environment(self) -> dict[str, str]:
        """Return KAFKA_BOOTSTRAP."""
        return {"KAFKA_BOOTSTRAP": self.bootstrap}

    def prepare(self) -> list[str]:
        """Write the settings, format a fresh data folder, and return the broker's command line."""
        settings = self.directory / "server.properties"
        settings.write_text("".join(f"{key}={value}\n" for key, value in self.settings().items()))
        (self.directory / "log4j2.properties").write_text(_LOG4J)
        self._format_if_fresh(settings)
        return [*self._java(*JVM_OPTIONS), "kafka.Kafka", str(settings)]

    def answers(self) -> bool:
        """Return whether the broker answers a metadata request with itself in it."""
        try:
            with socket.create_connection((self.host, self.port), timeout=0.5):
                pass
        except OSError:
            return False
        if self._admin is None:
            quiet = logging.getLogger("services.kafka")
            self._admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0}, logger=quiet)
        try:
            return bool(self._admin.list_topics(timeout=2.0).brokers)
        except KafkaException:
            return False

    def stop(self, timeout_s: float = 20.0) -> None:
        """Stop the broker; the client that asked for readiness goes first, it would only try to reconnect."""
        self._admin = None
        super().stop(timeout_s)

    def _java(self, *options: str) -> list[str]:
        log4j = f"-Dlog4j2.configurationFile={self.directory / 'log4j2.properties'}"
        return ["java", *options, log4j, "-cp", f"{kafka_jars()}/*"]

    def _format_if_fresh(self, settings: Path) -> None:
        if (self.directory / "data" / "meta.properties").exists():
            return
        cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        # An id that starts with a dash would be read as an option.
        command = [
            *self._java(*FORMAT_OPTIONS),
            "kafka.tools.StorageTool",
            "format",
            "-t",
            cluster_id.replace("-", "a"),
        ]
        done = subprocess.run(
            [*command, "-c", str(settings)], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
        )
        if done.returncode != 0:
            raise ServiceError(f"formatting Kafka's data folder failed:\n{done.stdout}{done.stderr}")

    def settings(self) -> dict[str, str]:
        """Return the broker's settings, as written to server.properties."""
        listeners = f"PLAINTEXT://{self.host}:{self.port}"
        return {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@{self.host}:{self.controller_port}",
            "listeners": f"{listeners},CONTROLLER://{self.host}:{self.controller_port}",
            "advertised.listeners": listeners,
            "controller.listener.names": "CONTROLLER",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "log.dirs": str(self.directory / "data"),
            "auto.create.topics.enable": "false",
            "message.max.bytes": str(MAX_MESSAGE_BYTES),
            "replica.fetch.max.bytes": str(MAX_MESSAGE_BYTES),
            "group.initial.rebalance.delay.ms": "0",
            # After kill -9 the controller refuses the broker until the old session has run out; by default (9 s) that
            # made a restart take 12 s. Much shorter, a busy machine's broker is fenced while it lives: seen at 2.5 s.
            "broker.session.timeout.ms": "5000",
            "broker.heartbeat.interval.ms": "1000",
            # One node: every internal topic has one replica, and few partitions, so that starts are fast.
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "4",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "transaction.state.log.num.partitions": "4",
            "share.coordinator.state.topic.replication.factor": "1",
            "share.coordinator.state.topic.min.isr": "1",
            "share.coordinator.state.topic.num.partitions": "1",
            # The cleaner's default buffer of 128 MB is a quarter of our heap.
            "log.cleaner.dedupe.buffer.size": "16777216",
            "num.network.threads": "2",
            "num.io.threads": "4",
            "num.recovery.threads.per.data.dir": "2",
            **self.extra_settings,
        }
