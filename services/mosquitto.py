"""One mosquitto MQTT broker on loopback, set up to lose nothing that was sent with QoS 1."""

from __future__ import annotations

import base64
import hashlib
import os
import ssl
import threading
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt

from services.certificates import Issued
from services.install import mosquitto_program
from services.service import Service

AUTOSAVE_S = 5
MAX_PACKET_BYTES = 64 * 1024 * 1024


# What mosquitto_passwd takes. More would delay every connection, and our passwords are not to be guessed but random.
PASSWORD_ROUNDS = 101


@dataclass(frozen=True)
class Security:
    """A secured broker: TLS with this certificate, users with passwords, and what `acl_file` allows, nothing else."""

    server: Issued
    ca_file: Path
    acl_file: Path
    users: Mapping[str, str] = field(repr=False)


def password_line(user: str, password: str) -> str:
    """A line of mosquitto's password file: PBKDF2 with a fresh salt, as mosquitto_passwd makes it."""
    salt = os.urandom(12)
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, PASSWORD_ROUNDS)
    return f"{user}:$7${PASSWORD_ROUNDS}${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}\n"


@dataclass(frozen=True)
class Listener:
    """A further listener on loopback: TLS when it has a certificate, passwords when it has a password file."""

    port: int
    allow_anonymous: bool = False
    password_file: Path | None = None
    acl_file: Path | None = None
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    require_certificate: bool = False

    def lines(self) -> list[str]:
        """Return the listener's lines of mosquitto.conf."""
        files = {
            "password_file": self.password_file,
            "acl_file": self.acl_file,
            "cafile": self.ca_file,
            "certfile": self.cert_file,
            "keyfile": self.key_file,
        }
        return [
            f"listener {self.port} 127.0.0.1",
            f"allow_anonymous {_bool(self.allow_anonymous)}",
            *(f"{key} {path}" for key, path in files.items() if path is not None),
            *(["require_certificate true"] if self.require_certificate else []),
        ]


class Mosquitto(Service):
    """An MQTT broker; `host` and `port` are its address.

    With `security` it has no listener that lets anybody in without a password; without, anybody on this machine may
    connect to `port`.
    """

    name = "mosquitto"

    def __init__(
        self,
        directory: Path,
        log: Path,
        port: int | None = None,
        listeners: tuple[Listener, ...] = (),
        extra_settings: dict[str, str] | None = None,
        *,
        security: Security | None = None,
    ) -> None:
        super().__init__(directory, log, port)
        self.security = security
        self.listeners = listeners
        self.extra_settings = extra_settings or {}

    def environment(self) -> dict[str, str]:
        """Return MQTT_HOST and MQTT_PORT."""
        return {"MQTT_HOST": self.host, "MQTT_PORT": str(self.port)}

    def prepare(self) -> list[str]:
        """Write mosquitto.conf and the users, and return the broker's command line."""
        if self.security is not None:
            self.set_users(self.security.users)
        settings = self.directory / "mosquitto.conf"
        settings.write_text("\n".join([*self._global_lines(), *self._listener_lines()]) + "\n")
        return [str(mosquitto_program()), "-c", str(settings)]

    def set_users(self, users: Mapping[str, str]) -> None:
        """Write the password file; a running broker reads it at SIGHUP."""
        descriptor = os.open(self._password_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.writelines(password_line(user, password) for user, password in users.items())

    def answers(self) -> bool:
        """Return whether the broker answers a real MQTT connection, be it that it refuses who has no password."""
        accepted = threading.Event()
        client = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2, client_id=f"ready-{uuid.uuid4().hex[:8]}", protocol=mqtt.MQTTv5
        )

        def on_connect(_client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
            if not reason.is_failure or (self.security is not None and str(reason) == "Not authorized"):
                accepted.set()

        client.on_connect = on_connect
        if self.security is not None:
            client.tls_set_context(ssl.create_default_context(cafile=str(self.security.ca_file)))
        try:
            client.connect(self.host, self.port, keepalive=10)
        except OSError:
            return False
        client.loop_start()
        answered = accepted.wait(2.0)
        client.disconnect()
        client.loop_stop()
        return answered

    def settings(self) -> dict[str, str]:
        """Return the broker's global settings, as written to mosquitto.conf."""
        return {
            # Security settings per listener only when there are such: mosquitto then no longer inherits them.
            "per_listener_settings": _bool(bool(self.listeners)),
            "persistence": "true",
            "persistence_location": f"{self.directory}/",
            # Only a regular stop saves everything; after kill -9 what came since the last save is lost with it.
            "autosave_interval": str(AUTOSAVE_S),
            # 0 is "no limit": the receive maximum of the client decides how much is in flight, and beyond a queue
            # limit mosquitto drops QoS 1 messages without a word. While a connector is away, the broker is the buffer.
            "max_inflight_messages": "0",
            "max_queued_messages": "0",
            "queue_qos0_messages": "true",
            "max_packet_size": str(MAX_PACKET_BYTES),
            "set_tcp_nodelay": "true",
            "log_dest": "stdout",
            "connection_messages": "true",
            **self.extra_settings,
        }

    @property
    def _password_file(self) -> Path:
        return self.directory / "passwords"

    def _global_lines(self) -> list[str]:
        # As root, mosquitto would change to a user that may not write to our data folder.
        user = ["user root"] if os.geteuid() == 0 else []
        types = [f"log_type {kind}" for kind in ("error", "warning", "notice")]
        stamps = ["log_timestamp true", "log_timestamp_format %Y-%m-%dT%H:%M:%S"]
        return [*(f"{key} {value}" for key, value in self.settings().items()), *user, *types, *stamps]

    def _listener_lines(self) -> list[str]:
        own = Listener(self.port, allow_anonymous=True)
        if self.security is not None:
            server = self.security.server
            own = Listener(
                self.port,
                password_file=self._password_file,
                acl_file=self.security.acl_file,
                cert_file=server.certificate,
                key_file=server.key,
            )
        return [line for listener in (own, *self.listeners) for line in listener.lines()]


def _bool(value: bool) -> str:
    return "true" if value else "false"
