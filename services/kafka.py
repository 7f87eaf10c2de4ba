"""One Apache Kafka node (KRaft, broker and controller in one process) on loopback, open or secured."""

from __future__ import annotations

import base64
import logging
import os
import re
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from services.certificates import Authority, Issued
from services.errors import ServiceError
from services.install import kafka_classes, kafka_jars
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


ADMIN = "admin"
MECHANISM = "SCRAM-SHA-512"
#: The broker talks to its own controller with a certificate of an authority that nobody else has.
_INTERNAL = "internal"
_INTERNAL_DAYS = 3650.0


@dataclass(frozen=True)
class Security:
    """A secured broker: TLS with this certificate, SCRAM users, and nothing allowed that no ACL allows.

    `users` maps names to passwords. They are made with a fresh data folder, later ones through ADMIN, who may do
    everything and must be among them. Raises ServiceError for characters that Kafka's format tool cannot take.
    """

    server: Issued
    ca_file: Path
    users: Mapping[str, str] = field(repr=False)

    def __post_init__(self) -> None:
        if ADMIN not in self.users:
            raise ServiceError(f"a secured Kafka needs the user {ADMIN}")
        for text in (*self.users, *self.users.values()):
            if not re.fullmatch(r"[A-Za-z0-9._-]+", text):
                raise ServiceError("names and passwords of Kafka's users consist of letters, digits, '.', '_' and '-'")

    def client(self, user: str) -> dict[str, str]:
        """Settings of confluent-kafka for one of the users, without the address."""
        return {
            "security.protocol": "SASL_SSL",
            "sasl.mechanism": MECHANISM,
            "sasl.username": user,
            "sasl.password": self.users[user],
            "ssl.ca.location": str(self.ca_file),
        }


class Kafka(Service):
    """A Kafka broker; `bootstrap` is its address. Topics are never created by using them.

    With `security` it has no listener that lets anybody in without a password or certificate; without, everybody on
    this machine may do everything.
    """

    name = "kafka"

    def __init__(
        self,
        directory: Path,
        log: Path,
        port: int | None = None,
        controller_port: int | None = None,
        extra_settings: dict[str, str] | None = None,
        *,
        security: Security | None = None,
    ) -> None:
        super().__init__(directory, log, port)
        self.controller_port = controller_port or free_port()
        self.internal_port = free_port() if security is not None else None
        self.security = security
        self.extra_settings = extra_settings or {}
        self.jvm_options: tuple[str, ...] = JVM_OPTIONS
        self.with_kept_classes = True
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
        if self.security is not None:
            self._write_keystores(self.security)
        settings = self.directory / "server.properties"
        settings.write_text("".join(f"{key}={value}\n" for key, value in self.settings().items()))
        (self.directory / "log4j2.properties").write_text(_LOG4J)
        self._format_if_fresh(settings)
        return [*self._java(*self.jvm_options), "kafka.Kafka", str(settings)]

    def answers(self) -> bool:
        """Return whether the broker answers a metadata request with itself in it."""
        try:
            with socket.create_connection((self.host, self.port), timeout=0.5):
                pass
        except OSError:
            return False
        if self._admin is None:
            quiet = logging.getLogger("services.kafka")
            self._admin = AdminClient({**self.admin_settings(), "log_level": 0}, logger=quiet)
        try:
            return bool(self._admin.list_topics(timeout=2.0).brokers)
        except KafkaException:
            return False

    def admin_settings(self) -> dict[str, str]:
        """Settings of confluent-kafka for a client that may do everything."""
        own = {} if self.security is None else self.security.client(ADMIN)
        return {"bootstrap.servers": self.bootstrap, **own}

    def stop(self, timeout_s: float = 20.0) -> None:
        """Stop the broker; the client that asked for readiness goes first, it would only try to reconnect."""
        self._admin = None
        super().stop(timeout_s)

    def _java(self, *options: str) -> list[str]:
        log4j = f"-Dlog4j2.configurationFile={self.directory / 'log4j2.properties'}"
        kept = kafka_classes() if self.with_kept_classes else None
        classes = [f"-XX:SharedArchiveFile={kept}"] if kept else []
        crash = f"-XX:ErrorFile={self.directory / 'jvm-crash-%p.log'}"  # by default in whatever folder one works in
        return ["java", *options, *classes, crash, log4j, "-cp", f"{kafka_jars()}/*"]

    def _format_if_fresh(self, settings: Path) -> None:
        if (self.directory / "data" / "meta.properties").exists():
            return
        cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        # An id that starts with a dash would be read as an option.
        arguments = ["format", "-t", cluster_id.replace("-", "a"), "-c", str(settings)]
        users = {} if self.security is None else self.security.users
        for name, password in users.items():
            arguments += ["--add-scram", f"{MECHANISM}=[name={name},password={password}]"]
        # Through a file, because everybody on a machine can read the arguments of a process.
        with tempfile.NamedTemporaryFile("w", dir=self.directory, prefix=".format", suffix=".arguments") as file:
            file.write("\n".join(arguments) + "\n")
            file.flush()
            command = [*self._java(*FORMAT_OPTIONS), "kafka.tools.StorageTool", f"@{file.name}"]
            done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
        if done.returncode != 0:
            said = done.stdout + done.stderr
            for password in users.values():
                said = said.replace(password, "***")
            raise ServiceError(f"formatting Kafka's data folder failed:\n{said}")

    def _write_keystores(self, security: Security) -> None:
        """Kafka wants key and certificate in one file. Written at every start, so a renewed certificate is taken."""
        authority = Authority(self.directory / _INTERNAL)
        if not authority.certificate.exists():
            Authority.make(authority.directory, _INTERNAL_DAYS).server(_INTERNAL, [self.host], _INTERNAL_DAYS)
        internal = Issued(authority.directory / f"{_INTERNAL}.pem", authority.directory / f"{_INTERNAL}.key")
        for issued, path in ((security.server, self._keystore), (internal, self._internal_keystore)):
            path.unlink(missing_ok=True)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(issued.key.read_bytes() + issued.certificate.read_bytes())

    @property
    def _keystore(self) -> Path:
        return self.directory / "keystore.pem"

    @property
    def _internal_keystore(self) -> Path:
        return self.directory / "internal-keystore.pem"

    def _open_listeners(self) -> dict[str, str]:
        listeners = f"PLAINTEXT://{self.host}:{self.port}"
        return {
            "listeners": f"{listeners},CONTROLLER://{self.host}:{self.controller_port}",
            "advertised.listeners": listeners,
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        }

    def _secured_listeners(self) -> dict[str, str]:
        """CLIENTS with passwords; INTERNAL and CONTROLLER only for who has a certificate of the internal authority."""
        listeners = f"CLIENTS://{self.host}:{self.port},INTERNAL://{self.host}:{self.internal_port}"
        internal = {
            f"listener.name.{listener}.ssl.{key}": value
            for listener in ("internal", "controller")
            for key, value in {
                "keystore.type": "PEM",
                "keystore.location": str(self._internal_keystore),
                "truststore.type": "PEM",
                "truststore.location": str(self.directory / _INTERNAL / "ca.pem"),
                "client.auth": "required",
            }.items()
        }
        return {
            "listeners": f"{listeners},CONTROLLER://{self.host}:{self.controller_port}",
            "advertised.listeners": listeners,
            "inter.broker.listener.name": "INTERNAL",
            "listener.security.protocol.map": "CLIENTS:SASL_SSL,INTERNAL:SSL,CONTROLLER:SSL",
            "listener.name.clients.ssl.keystore.type": "PEM",
            "listener.name.clients.ssl.keystore.location": str(self._keystore),
            "listener.name.clients.sasl.enabled.mechanisms": MECHANISM,
            f"listener.name.clients.{MECHANISM.lower()}.sasl.jaas.config": (
                "org.apache.kafka.common.security.scram.ScramLoginModule required;"
            ),
            **internal,
            "ssl.enabled.protocols": "TLSv1.3,TLSv1.2",
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "allow.everyone.if.no.acl.found": "false",
            "super.users": f"User:{ADMIN};User:CN={_INTERNAL}",
        }

    def settings(self) -> dict[str, str]:
        """Return the broker's settings, as written to server.properties."""
        return {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@{self.host}:{self.controller_port}",
            "controller.listener.names": "CONTROLLER",
            **(self._open_listeners() if self.security is None else self._secured_listeners()),
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
            # 90 days, where the longest topic keeps 30. A group that is forgotten (after 7 by default) begins anew, and
            # then the sink cannot tell what expired unread.
            "offsets.retention.minutes": "129600",
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
